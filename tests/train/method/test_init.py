"""Runs that start from another run: its weights, its frozen convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_ser.engines import open_backend
from edge_ser.errors import ConfigError, CorpusError, RunError
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import LOGMEL_V1, extract_blocks
from edge_ser.model.manifest import read_model_file, shipped_model_path
from edge_ser_train.corpora.splits import training_split
from edge_ser_train.evaluate.evaluation import open_run_or_model
from edge_ser_train.method import run as runs
from edge_ser_train.method import weights
from edge_ser_train.method.config import load_preset
from edge_ser_train.method.dequantize import read_network
from edge_ser_train.method.inference import infer
from edge_ser_train.method.loop import Trainer
from tests.training import TINY_SETTINGS, edge_ser


def test_a_run_starts_from_another_with_other_labels(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, train_tiny: Callable[..., Path]
) -> None:
    source = weights.load_run(tiny_run)
    config = load_preset("edge").with_settings((*TINY_SETTINGS, f"optimizer.init={tiny_run}"))
    data = training_split(tiny_data, ["tiny"], ("neutral", "angry"))
    two = Trainer(replace(config, labels=("neutral", "angry")), data, tmp_path, tmp_path / "cache")
    assert torch.equal(two.net.state_dict()["gru.weight_hh_l0"], source.net.state_dict()["gru.weight_hh_l0"])
    assert two.net.fc2.weight.shape == (2, 64)
    four = Trainer(config, training_split(tiny_data, ["tiny"], config.labels), tmp_path, tmp_path / "cache")
    assert torch.equal(four.net.fc2.weight, source.net.fc2.weight)
    with pytest.raises(RunError, match="another front end or batch normalisation; expected those of this run"):
        Trainer(load_preset("paper").with_settings((f"optimizer.init={tiny_run}",)), four.data, tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("preset", "settings"), [("small", ()), ("edge", ("optimizer.frozen=true", "augment.speaker_shift=1.0"))]
)
def test_frozen_convolutions_stay_and_the_rest_learns(
    preset: str, settings: tuple[str, ...], tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = load_preset(preset).with_settings((*TINY_SETTINGS, *settings, f"optimizer.init={tiny_run}"))
    data = training_split(tiny_data, ["tiny"], config.labels)
    source = weights.load_run(tiny_run).net.state_dict()
    whole, halves = (Trainer(config, data, tmp_path / name, tmp_path / "cache") for name in ("whole", "halves"))
    for _ in range(4):
        whole.step()
    for name, value in whole.net.state_dict().items():
        if name.startswith(("convs", "norms")):
            assert torch.equal(value, source[name]), name
        elif not name.startswith(("feature", "gru.bias_hh")):
            assert not torch.equal(value, source[name]), name
    assert not any(name.startswith(("convs", "norms")) for name in whole.net.trained_parameters())
    for _ in range(2):
        halves.step()
    halves.folder.mkdir()
    halves.save_checkpoint()
    resumed = Trainer(config, data, halves.folder, tmp_path / "cache")
    resumed.load_checkpoint()
    for _ in range(2):
        resumed.step()
    for name, value in resumed.net.state_dict().items():
        assert torch.equal(value, whole.net.state_dict()[name]), name
    whole.folder.mkdir()
    whole.look_at_dev()
    for kept, in_the_loop in zip(
        infer(whole.evaluated, whole.dev_features), infer(whole.evaluated, whole.dev_inputs, True), strict=True
    ):
        np.testing.assert_allclose(kept, in_the_loop, rtol=1e-4, atol=1e-5)  # vectors at hand answer as the recordings do


def test_vectors_go_from_their_speaker_towards_another(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"augment\.speaker_shift is 1\.0; expected 0 unless optimizer\.frozen"):
        load_preset("edge").with_settings(("augment.speaker_shift=1.0",))
    still = load_preset("small").with_settings((*TINY_SETTINGS, f"optimizer.init={tiny_run}"))
    data = training_split(tiny_data, ["tiny"], still.labels)
    moving = still.with_settings(("augment.speaker_shift=0.5",))
    x, lengths, rows = Trainer(still, data, tmp_path, tmp_path / "cache").batch(1)
    run = Trainer(moving, data, tmp_path, tmp_path / "cache")
    moved, as_long, alike = run.batch(1)
    assert torch.equal(as_long, lengths)
    assert (alike == rows).all()
    assert not torch.equal(moved, x)
    names = [c.speaker for c in data.train]
    means = {s: np.concatenate([v for v, n in zip(run.train_inputs, names, strict=True) if n == s]).mean(axis=0) for s in names}
    for row, before, after in zip(rows, x, moved, strict=True):
        step = (after - before)[0].numpy()
        np.testing.assert_allclose((after - before).numpy(), np.broadcast_to(step, after.shape), atol=1e-4)
        ways = [mean - means[names[row]] for mean in means.values()]
        shares = [float(step @ way / max(1e-9, way @ way)) for way in ways]
        best = min(range(len(ways)), key=lambda i: np.abs(step - shares[i] * ways[i]).max())
        np.testing.assert_allclose(step, shares[best] * ways[best], atol=1e-4)
        assert -1e-4 <= shares[best] <= 0.5001


def test_whom_an_earlier_run_heard_is_not_tested_on(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, train_tiny: Callable[..., Path]
) -> None:
    second = train_tiny(tmp_path / "second", "edge", f"optimizer.init={tiny_run}")  # the same split: nothing leaks
    config = load_preset("edge").with_settings(TINY_SETTINGS)
    other = training_split(tiny_data, ["tiny"], config.labels, protocol="leave-one-speaker-out", fold="s2")
    Trainer(config, other, tmp_path, tmp_path / "cache")
    for settings in ((f"optimizer.init={tiny_run}",), (f"optimizer.init={second}",)):
        with pytest.raises(CorpusError, match="1 speaker in both train of an earlier run and test: tiny/s2"):
            Trainer(config.with_settings(settings), other, tmp_path, tmp_path / "cache")


def test_frozen_convolutions_need_something_to_have_them_from(tmp_path: Path) -> None:
    alone = load_preset("small").with_settings(("optimizer.init=",))
    with pytest.raises(RunError, match=r"optimizer\.frozen without optimizer\.init; expected what has the convolutions"):
        runs.open_run(alone, {}, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", ["small", "paper"])  # with and without batch normalisation
def test_the_float_network_of_a_model_file_answers_as_the_file(preset: str, speech: Path) -> None:
    path = shipped_model_path(".eser")
    net, manifest = read_network(path, load_preset(preset).model)
    backend = open_backend(read_model_file(path.with_suffix(".onnx")), "onnx")
    assert manifest.labels == ("neutral", "angry", "happy", "sad")
    with AudioReader(speech, LOGMEL_V1.rate_hz) as reader:
        features = extract_blocks(reader.blocks(), reader.n_samples, LOGMEL_V1)
    for x in (features, features[:49], features[50:200]):
        logits, z = infer(net, [x])
        exact = backend.run(np.ascontiguousarray(x))
        np.testing.assert_allclose(logits[0], exact.logits, atol=0.1)  # what int8 activations cost; they span 9
        np.testing.assert_allclose(z[0], exact.embedding, atol=0.02)


def test_a_small_corpus_starts_from_the_model_that_ships(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, train_tiny: Callable[..., Path]
) -> None:
    from tests.exporting import export_run

    run = train_tiny(tmp_path / "run", "small")
    own = weights.load_run(run)
    source, _ = read_network(shipped_model_path(".eser"), own.config.model)
    for name, value in source.state_dict().items():
        if name.startswith(("convs", "norms", "feature")):
            assert torch.equal(own.net.state_dict()[name], value), name
    assert not torch.equal(own.net.fc2.weight, source.fc2.weight)
    # Its card names the corpora behind the convolutions and their licences, and evaluation does not call them unheard.
    export_run(run, {"onnx": tmp_path / "mine.onnx"})
    card = " ".join(edge_ser("info", tmp_path / "mine.onnx").split())
    assert "trained on 32 clips of 4 speakers" in card
    assert "tiny: 32 clips, " in card
    assert "cremad: 2576 clips (of what it builds on), ODbL 1.0 + DbCL 1.0" in card
    for trained in (open_run_or_model(run).training, open_run_or_model(tmp_path / "mine.onnx").training):
        assert (trained.corpora, trained.earlier) == (("tiny",), ("cremad", "emodb"))
        assert trained.protocol("cremad", "test", "abcd") == "corpus not trained on, but by what it builds on, 4 classes"
        assert trained.protocol("ravdess", "all", "abcd") == "zero-shot (corpus not trained on), 4 classes"
    # And so do the runs that start from it, which take over its normalisation.
    config = load_preset("small").with_settings((*TINY_SETTINGS, f"optimizer.init={run}"))
    data = training_split(tiny_data, ["tiny"], config.labels)
    second = Trainer(config, data, tmp_path / "second", tmp_path / "cache")
    assert torch.equal(second.net.feature_mean, source.feature_mean)
    assert torch.equal(second.net.feature_std, source.feature_std)
    free = load_preset("edge").with_settings((*TINY_SETTINGS, f"optimizer.init={run}"))
    with pytest.raises(RunError, match=r"hold their batch normalisation; expected optimizer\.frozen=true"):
        Trainer(free, data, tmp_path / "free", tmp_path / "cache")
    assert runs.past(load_preset("small").with_settings((f"optimizer.init={run}",))).corpora == {
        "tiny": 32,
        "cremad": 2576,
        "emodb": 339,
    }


def test_a_model_file_is_not_tested_on_its_own_corpora(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "cremad").symlink_to(tiny_data / "tiny")
    config = load_preset("small").with_settings(TINY_SETTINGS)
    data = training_split(tmp_path, ["cremad"], config.labels)
    heard = r"1 corpus in both train of the model to start from and test: cremad; expected .* from scratch \(--preset edge\)"
    with pytest.raises(CorpusError, match=heard):
        Trainer(config, data, tmp_path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()  # said before any feature was computed


def test_a_model_file_gives_what_it_holds(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.init is 'shipped'; expected a run's folder, or optimizer\.frozen=true"):
        load_preset("edge").with_settings(("optimizer.init=shipped",))
    config = load_preset("small").with_settings((*TINY_SETTINGS, "front_end=logmel-paper"))
    data = training_split(tiny_data, ["tiny"], config.labels)
    with pytest.raises(RunError, match="shipped has another front end"):
        Trainer(config, data, tmp_path, tmp_path / "cache")
