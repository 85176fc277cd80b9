"""Whether edge-ser works here, and what stands in its way: ``edge-ser doctor``.

Every engine and provider really answers, in a process of its own: one that dies of an illegal instruction takes nothing along.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from edge_ser._version import __version__
from edge_ser.diagnose.benchmark.table import condition_lines, machine_lines
from edge_ser.diagnose.machine import ROOT, Condition, Machine, installed_version, read_condition, read_machine
from edge_ser.engines import ENGINE_PACKAGES, shipped_backend
from edge_ser.engines.providers import ONNX_PROVIDERS
from edge_ser.processes import death
from edge_ser.terminal import keyed

FORMAT = "edge-ser-doctor"
FORMAT_VERSION = 1

_CLEARLY = 0.8  # of another engine's time: ten answers in a process of their own tell no less
_TIMEOUT_S = 180  # TensorRT builds its engines on the first run
_KEY_WIDTH = 18
_NEVER_RAN = {
    "win32": "Windows and was never run there before its release, but for its C library under Wine",
    "darwin": "macOS and was never run there before its release",
}
"""Systems that wheels are built for and edge-ser has not run on, by sys.platform."""


@dataclass(frozen=True)
class EngineCheck:
    """What came of one engine on one provider."""

    backend: str
    provider: str
    package: str | None
    """The engine's package and version; None: not installed."""
    works: bool
    reason: str
    """Why not; empty where it works."""
    label: str | None = None
    """What it answered about three seconds of speech-like sound."""
    same_label: bool | None = None
    """Whether that is the label ONNX Runtime gives on the CPU."""
    logit_error: float | None = None
    """Largest difference between its logits and those."""
    median_ms: float | None = None
    """Median of ten answers."""
    nodes: dict[str, int] | None = None
    """How many of the graph's nodes ran where, as ONNX Runtime tells."""
    xnnpack: bool | None = None
    """Whether LiteRT says that it made an XNNPACK delegate, whose kernels are twice as fast as its own."""
    kernel: str = ""
    """The C library's kernels that answered."""


@dataclass(frozen=True)
class Jetson:
    """What /etc/nv_tegra_release says."""

    l4t: str
    """Release of Jetson Linux, such as ``36.4.3``."""
    jetpack: int | None
    """Major version of the JetPack that it belongs to."""
    advice: str
    """The ONNX Runtime to get for its GPU."""


@dataclass(frozen=True)
class Diagnosis:
    """All findings."""

    edge_ser: str
    machine: Machine
    condition: Condition
    jetson: Jetson | None
    engines: tuple[EngineCheck, ...]
    auto: str
    """The engine that ``auto`` takes for the model that ships, on one thread."""
    microphone: str
    extras: dict[str, list[str]]
    """Every extra and what of it is missing: packages, or a library that one of them needs."""
    problems: tuple[str, ...]
    """What should be mended, worst first."""

    @property
    def healthy(self) -> bool:
        """Whether the engine that ``auto`` takes and every one that is installed answer, and all of them alike."""
        return not list(_engine_problems(self.engines, self.auto))

    def to_json(self) -> str:
        """Return the findings as JSON."""
        table = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False)


def diagnose(root: Path = ROOT) -> Diagnosis:
    """Look at everything; what does not work is a finding, never an error."""
    machine, condition, jetson = read_machine(root), read_condition(root), read_jetson(root)
    engines = tuple(check_engines())
    auto = shipped_backend()
    problems = (*_engine_problems(engines, auto), *faster_engines(engines, auto), *known_problems(machine, condition, jetson))
    microphone, useless = _microphone()
    return Diagnosis(__version__, machine, condition, jetson, engines, auto, microphone, missing_extras(useless), problems)


