from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ser import EmotionRecognizer
from edge_ser.arrays import AnyArray
from edge_ser.engines import Backend
from edge_ser.engines.clib import Result
from edge_ser.errors import ExportError
from edge_ser.frontend.audio import AudioReader
from edge_ser.model import c_source as firmware
from edge_ser.model.manifest import Manifest, read_model_file
from edge_ser_export import c_source, exporter, formats
from edge_ser_export.c_library import CModel
from edge_ser_export.report import FileReport
from edge_ser_export.verification import Agreement, agree
from edge_ser_train.method.run import MODEL
from edge_ser_train.method.weights import load_tensors, save_tensors
from tests.exporting import export_run
from tests.needs import tool
from tests.training import edge_ser


@pytest.fixture(scope="module")
def exported(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FileReport]:
    tool("cc")
    folder = tmp_path_factory.mktemp("exported") / "c"
    (report,) = export_run(learnt, {"c": folder}, int8=True)
    return folder, report


@pytest.fixture(scope="module")
def of_real_speech(learnt: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CModel, Path, FileReport]:
    """The same network in C and as ONNX, calibrated on real clips: the run knows synthetic vowels, real speech is louder."""
    tool("cc")
    folder = tmp_path_factory.mktemp("speech")
    (folder / "clips").mkdir()
    for path in sorted((data_dir / "cremad").glob("audio/*.flac"))[5::200]:
        (folder / "clips" / path.name).symlink_to(path)
    outputs = {"onnx": folder / "m.onnx", "c": folder / "m"}
    reports = export_run(learnt, outputs, int8=True, calibration_data=folder / "clips")
    return CModel.of_sources(folder / "m"), folder / "m.onnx", reports[1]


def answer(model: CModel, path: Path) -> Result:
    stream = model.stream()
    with AudioReader(path) as reader:
        for block in reader.blocks():
            stream.feed(np.ascontiguousarray(block, dtype=np.float32))
    return stream.finish()


@pytest.mark.slow
def test_c_answers_as_the_int8_onnx_file_on_real_speech(of_real_speech: tuple[CModel, Path, FileReport], data_dir: Path) -> None:
    model, onnx, _ = of_real_speech
    recognizer = EmotionRecognizer(onnx)
    paths = sorted((data_dir / "cremad").glob("audio/*.flac"))[::20]
    assert len(paths) > 150
    expected = [recognizer.predict(path) for path in paths]
    found = [answer(model, path) for path in paths]
    n_labels = len(recognizer.labels)
    logits = np.array([e.logits for e in expected])
    error = np.abs(logits - [f.logits[:n_labels] for f in found])
    assert error.max() <= 0.02 * np.ptp(logits)
    same = [recognizer.labels[f.label_index] == e.label for e, f in zip(expected, found, strict=True)]
    assert np.mean(same) >= 0.985
    for e, f in zip(expected, found, strict=True):
        assert f.label.decode() == recognizer.labels[f.label_index]
        np.testing.assert_allclose(f.probabilities[:n_labels], list(e.probabilities.values()), atol=0.02)
        np.testing.assert_allclose(f.embedding, e.embedding, atol=0.02 * np.abs(e.embedding).max())
        assert f.speech == pytest.approx(e.speech, abs=0.02)
        assert bool(f.is_speech) == (f.speech >= recognizer.manifest.speech["threshold"])
        assert f.judged_s == pytest.approx(e.duration_s, abs=0.0101)


@pytest.mark.slow
def test_the_report_says_how_it_agrees(of_real_speech: tuple[CModel, Path, FileReport]) -> None:
    model, _, report = of_real_speech
    assert report.against_onnx is not None
    assert report.agreement is not None
    assert report.against_onnx.argmax >= 0.985
    assert report.agreement.argmax >= 0.985
    assert report.against_onnx.max_logit_error < report.agreement.max_logit_error
    assert report.verification.max_streaming_error == 0
    assert report.state_bytes == model.state_bytes <= 96 * 1024
    assert report.bytes <= 720_000
    assert report.macs_int8_percent == 100
    assert report.weights_int8_percent >= 98


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(learnt: Path, exported: tuple[Path, FileReport], tmp_path: Path) -> None:
    export_run(learnt, {"c": tmp_path / "again"}, int8=True)
    for name in ("eser_model.c", "eser_model.h"):
        assert (tmp_path / "again" / name).read_bytes() == (exported[0] / name).read_bytes()


def test_the_manifest_travels_as_a_string(exported: tuple[Path, FileReport]) -> None:
    source = (exported[0] / "eser_model.c").read_text()
    (numbers,) = re.findall(r"eser_model_manifest\[\d+\] = \{(.*?)\}", source, re.S)
    text = bytes(int(x) for x in numbers.split(",") if x.strip())
    assert text.endswith(b"}\0")
    manifest = Manifest.from_json(text[:-1].decode())
    (sha,) = re.findall(r'ESER_MODEL_SHA256 "(\w{64})"', (exported[0] / "eser_model.h").read_text())
    assert manifest.graph_sha256 == sha
    assert manifest.quantization["agreement"]["argmax"] >= 0.985
    assert manifest.quantization["agreement_with_int8_onnx"]["argmax"] >= 0.985
    assert max(map(len, source.splitlines())) <= 130


