from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edge_ser import EmotionRecognizer
from edge_ser.errors import ExportError, RunError
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import FRONT_ENDS, extract_blocks
from edge_ser.model.manifest import read_model_file
from edge_ser_export import formats, onnx_graph
from edge_ser_train.corpora.splits import training_split
from edge_ser_train.method.config import load_preset
from edge_ser_train.method.inference import infer
from edge_ser_train.method.loop import Trainer
from edge_ser_train.method.run import REPORT, describe_data, record_run, write_atomic
from edge_ser_train.method.weights import load_run
from tests.exporting import export_run
from tests.training import TINY_SETTINGS, edge_ser


def test_torch_checkpoint_and_onnx_agree_on_real_clips(tiny_data: Path, tmp_path: Path, real_clips: list[Path]) -> None:
    config = load_preset("edge").with_settings((*TINY_SETTINGS, "selection.after_step=5"))  # keeps the last weights
    data = training_split(tiny_data, ["tiny"], config.labels)
    run = tmp_path / "run"
    run.mkdir()
    record_run(config, describe_data(data, tiny_data, ["tiny"], config), data, run)
    trainer = Trainer(config, data, run, tmp_path / "cache")
    assert trainer.train(lambda line: None)
    write_atomic(run / REPORT, json.dumps(trainer.finish()))
    trained = load_run(run)
    export_run(run, {"onnx": tmp_path / "model.onnx"})
    recognizer = EmotionRecognizer(tmp_path / "model.onnx")
    lengths = set()
    for clip in real_clips:
        with AudioReader(clip) as reader:
            features = extract_blocks(reader.blocks(), reader.n_samples, trained.front_end)
        lengths.add(len(features))
        prediction = recognizer.predict(clip)
        in_memory, _ = infer(trainer.evaluated, [features])
        logits, z = infer(trained.net, [features])
        np.testing.assert_allclose(logits[0], in_memory[0], atol=1e-6)
        np.testing.assert_allclose(prediction.logits, logits[0], atol=1e-4)
        np.testing.assert_allclose(prediction.embedding, z[0], atol=1e-4)
    assert len(real_clips) == 50
    assert len(lengths) > 20


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_every_front_end_and_both_presets_export(
    train_tiny: Callable[..., Path], tmp_path: Path, front_end: str, speech: Path
) -> None:
    preset = "paper" if front_end.endswith("paper") else "edge"
    run = train_tiny(tmp_path / "run", preset, f"front_end={front_end}", "optimizer.max_steps=2")
    (report,) = export_run(run, {"onnx": tmp_path / "model.onnx"})
    assert report.verification.max_logit_error < 1e-4
    recognizer = EmotionRecognizer(tmp_path / "model.onnx")
    assert recognizer.manifest.front_end == FRONT_ENDS[front_end]
    assert np.isfinite(recognizer.predict(speech).logits).all()


def test_what_confidence_rests_on_travels_in_the_manifest(tiny_run: Path, tiny_model: Path) -> None:
    trained, manifest = load_run(tiny_run), read_model_file(tiny_model).manifest
    assert manifest.temperature == trained.temperature
    for name, decimals in (("speech_mean", 2), ("speech_std", 2), ("speech_vector", 2), ("ordinary_vector", 2)):
        kept, measured = getattr(manifest, name), getattr(trained, name).numpy()
        np.testing.assert_allclose(kept, measured, atol=0.501 * 10.0**-decimals)


def test_the_same_run_gives_the_same_bytes(tiny_run: Path, tiny_model: Path, tmp_path: Path) -> None:
    export_run(tiny_run, {"onnx": tmp_path / "again.onnx"})
    assert (tmp_path / "again.onnx").read_bytes() == tiny_model.read_bytes()


def test_the_graph_is_the_designs(tiny_model: Path) -> None:
    model = onnx.load(tiny_model)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    optional = {weight.name for weight in model.graph.initializer}
    assert {name: shape for name, shape in shapes.items() if name not in optional and not name.endswith("_next")} == {
        "features": [1, "T", 128],
        "past": [1, "P", 480],
        "logits": [1, 4],
        "embedding": [1, 64],
        "encoded": [1, "P_plus_N", 480],
    }
    assert {name for name in shapes if name in optional} == {"rows1", "rows2", "rows3", "judged"}
    assert {name for name in shapes if name.endswith("_next")} == {"rows1_next", "rows2_next", "rows3_next"}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_scores_of_these_weights_travel_in_the_manifest(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    edge_ser("evaluate", tiny_run, "--data", tiny_data, "--corpus", "tiny", "--split", "test")
    kept = tiny_run / "evaluation-tiny-test.json"
    try:
        export_run(tiny_run, {"onnx": tmp_path / "scored.onnx"})
        (score,) = EmotionRecognizer(tmp_path / "scored.onnx").manifest.scores
        assert (score["corpus"], score["split"], score["n_clips"]) == ("tiny", "test", 8)
        assert score["by_gender"] == {}
        kept.write_text(kept.read_text().replace(load_run(tiny_run).weights_sha256, "of other weights"))
        export_run(tiny_run, {"onnx": tmp_path / "unscored.onnx"})
        assert EmotionRecognizer(tmp_path / "unscored.onnx").manifest.scores == ()
    finally:
        kept.unlink()


def test_a_graph_that_answers_otherwise_is_not_written(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = onnx_graph.build_graph

    def with_swapped_gates(net: torch.nn.Module, quantized: None) -> object:
        graph = build(net, quantized)  # type: ignore[arg-type]
        recurrent = next(w for w in graph.initializer if w.name == "gru.R")
        gate = len(recurrent.raw_data) // 6
        recurrent.raw_data = recurrent.raw_data[gate:] + recurrent.raw_data[:gate]
        return graph

    monkeypatch.setattr(formats, "build_graph", with_swapped_gates)
    with pytest.raises(ExportError, match="differs from the network"):
        export_run(tiny_run, {"onnx": tmp_path / "wrong.onnx"})
    assert not list(tmp_path.iterdir())


def test_an_unfinished_run_is_not_exported(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / REPORT).unlink()
    with pytest.raises(RunError, match="not finished"):
        export_run(run, {"onnx": tmp_path / "model.onnx"})


def test_mistakes_are_one_line(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ending in \.onnx"):
        export_run(tiny_run, {"onnx": tmp_path / "model.bin"})
    with pytest.raises(ExportError, match="cannot write"):
        export_run(tiny_run, {"onnx": tmp_path / "missing" / "model.onnx"})
    with pytest.raises(RunError, match="is not a folder"):
        export_run(tmp_path / "gone", {"onnx": tmp_path / "model.onnx"})
    assert not list(tmp_path.iterdir())