_ANSWER = """
import json, sys, time, warnings
from collections import Counter
import numpy as np
from edge_ser import EmotionRecognizer
from edge_ser.diagnose.benchmark.clips import RATE_HZ, speech_like
from edge_ser.frontend.features import extract
_, backend, provider, folder = sys.argv
speech = speech_like(3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", RuntimeWarning)
    recognizer = EmotionRecognizer(backend=backend, provider=provider)
if recognizer.provider != provider:
    print(json.dumps({"reason": str(caught[-1].message)}))
    sys.exit()
times = []
for _ in range(11):
    start = time.perf_counter()
    answer = recognizer.predict((speech, RATE_HZ))
    times.append(1000 * (time.perf_counter() - start))
nodes = {}
if backend == "onnx":
    import onnxruntime as ort
    from edge_ser.engines.providers import ONNX_PROVIDERS
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling, options.profile_file_prefix = True, folder + "/profile"
    session = ort.InferenceSession(str(recognizer.path), options, providers=[*ONNX_PROVIDERS[provider], "CPUExecutionProvider"])
    features = extract(speech.astype(np.float32) / 32768)
    empty = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(uint8)": np.uint8}
    feed = {i.name: np.zeros([d if type(d) is int else 0 for d in i.shape], empty[i.type]) for i in session.get_inputs()}
    session.run(["logits"], feed | {"features": features[None]})
    with open(session.end_profiling()) as file:
        events = [event["args"] for event in json.load(file) if event.get("cat") == "Node" and "provider" in event["args"]]
    ran = {event["node_index"]: event["provider"].removesuffix("ExecutionProvider") for event in events}
    nodes = Counter(ran.values())
print(json.dumps({
    "label": answer.label, "logits": answer.logits.tolist(), "median_ms": sorted(times[1:])[5], "nodes": nodes or None,
    "kernel": recognizer._backend.kernel,
}))
"""

_LISTEN = """
import json
from edge_ser.live.capture import _sounddevice
sounddevice = _sounddevice()
device = sounddevice.query_devices(kind="input")
try:
    sounddevice.check_input_settings(channels=1, samplerate=16000)
    rate = "16 kHz"
except sounddevice.PortAudioError:
    rate = f"{device['default_samplerate'] / 1000:g} kHz, not 16"
names = [d["name"] for d in sounddevice.query_devices() if d["max_input_channels"] > 0]
print(json.dumps([device["name"], rate, len(names), sounddevice.__version__]))
"""


def check_engines() -> Iterator[EngineCheck]:
    """Answer with every engine on every provider it may have, ONNX Runtime's CPU first."""
    reference: list[float] | None = None
    for backend, provider in [*(("onnx", name) for name in ONNX_PROVIDERS), ("tflite", "cpu"), ("native", "cpu")]:
        package = next((f"{name} {v}" for name in ENGINE_PACKAGES[backend] if (v := installed_version(name))), None)
        with tempfile.TemporaryDirectory() as folder:
            found, reason, log = _in_child(_ANSWER, backend, provider, folder)
        if found is not None and "reason" in found:
            reason = found["reason"].removeprefix(f"provider {provider}: ").removesuffix("; answering on the CPU")
            found = None
        if found is None:
            yield EngineCheck(backend, provider, package, False, reason)
            continue
        logits = found["logits"]
        reference = reference or logits
        yield EngineCheck(
            *(backend, provider, package, True, ""),
            label=found["label"],
            same_label=logits.index(max(logits)) == reference.index(max(reference)),
            logit_error=max(abs(a - b) for a, b in zip(logits, reference, strict=True)),
            median_ms=found["median_ms"],
            nodes=found["nodes"],
            xnnpack="XNNPACK delegate" in log if backend == "tflite" else None,
            kernel=found["kernel"],
        )