@pytest.mark.slow
def test_the_command_writes_all_formats_beside_one_another(learnt: Path, tiny_data: Path, tmp_path: Path) -> None:
    tool("cc")
    said = edge_ser("export", learnt, "--int8", "--data", tiny_data, "--format", "onnx,c", "-o", tmp_path / "m")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["eser_model.c", "eser_model.h", "m", "m.onnx", "m.report.json"]
    for word in ("m.onnx", "against int8 ONNX: same label", "constants", "state", "streamed against whole: 0"):
        assert word in said
    report = json.loads((tmp_path / "m.report.json").read_text())
    assert [(r["file"], r["format"]) for r in report] == [("m.onnx", "onnx"), ("m", "c")]
    # Into a folder that holds an older export and something else.
    (tmp_path / "m" / "main.c").write_text("kept")
    (tmp_path / "m" / "eser_model.h").write_text("old")
    export_run(learnt, {"c": tmp_path / "m"}, int8=True)
    assert (tmp_path / "m" / "main.c").read_text() == "kept"
    assert "ESER_MODEL_SHA256" in (tmp_path / "m" / "eser_model.h").read_text()


def test_mistakes_are_one_line_and_leave_nothing(
    learnt: Path, train_tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("cc")
    out = tmp_path / "c"
    with pytest.raises(ExportError, match="add --int8"):
        export_run(learnt, {"c": out})
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="source files into a folder"):
        export_run(learnt, {"c": tmp_path / "file"}, int8=True)
    stft = train_tiny(tmp_path / "run", "edge", "front_end=logstft-v1", "optimizer.max_steps=2")
    with pytest.raises(ExportError, match="has the front end logmel-v1; this run was trained with logstft-v1"):
        export_run(stft, {"c": out}, int8=True)
    with pytest.raises(ExportError, match="room for 16 labels; this run has 17"):
        c_source.require_c("logmel-v1", 17)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ExportError, match="no C compiler 'no-such-compiler'; install one"):
        export_run(learnt, {"c": out}, int8=True)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(ExportError, match="the C compiler false refused the library's sources"):
        export_run(learnt, {"c": out}, int8=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "run"]


@pytest.mark.parametrize(
    ("held_against", "found", "message"),
    [
        ("its own", {"argmax": 0.98}, r"the int8 c file answers the same label as the network on 98\.0% of 8 clips"),
        ("int8 ONNX", {"argmax": 0.98}, r"the int8 c file answers the same label as the int8 ONNX file on 98\.0% of 8 clips"),
        ("int8 ONNX", {"mean_logit_error": 0.11}, r"the c file differs from ONNX with the same integers, logits by 0\.11"),
    ],
)
def test_a_library_that_agrees_too_rarely_is_refused(
    learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_against: str, found: dict[str, float], message: str
) -> None:
    tool("cc")

    def agreement(*compared: Any) -> Agreement:
        measured = agree(*compared)
        return replace(measured, **found) if measured.clips.startswith(held_against) else measured  # type: ignore[arg-type]

    monkeypatch.setattr(exporter, "agree", agreement)
    with pytest.raises(ExportError, match=message):
        export_run(learnt, {"c": tmp_path / "c"}, int8=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["feature_gain", "gru_input_backward_weight", "conv2_bias"])
def test_wrong_numbers_in_c_are_refused(learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    tool("cc")
    array = firmware.c_array

    def damaged(declaration: str, values: AnyArray) -> str:
        return array(declaration, -values if f" {what}[" in declaration else values)

    monkeypatch.setattr(firmware, "c_array", damaged)
    with pytest.raises(ExportError, match=r"same label|same integers"):
        export_run(learnt, {"c": tmp_path / "c"}, int8=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_wrong_recurrent_weights_in_c_are_refused(learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool("cc")
    run = shutil.copytree(learnt, tmp_path / "run")
    tensors, metadata = load_tensors(run / MODEL)
    for name in ("gru.weight_hh_l0", "gru.weight_hh_l0_reverse"):
        tensors[name] = 4 * tensors[name]
    save_tensors(run / MODEL, tensors, metadata)
    export_run(run, {"c": tmp_path / "right"}, int8=True)
    array = firmware.c_array

    def damaged(declaration: str, values: AnyArray) -> str:
        return array(declaration, -values if " gru_recurrent_backward_weight[" in declaration else values)

    monkeypatch.setattr(firmware, "c_array", damaged)
    with pytest.raises(ExportError, match=r"same label|same integers"):
        export_run(run, {"c": tmp_path / "wrong"}, int8=True)


def test_a_front_end_that_differs_is_refused(learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool("cc")
    opened = formats.FORMATS["c"].open

    def detuned(folder: Path) -> Backend:
        model = opened(folder)
        assert isinstance(model, CModel)
        true = model.features
        monkeypatch.setattr(model, "features", lambda samples: true(samples) + np.float32(0.1))
        return model

    monkeypatch.setitem(formats.FORMATS, "c", replace(formats.FORMATS["c"], open=detuned))
    with pytest.raises(ExportError, match=r"the C front end differs from numpy's by 0\.1"):
        export_run(learnt, {"c": tmp_path / "c"}, int8=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_model_file_and_the_c_source_say_the_same(of_real_speech: tuple[CModel, Path, FileReport]) -> None:
    _, onnx, _ = of_real_speech
    source = (onnx.with_suffix("") / "eser_model.c").read_text()
    for label in read_model_file(onnx).manifest.labels:
        assert f'"{label}"' in source
