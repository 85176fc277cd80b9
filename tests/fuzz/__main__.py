"""Open damaged and hostile model files whose seals are right, and predict with them.

    python -m tests.fuzz --count 1000 --seconds 60 --seed 0 [--format onnx] [--keep FOLDER]

Of every format, half float32 and half int8: bytes, numbers, structure and manifest are changed at random and the file is sealed
again, as an attacker would. One process opens them one after another; whatever it does but answer in finite numbers or raise an
EdgeSerError is a finding: another exception, a crash, more than TIMEOUT_S, more than MEMORY_MB, output of an engine. A finding is
printed with its number, which with the seed makes the same file again.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_ser.model.manifest import Manifest, shipped_model_path
from edge_ser.model.onnx_file import read_onnx
from edge_ser.model.tflite_file import seal_tflite
from tests.fuzz.mutations import mutated_eser
from tests.fuzz.onnx_mutations import mutated_onnx
from tests.fuzz.tflite_mutations import mutated_tflite

FORMATS = ("onnx", "tflite", "eser")
TIMEOUT_S, MEMORY_MB = 20.0, 400
_ALLOWED = "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."


def float_models() -> dict[str, bytes]:
    """Return the files of a network with random weights in float32."""
    import torch

    from edge_ser_export.onnx_graph import build_graph, graph_sha256, serialise
    from edge_ser_export.tflite_graph import build_tflite
    from edge_ser_train.method.config import ModelConfig
    from edge_ser_train.method.model import EmotionNet

    torch.manual_seed(0)
    net = EmotionNet(128, 4, ModelConfig()).eval()
    manifest = Manifest.from_json(read_onnx(shipped_model_path().read_bytes()).manifest)
    manifest = replace(manifest, quantization={**manifest.quantization, "scheme": "float32"})
    graph = build_graph(net)
    return {
        "onnx": serialise(graph, replace(manifest, graph_sha256=graph_sha256(graph))),
        "tflite": seal_tflite(build_tflite(net), manifest.to_json()),
    }


MUTATIONS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "onnx": mutated_onnx,
    "tflite": mutated_tflite,
    "eser": mutated_eser,
}


def mutant(form: str, seed: int, number: int, bases: list[bytes]) -> bytes:
    """Return a changed file, the same for the same arguments."""
    rng = random.Random(f"{seed} {form} {number}")
    return MUTATIONS[form](rng, bases[number % len(bases)])


def bases_of(form: str) -> list[bytes]:
    """Return the files that are changed: the one that ships, and a float32 one."""
    shipped = shipped_model_path(f".{form}").read_bytes()
    return [shipped] if form == "eser" else [shipped, float_models()[form]]


def opened(path: Path) -> str:
    """Print the card of a model file, predict and stream with it; return what came of it."""
    from edge_ser import EmotionRecognizer
    from edge_ser.commands.info import _card
    from edge_ser.errors import EdgeSerError
    from edge_ser.model.manifest import read_model_file

    samples = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    try:
        _ = [text.encode() for _, text in _card(read_model_file(path))]
        recognizer = EmotionRecognizer(path)
        with recognizer.stream(16000) as stream:
            stream.feed(samples)
            streamed = stream.finish()
        for prediction in (recognizer.predict((samples, 16000)), streamed):
            json.dumps(prediction.record(), allow_nan=False)
            if not (np.isfinite(prediction.embedding).all() and np.isfinite(prediction.logits).all()):
                return "NOT FINITE"
    except EdgeSerError as error:
        return "SEVERAL LINES" if "\n" in str(error) else type(error).__name__
    return "answered"


def work(form: str, seed: int, first: int, count: int, folder: Path) -> None:
    """Open mutants and report each on what was standard output: ``number`` before, ``number outcome`` after."""
    bases = bases_of(form)
    path, output = folder / f"mutant.{form}", folder / "output"
    path.write_bytes(bases[0])
    report = os.fdopen(os.dup(1), "w", buffering=1)
    screen = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(screen, 1)
    os.dup2(screen, 2)
    assert opened(path) == "answered"
    os.ftruncate(screen, 0)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    for number in range(first, first + count):
        path.write_bytes(mutant(form, seed, number, bases))
        print(number, file=report)
        try:
            outcome = opened(path)
        except BaseException as error:
            outcome = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".upper()
        sys.stdout.flush()
        sys.stderr.flush()
        said = output.read_text(errors="replace").replace(_ALLOWED, "").strip()
        os.ftruncate(screen, 0)
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
        if said:
            outcome = f"PRINTED {' '.join(said.split())[:200]} AND {outcome}"
        elif more > MEMORY_MB << 10:
            outcome, used = f"TOOK {more >> 10} MB AND {outcome}", used + more
        print(number, outcome, file=report)


def run(form: str, seed: int, first: int, count: int, seconds: float, keep: Path | None) -> list[str]:
    """Open ``count`` mutants, or as many as the seconds allow; return the findings."""
    outcomes: collections.Counter[str] = collections.Counter()
    findings: list[str] = []
    end, number = float("inf"), first  # the time runs once the first file is opened: importing may take long
    while number < first + count and time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--format", form, "--seed", str(seed), "--first", str(number), "--count", str(first + count - number)]
            command = [sys.executable, "-m", "tests.fuzz", *arguments, "--worker", folder]
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)  # select knows of no buffer
            assert worker.stdout is not None
            started, wait = -1, 120.0  # until it has imported all
            while time.monotonic() < end:
                ready, _, _ = select.select([worker.stdout], [], [], wait)
                line = worker.stdout.readline().decode().split(maxsplit=1) if ready else []
                wait = TIMEOUT_S
                if len(line) == 1:
                    started = int(line[0])
                    end = min(end, time.monotonic() + seconds)
                    continue
                outcome = line[1].strip() if line else ""
                if not line:
                    worker.kill() if not ready else None
                    code = worker.wait()
                    if started < number:
                        break
                    outcome = f"CRASHED with {code}" if ready else f"HUNG for {TIMEOUT_S:.0f} s"
                outcomes[outcome.split(":")[0]] += 1
                if outcome.split(" ")[0].isupper():
                    findings.append(f"{form} {number}: {outcome}")
                    print(f"FINDING {findings[-1]}", flush=True)
                    if keep is not None:
                        (keep / f"{number}.{form}").write_bytes((Path(folder) / f"mutant.{form}").read_bytes())
                number += 1
                if not line:
                    break
            worker.kill()
            worker.wait()
            if started < 0:
                sys.exit(f"the worker for {form} did not start")
    print(f"{form}: {number - first} files, {dict(outcomes.most_common())}, {len(findings)} findings", flush=True)
    return findings


def main() -> None:
    """Run the formats one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=FORMATS, action="append")
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=60, help="for all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--keep", type=Path, help="a folder for the files that were findings")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    forms = given.format or FORMATS
    if given.worker:
        work(forms[0], given.seed, given.first, given.count, given.worker)
        return
    findings = [
        f for form in forms for f in run(form, given.seed, given.first, given.count, given.seconds / len(forms), given.keep)
    ]
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
