"""From a training run to a verified model file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edge_ser import __version__
from edge_ser.backends import Backend, open_backend
from edge_ser.errors import ExportError, RunError
from edge_ser.features import ENCODER_FRAMES, ENCODER_STRIDE
from edge_ser.model_file import Manifest, read_model_file
from edge_ser_export.onnx_graph import build_graph, encoder_size, graph_sha256, serialise
from edge_ser_train.corpora import KNOWN_CORPORA, CorpusFacts
from edge_ser_train.loop import infer
from edge_ser_train.model import EMBEDDING_SIZE
from edge_ser_train.run import REPORT, TrainedModel, load_run, read_json

LOGIT_TOLERANCE = 1e-4
"""Largest difference of a logit between torch and the exported file."""

INTENDED_USE = "voice assistants and devices that react to how speech sounds"
EXCLUDED_USE = (
    "judging what a person feels: it infers how speech sounds; emotion inference at work and in education, "
    "which the EU AI Act, Art. 5(1)(f), prohibits"
)

_VERIFIED_FRAMES = (49, 50, 64, 65, 300, 1001, 1400)


@dataclass(frozen=True)
class Verification:
    """How far the exported file is from the network it was made of."""

    n_inputs: int
    max_logit_error: float
    max_embedding_error: float
    max_streaming_error: float
    """Largest difference of a logit between one run over everything and a run in parts."""


def export_onnx(run: Path, output: Path, say: Callable[[str], None]) -> Verification:
    """Write the run's best weights as a verified ONNX model file at ``output``, atomically.

    Raises RunError when the run cannot be used, ExportError when the file cannot be written or does not answer as the network
    does; then nothing is left behind.
    """
    if output.suffix != ".onnx":
        raise ExportError(f"output is {output}; expected a name ending in .onnx")
    trained = load_run(run)
    if not (run / REPORT).is_file():
        raise RunError(f"{run} is not finished and has no temperature and centres yet; run edge-ser train --out {run} --resume")
    say(f"loaded {run}: step {trained.step}, labels {', '.join(trained.labels)}")
    import onnx

    graph = build_graph(trained.net)
    manifest = Manifest(
        front_end=trained.front_end,
        labels=trained.labels,
        encoder_size=encoder_size(trained.net),
        embedding_size=EMBEDDING_SIZE,
        temperature=trained.temperature,
        centres=tuple(_rounded(row) for row in trained.centres),
        novelty_distance=round(trained.novelty_distance, 6),
        speech_mean=_rounded(trained.speech_mean),
        speech_std=_rounded(trained.speech_std),
        quantization={"scheme": "float32", "weights_int8_percent": 0.0, "macs_int8_percent": 0.0},
        training=_training(trained),
        scores=tuple(_scores(run, trained)),
        intended_use=INTENDED_USE,
        excluded_use=EXCLUDED_USE,
        created_with={"edge_ser": __version__, "torch": torch.__version__, "onnx": onnx.__version__},
        graph_sha256=graph_sha256(graph),
    )
    partial = output.with_name(f".{output.stem}.{os.getpid()}.tmp.onnx")
    try:
        partial.write_bytes(serialise(graph, manifest))
        say("wrote the graph, verifying it against the network")
        verification = verify(trained, partial)
        os.replace(partial, output)
    except OSError as error:
        raise ExportError(f"cannot write {output}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return verification


def verify(trained: TrainedModel, path: Path) -> Verification:
    """Compare a model file with the network at several lengths, whole and in parts; ExportError beyond the tolerance."""
    backend = open_backend(read_model_file(path), "auto", threads=1, spinning=False)
    mean, std = trained.net.feature_mean.numpy(), trained.net.feature_std.numpy()
    rng = np.random.default_rng(0)
    inputs = [(mean + std * rng.standard_normal((n, trained.net.n_bins))).astype(np.float32) for n in _VERIFIED_FRAMES]
    # One at a time: batched matrix products round differently.
    expected = [infer(trained.net, [x]) for x in inputs]
    whole = [backend.run(x) for x in inputs]
    streamed = [run_in_parts(backend, x, rng) for x in inputs]
    result = Verification(
        n_inputs=len(inputs),
        max_logit_error=max(float(np.abs(a.logits - e[0]).max()) for a, e in zip(whole, expected, strict=True)),
        max_embedding_error=max(float(np.abs(a.embedding - e[1]).max()) for a, e in zip(whole, expected, strict=True)),
        max_streaming_error=max(float(np.abs(a.logits - s).max()) for a, s in zip(whole, streamed, strict=True)),
    )
    if not max(result.max_logit_error, result.max_streaming_error) <= LOGIT_TOLERANCE:
        raise ExportError(
            f"the exported file differs from the network: logits by {result.max_logit_error:.2g}, in parts by "
            f"{result.max_streaming_error:.2g}; expected at most {LOGIT_TOLERANCE:g}; nothing was written"
        )
    return result


def run_in_parts(backend: Backend, features: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return the logits of features [T, n_bins] fed as a stream does: 49 + 16k frames at a time, keeping ``encoded``."""
    past: npt.NDArray[np.float32] | None = None
    start = 0
    while True:
        n = ENCODER_FRAMES + ENCODER_STRIDE * int(rng.integers(0, 8))
        if start + n > len(features):
            n = len(features) - start - (len(features) - start - ENCODER_FRAMES) % ENCODER_STRIDE
        answer = backend.run(features[start : start + n], past)
        past = answer.encoded
        start += n - ENCODER_FRAMES + ENCODER_STRIDE
        if len(features) - start < ENCODER_FRAMES:
            return answer.logits


def _rounded(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(float(v), 6) for v in values)


def _training(trained: TrainedModel) -> dict[str, Any]:
    data = trained.data
    corpora: list[dict[str, Any]] = []
    speech: set[str] = set()
    for name in data["corpora"]:
        facts = KNOWN_CORPORA.get(name, CorpusFacts())
        speech.add(facts.speech)
        n_clips = data["train"]["per_corpus"].get(name, 0)
        corpora.append({"name": name, "licence": facts.licence, "citation": facts.citation, "train_clips": n_clips})
    return {
        "preset": trained.config.preset,
        "corpora": corpora,
        "train_clips": data["train"]["clips"],
        "train_speakers": data["train"]["speakers"],
        "dev_clips": data["dev"]["clips"],
        "dev_speakers": data["dev"]["speakers"],
        "seed": trained.config.seed,
        "steps": trained.config.optimizer.max_steps,
        "best_step": trained.step,
        "lambda_center": trained.config.loss.lambda_center,
        "alpha": trained.config.loss.alpha,
        "weights_sha256": trained.weights_sha256,
        "speech": "; ".join(sorted(speech)),
    }


def _scores(run: Path, trained: TrainedModel) -> list[dict[str, Any]]:
    """Return what ``edge-ser evaluate`` measured on these very weights."""
    scores = []
    for path in sorted(run.glob("evaluation-*.json")):
        try:
            evaluation = read_json(path)
        except RunError as error:
            raise ExportError(f"{error}; delete it or run edge-ser evaluate again") from None
        if evaluation.get("weights_sha256") == trained.weights_sha256:
            keep = (
                "corpus",
                "split",
                "protocol",
                "n_clips",
                "n_speakers",
                "ua",
                "ua_95",
                "wa",
                "wa_95",
                "macro_f1",
                "macro_f1_95",
                "ece",
                "by_gender",
            )
            scores.append({key: evaluation[key] for key in keep if key in evaluation})
    return scores