def _in_child(code: str, *arguments: str) -> tuple[Any, str, str]:
    """Run ``code`` in a fresh process; return the JSON that it prints, or None and what became of it, and its standard error."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {_TIMEOUT_S} s", ""
    if (cause := death(done.returncode)) is not None:
        return None, f"the process died of {cause}", done.stderr
    if done.returncode > 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return None, re.sub(r"^edge_ser\.errors\.\w+: ", "", last), done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1]), "", done.stderr


def _microphone() -> tuple[str, dict[str, str]]:
    """Return what is there to hear with, on one line, and what sounddevice lacks where it is installed and cannot be imported."""
    if installed_version("sounddevice") is None:
        return "not looked for: sounddevice is missing; install it with: pip install 'edge-ser[mic]'", {}
    found, reason, _ = _in_child(_LISTEN)
    if found is None:
        lacks = re.search(r"needs PortAudio.*install it with: ([^,]+)", reason)
        return f"none: {reason}", {} if lacks is None else {"sounddevice": f"PortAudio ({lacks[1]})"}
    name, rate, count, version = found
    return f"{name} ({rate}), one of {count} inputs; sounddevice {version}", {}


def read_jetson(root: Path = ROOT) -> Jetson | None:
    """Return what Jetson Linux below ``root`` says of itself, and what to do for its GPU; None elsewhere."""
    try:
        text = (root / "etc/nv_tegra_release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    if found is None:
        return Jetson("not told", None, "see NVIDIA's list of ONNX Runtime wheels for this Jetson")
    # JetPack's major version, the Python it ships and CUDA's major version.
    known = {"32": (4, "3.6", 10), "35": (5, "3.8", 11), "36": (6, "3.10", 12), "38": (7, "3.12", 13)}
    l4t = f"{found[1]}.{found[2]}"
    if found[1] not in known:
        return Jetson(l4t, None, "see NVIDIA's list of ONNX Runtime wheels for this Jetson Linux")
    jetpack, python, cuda = known[found[1]]
    tag = f"cp{python.replace('.', '')}"
    if python in ("3.6", "3.8"):
        advice = (
            f"JetPack {jetpack} has Python {python}: with the 3.10 that edge-ser needs, its GPU wheels do not fit; use the CPU"
        )
    else:
        advice = (
            f"for the GPU, NVIDIA's Jetson wheel onnxruntime_gpu-*-{tag}-{tag}-linux_aarch64.whl built for JetPack {jetpack} and "
            f"CUDA {cuda}, in Python {python} and in place of onnxruntime (pip's own has no GPU here)"
        )
    return Jetson(l4t, jetpack, advice)


def missing_extras(useless: Mapping[str, str], package: str = "edge-ser") -> dict[str, list[str]]:
    """Return every extra that the package announces, and which packages of it are not installed; {} where nothing tells.

    ``useless`` names what packages lack that are installed and cannot be used.
    """
    from packaging.requirements import Requirement

    try:
        told = metadata(package)
    except PackageNotFoundError:
        return {}
    announced = [Requirement(line) for line in told.get_all("Requires-Dist") or []]

    def missing(extra: str) -> Iterator[str]:
        for wanted in announced:
            if wanted.marker is not None and wanted.marker.evaluate({"extra": extra}):
                if wanted.name == package:
                    for other in sorted(wanted.extras):
                        yield from missing(other)
                elif installed_version(wanted.name) is None:
                    yield wanted.name
                elif wanted.name in useless:
                    yield useless[wanted.name]

    return {extra: list(dict.fromkeys(missing(extra))) for extra in told.get_all("Provides-Extra") or []}


def _engine_problems(engines: tuple[EngineCheck, ...], auto: str) -> Iterator[str]:
    native = any(e.backend == "native" and e.works for e in engines)
    for e in sorted(engines, key=lambda e: e.backend != auto):
        if (e.backend, e.provider, e.works) == (auto, "cpu", False):
            others = [other.backend for other in engines if other.works and other.provider == "cpu"]
            mend = f"; until that is mended, use --backend {others[0]}" if others else ""
            yield f"{auto}, which auto takes, does not answer: {e.reason}{mend}"
        elif (e.backend, e.provider) == ("onnx", "cpu") and not e.works and (e.package or not native):
            yield f"ONNX Runtime does not answer: {e.reason}"
        elif e.works and not e.same_label:
            yield f"{e.backend} on {e.provider} answers {e.label} where ONNX Runtime on the CPU does not; do not use it here"
        elif e.backend == "tflite" and e.package and not e.works:
            yield f"{e.package} does not answer: {e.reason}"


def faster_engines(engines: tuple[EngineCheck, ...], auto: str) -> Iterator[str]:
    """Yield which engines answered clearly sooner on the CPU than the one that ``auto`` takes."""
    ms = {e.backend: e.median_ms for e in engines if e.works and e.same_label and e.provider == "cpu" and e.median_ms is not None}
    for name, median_ms in ms.items():
        if auto in ms and median_ms < _CLEARLY * ms[auto]:
            yield (
                f"{name} answered in {median_ms:.1f} ms, {auto}, which auto takes, in {ms[auto]:.1f} ms: use --backend {name} "
                "here, and report this screen"
            )


def known_problems(machine: Machine, condition: Condition, jetson: Jetson | None) -> Iterator[str]:
    """Yield what is known to go wrong with what is installed, and what slows the machine down, and how to mend it."""
    installed = machine.packages
    if installed.get("onnxruntime") == "1.21.0" and machine.architecture in ("aarch64", "arm64"):
        yield "onnxruntime 1.21.0 stops with an illegal instruction on a Raspberry Pi 4; install another version"
    if installed.get("onnxruntime") and installed.get("onnxruntime-gpu"):
        yield "onnxruntime and onnxruntime-gpu overwrite each other's files; uninstall both and install one"
    if installed.get("tflite-runtime") and (installed.get("numpy") or "").partition(".")[0] not in ("", "0", "1"):
        yield "tflite-runtime breaks with numpy 2; install ai-edge-litert in its place: pip install 'edge-ser[tflite]'"
    if machine.architecture.startswith("armv") or machine.architecture == "arm":
        yield (
            "32-bit Arm: onnxruntime and ai-edge-litert have no wheels for it; the C library answers, numpy and scipy come from "
            "the system (apt install python3-numpy python3-scipy)"
        )
    if sys.platform in _NEVER_RAN:
        yield (
            f"edge-ser is built for {_NEVER_RAN[sys.platform]}: hold this screen against your answers, and report what is wrong"
        )
    for name in condition.throttling or ():
        mend = "; use the board's own power supply" if "voltage" in name or "current" in name else "; cool it"
        yield f"the machine is slowed down: {name}{mend}"
    if condition.governor == "powersave" and (condition.max_frequency_mhz or 0) > (condition.frequency_mhz or 0):
        yield "the frequency governor is powersave; with performance answers come faster"
    if condition.load is not None and condition.load > machine.cores:
        yield f"the machine is busy: {condition.load:g} processes want its {machine.cores} cores"
    if jetson is not None and jetson.jetpack is not None and installed.get("onnxruntime-gpu") is None:
        yield f"the GPU of this Jetson is not used: {jetson.advice}"


def format_diagnosis(found: Diagnosis) -> str:
    """Return the findings as one screen of text, to be pasted into a bug report."""
    rows = [("edge-ser", found.edge_ser)]
    rows += zip(("machine", "system", "packages"), machine_lines(found.machine), strict=True)
    rows += zip(("condition", ""), condition_lines(found.condition, found.condition), strict=True)
    if found.jetson is not None:
        jetpack = "JetPack not known" if found.jetson.jetpack is None else f"JetPack {found.jetson.jetpack}"
        rows += [("Jetson", f"{jetpack}, Jetson Linux {found.jetson.l4t}"), ("", found.jetson.advice)]
    rows += [(f"{e.backend}, {e.provider}", _engine_line(e)) for e in found.engines]
    rows.append(("auto", f"takes {found.auto} for the model that ships, on one thread"))
    rows.append(("microphone", found.microphone))
    extras = [f"{name}: {'lacks ' + ', '.join(lacks) if lacks else 'complete'}" for name, lacks in found.extras.items()]
    rows.append(("extras", "; ".join(extras) or "not told"))
    rows += [(f"problem {n}", text) for n, text in enumerate(found.problems, 1)] or [("problems", "none found")]
    return "\n".join(keyed(rows, _KEY_WIDTH))


def _engine_line(e: EngineCheck) -> str:
    if not e.works:
        return f"not here: {e.reason}" if e.package is None or e.provider != "cpu" else f"BROKEN: {e.reason}"
    agreement = "same label" if e.same_label else "ANOTHER LABEL"
    nodes = "" if e.nodes is None else "; nodes: " + ", ".join(f"{n} on {where}" for where, n in e.nodes.items())
    xnnpack = "" if e.xnnpack is None else "; with XNNPACK" if e.xnnpack else "; without XNNPACK"
    package = f"{e.package} ({e.kernel})" if e.kernel else e.package
    return f"works: {package}, {e.median_ms:.1f} ms for 3 s; {agreement}, logits within {e.logit_error:.2g}{nodes}{xnnpack}"
