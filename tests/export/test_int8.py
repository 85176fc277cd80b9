from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import pytest
import soundfile
import torch

from edge_ser import EmotionRecognizer
from edge_ser.arrays import Float32Array
from edge_ser.engines import open_backend
from edge_ser.errors import BackendError, ExportError, ModelFileError
from edge_ser.model.manifest import read_model_file
from edge_ser_export import exporter
from edge_ser_export.material import _recordings
from edge_ser_export.quantize import CONV_LIMIT, activation_ranges, coverage, percent, quantize
from edge_ser_export.report import FileReport
from edge_ser_export.verification import agree, run_in_parts
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.method.dataset import clip_features
from edge_ser_train.method.inference import infer
from edge_ser_train.method.weights import load_run
from tests.conftest import ROOT
from tests.exporting import export_run
from tests.training import edge_ser

FORMATS = ("onnx", "tflite")
Exported: TypeAlias = "tuple[dict[str, Path], list[FileReport]]"


@pytest.fixture(scope="module")
def exported(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("int8")
    outputs = {name: folder / f"m.{name}" for name in FORMATS}
    return outputs, export_run(learnt, outputs, int8=True, report=folder / "report.json")


def sample(data_dir: Path, n: int) -> list[Path]:
    found = sorted(data_dir.glob("*/audio/*.flac"))
    return found[:: len(found) // n][:n]


def features_of(path: Path) -> Float32Array:
    from edge_ser.frontend.features import LOGMEL_V1

    return clip_features(Clip("", path, "", "", ""), LOGMEL_V1)


def disagreements(paths: list[Path], answers: dict[str, Float32Array], near: float) -> list[str]:
    """Name every clip on which the labels differ by more than a near-tie."""
    reference = next(iter(answers.values()))
    margin = np.diff(np.sort(reference, axis=1)[:, -2:], axis=1)[:, 0]
    named = []
    for name, logits in answers.items():
        for i in np.flatnonzero(logits.argmax(axis=1) != reference.argmax(axis=1)):
            print(f"{paths[i].name}: {name} answers {logits[i].argmax()}, not {reference[i].argmax()}, margin {margin[i]:.4f}")
            if margin[i] > near:
                named.append(f"{paths[i].name} ({name}, margin {margin[i]:.4f})")
    return named


@pytest.mark.slow
def test_both_formats_and_torch_agree_on_real_clips(learnt: Path, data_dir: Path, tmp_path: Path) -> None:
    trained = load_run(learnt)
    paths = sample(data_dir, 200)
    # The run knows synthetic vowels; real speech is louder, so its ranges come from other real clips.
    (tmp_path / "speech").mkdir()
    for path in sample(data_dir, 233)[::7]:
        if path not in paths:
            (tmp_path / "speech" / path.name).symlink_to(path)
    outputs = {name: tmp_path / f"m.{name}" for name in FORMATS}
    export_run(learnt, outputs, int8=True, calibration_data=tmp_path / "speech")
    features = [features_of(p) for p in paths]
    answers = {"torch": infer(trained.net, features)[0]}
    for name, path in outputs.items():
        backend = open_backend(read_model_file(path))
        answers[name] = np.stack([backend.run(x).logits for x in features])
        error = np.abs(answers[name] - answers["torch"])
        assert error.max() < 0.1 * np.ptp(answers["torch"]), name
    assert len(paths) == 200
    assert disagreements(paths, answers, near=0.05 * float(np.ptp(answers["torch"]))) == []


def test_the_float_tflite_file_is_the_network(learnt: Path, tmp_path: Path) -> None:
    (report,) = export_run(learnt, {"tflite": tmp_path / "m.tflite"})
    assert report.verification.max_logit_error < 1e-4
    assert report.verification.max_embedding_error < 1e-4
    assert report.verification.max_streaming_error == 0
    assert EmotionRecognizer(tmp_path / "m.tflite").manifest.quantization["scheme"] == "float32"


@pytest.mark.parametrize("name", [*FORMATS, "float"])
def test_streaming_equals_offline_exactly(exported: Exported, tiny_model: Path, name: str) -> None:
    backend = open_backend(read_model_file(exported[0].get(name, tiny_model)))
    rng = np.random.default_rng(0)
    for n_frames in (49, 100, 777, 1400):
        features = (20 * rng.standard_normal((n_frames, 128)) - 40).astype(np.float32)
        assert np.array_equal(run_in_parts(backend, features, rng), backend.run(features).logits)


def test_what_is_said_of_coverage_is_so(learnt: Path, exported: Exported) -> None:
    trained = load_run(learnt)
    layers = coverage(trained.net, head_macs_int8=False)
    # Every trained number but batch normalisation's shifts, which the biases absorb, and the features' mean and std.
    trained_numbers = sum(p.numel() for n, p in trained.net.named_parameters() if p.requires_grad and not n.startswith("norms"))
    assert sum(x.weights for x in layers) == trained_numbers + 2 * 128
    assert percent(layers, "weights") >= 98
    assert percent(layers, "macs_per_s") >= 95
    # Counted anew in the file: bytes of int8 initialisers against all numbers stored.
    model = onnx.load(exported[0]["onnx"])
    counts: dict[int, int] = {}
    for weight in model.graph.initializer:
        counts[weight.data_type] = counts.get(weight.data_type, 0) + int(np.prod(weight.dims))
    assert counts[onnx.TensorProto.INT8] / sum(counts.values()) > 0.98
    for path, report in zip(exported[0].values(), exported[1], strict=True):
        assert path.stat().st_size <= 720_000
        assert report.bytes == path.stat().st_size
        stated = read_model_file(path).manifest.quantization
        assert stated["weights_int8_percent"] == report.weights_int8_percent >= 98
        assert stated["macs_int8_percent"] == report.macs_int8_percent >= 95
        assert stated["agreement"]["argmax"] >= 0.985
        assert stated["engine"]


def test_integers_are_within_half_a_step(learnt: Path) -> None:
    net = load_run(learnt).net
    rng = np.random.default_rng(0)
    clips = [(20 * rng.standard_normal((n, 128)) - 40).astype(np.float32) for n in (49, 80, 300)]
    ranges = activation_ranges(net, clips)
    normalised = [(torch.from_numpy(x) - net.feature_mean) / net.feature_std for x in clips]
    assert ranges[0] == (min(float(x.min()) for x in normalised), max(float(x.max()) for x in normalised))
    quantized = quantize(net, ranges)
    for name, rows in quantized.gru.items():
        error = np.abs(rows.weight * rows.scale[:, None] - dict(net.gru.named_parameters())[name].detach().numpy())
        assert (error <= 0.5001 * rows.scale[:, None]).all()
    for conv in quantized.convs:
        assert np.abs(conv.weight).max() <= CONV_LIMIT
        # Two products of a byte and a weight never overflow 16 bits, so processors without VNNI do not saturate.
        assert 2 * 255 * int(np.abs(conv.weight).max()) < 2**15


def test_the_same_run_gives_the_same_bytes(learnt: Path, exported: Exported, tmp_path: Path) -> None:
    outputs = {name: tmp_path / f"m.{name}" for name in FORMATS}
    export_run(learnt, outputs, int8=True)
    for name, path in outputs.items():
        assert path.read_bytes() == exported[0][name].read_bytes()


def test_the_command_reports_and_the_suffix_decides(learnt: Path, tmp_path: Path) -> None:
    both = edge_ser("export", learnt, "--int8", "--format", "onnx,tflite", "-o", tmp_path / "m")
    for word in ("m.onnx", "m.tflite", "same label", "UA", "float ONNX", "streamed against whole: 0", "gru ih", "3 s", "14 s"):
        assert word in both
    report = json.loads((tmp_path / "m.report.json").read_text())
    assert [r["file"] for r in report] == ["m.onnx", "m.tflite"]
    assert "one.tflite" in edge_ser("export", learnt, "-o", tmp_path / "one.tflite")
    assert read_model_file(tmp_path / "one.tflite").manifest.quantization["scheme"] == "float32"


def test_a_file_that_agrees_too_rarely_is_refused(learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "agree", lambda *compared: replace(agree(*compared), argmax=0.98))
    report = tmp_path / "report.json"
    with pytest.raises(ExportError, match=r"same label as the network on 98\.0% of 8 clips; expected at least 98\.5%"):
        export_run(learnt, {"onnx": tmp_path / "m.onnx"}, int8=True, report=report)
    assert list(tmp_path.iterdir()) == [report]
    (found,) = json.loads(report.read_text())
    assert found["agreement"]["argmax"] == 0.98


def test_mistakes_are_one_line_and_leave_nothing(learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.onnx"
    bad = tmp_path / "recordings"
    bad.mkdir()
    with pytest.raises(ExportError, match="holds no recordings"):
        export_run(learnt, {"onnx": out}, int8=True, calibration_data=bad)
    (bad / "a.wav").write_text("no audio")
    with pytest.raises(ExportError, match=r"calibration data: .*a\.wav"):
        export_run(learnt, {"onnx": out}, int8=True, calibration_data=bad)
    with pytest.raises(ExportError, match=r"unknown format 'onxn' .did you mean 'onnx'"):
        export_run(learnt, {"onxn": out})
    with pytest.raises(ExportError, match=r"expected a name ending in \.tflite"):
        export_run(learnt, {"tflite": out})
    with pytest.raises(ExportError, match="give --data"):
        export_run(learnt, {"onnx": out}, int8=True, data=tmp_path / "gone")

    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ExportError, match="No space left on device"):
        export_run(learnt, {"onnx": out})
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.onnx"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", ["triplet", "island"])
def test_runs_of_another_loss_are_not_exported(train_tiny: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    run = train_tiny(tmp_path / "run", "paper", f"loss.kind={kind}", "optimizer.max_steps=2")
    with pytest.raises(ExportError, match=f"loss.kind {kind}; only runs of kind joint are exported"):
        export_run(run, {"onnx": tmp_path / "m.onnx"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[: len(b) // 2], "no complete TFLite file|no edge-ser manifest"),
        (lambda b: b[:3], "no complete TFLite file"),
        (lambda b: b"ONNX" * 100, "no complete TFLite file"),
        (lambda b: b.replace(b"edge_ser", b"edge_sex", 1), "no edge-ser manifest"),
        (lambda b: b.replace(b'"temperature": ', b'"temperature":9', 1), "SHA-256|not JSON|temperature"),
        (lambda b: b.replace(b"graph_sha256", b"graph_sha257", 1), "'graph_sha256' is missing"),
        (lambda b: b[:50000] + bytes([b[50000] ^ 1]) + b[50001:], "its graph has SHA-256"),
        (lambda b: b + b"\0", "its graph has SHA-256"),
    ],
)
def test_an_edited_tflite_file_is_refused(
    exported: Exported, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "edited.tflite"
    content = exported[0]["tflite"].read_bytes()
    changed = change(content)
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(ModelFileError, match=message):
        read_model_file(path)


def test_noise_for_a_tflite_file_is_refused_in_one_line(exported: Exported, tmp_path: Path) -> None:
    content = bytearray(exported[0]["tflite"].read_bytes())
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.tflite"
    for _ in range(60):
        damaged = content.copy()
        for position in rng.integers(0, 400, size=4):  # the tables' heads
            damaged[position] = int(rng.integers(0, 256))
        for position in rng.integers(len(content) - 4000, len(content), size=4):
            damaged[position] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        if damaged != content:
            with pytest.raises(ModelFileError):
                read_model_file(path)


def test_engine_and_file_must_fit(exported: Exported, speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = exported[0]
    answers = [EmotionRecognizer(files[name], backend=name).predict(speech) for name in FORMATS]
    np.testing.assert_allclose(answers[0].logits, answers[1].logits, atol=0.1)
    for name, other in zip(FORMATS, reversed(FORMATS), strict=True):
        with pytest.raises(BackendError, match=f"backend {name} cannot read"):
            EmotionRecognizer(files[other], backend=name)
    for module in ("ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=r"pip install 'edge-ser\[tflite\]'"):
        EmotionRecognizer(files["tflite"])


def test_the_shipped_files_are_int8_small_and_one_model(data_dir: Path) -> None:
    recognizers = {name: EmotionRecognizer(backend=name) for name in FORMATS}
    paths = sample(data_dir, 200)
    for name, recognizer in recognizers.items():
        assert recognizer.path.suffix == f".{name}"
        assert recognizer.path.stat().st_size <= 720_000
        assert recognizer.manifest.quantization["weights_int8_percent"] >= 98
        assert recognizer.manifest.quantization["macs_int8_percent"] >= 95
    one, other = (r.manifest for r in recognizers.values())
    assert one.training == other.training
    assert (one.labels, one.temperature, one.centres) == (other.labels, other.temperature, other.centres)
    answers = {name: np.stack([r.predict(p).logits for p in paths]) for name, r in recognizers.items()}
    assert disagreements(paths, answers, near=0.1) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime 2.14 is for Python up to 3.11")
def test_tflite_runtime_2_14_answers_the_same(exported: Exported, data_dir: Path, tmp_path: Path) -> None:
    """In an environment of its own: numpy < 2, no LiteRT, the engine that takes per-channel matrices for per-tensor ones."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    packages = ["tflite-runtime==2.14.0", "numpy>=1.26,<2", "scipy>=1.11.4", "soundfile>=0.13.1", "soxr>=0.5", "click>=8.1.7"]
    install = [str(python), "-m", "pip", "install", "-q", "--no-compile", *packages]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    paths = sample(data_dir, 60)
    script = (
        "import json, sys; from edge_ser import EmotionRecognizer; r = EmotionRecognizer(sys.argv[1])\n"
        "print(json.dumps([r._backend.engine, [r.predict(p).logits.tolist() for p in sys.argv[2:]]]))"
    )
    command = [str(python), "-c", script, str(exported[0]["tflite"]), *map(str, paths)]
    answered = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    engine, logits = json.loads(answered.stdout)
    assert engine == "tflite-runtime"
    recognizer = EmotionRecognizer(exported[0]["tflite"])
    here = np.stack([recognizer.predict(p).logits for p in paths])
    span = float(np.ptp(here))
    assert np.abs(np.array(logits) - here).max() < 0.05 * span
    answers = {"LiteRT": here, "tflite-runtime": np.array(logits, dtype=np.float32)}
    assert disagreements(paths, answers, near=0.03 * span) == []


def test_recordings_to_calibrate_on_are_those_that_predict_takes(tiny_run: Path, speech: Path, tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="float32")
    for name, kind in (("a.aiff", "PCM_16"), ("b.caf", "PCM_16"), ("c.opus", "OPUS"), ("sub/d.W64", "PCM_16")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        form = {".opus": "OGG", ".w64": "W64"}.get(Path(name).suffix.lower())
        soundfile.write(tmp_path / name, samples, rate_hz, subtype=kind, format=form)
    (tmp_path / "notes.txt").write_text("no recording")
    assert len(_recordings(load_run(tiny_run), tmp_path).verification) == 4
