from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge_ser.errors import RunError
from edge_ser.personal.microphone import speech_frames, speech_vectors
from edge_ser_train.corpora.splits import training_split
from edge_ser_train.method import model, weights
from edge_ser_train.method import run as runs
from edge_ser_train.method.config import OptimizerConfig, TrainConfig, load_config, load_preset
from edge_ser_train.method.inference import encode
from edge_ser_train.method.loop import Trainer, learning_rate
from edge_ser_train.method.losses import class_weights, weighted_center_loss, weighted_softmax_loss
from edge_ser_train.method.outliers import outlier_loss, outliers
from edge_ser_train.method.run import describe_data, open_run, record_run
from edge_ser_train.method.weights import load_run, load_tensors


def trainer(config: TrainConfig, data_dir: Path, folder: Path) -> Trainer:
    data = training_split(data_dir, ["tiny"], config.labels)
    described = describe_data(data, data_dir, ["tiny"], config)
    open_run(config, described, folder, resume=False)
    record_run(config, described, data, folder)
    return Trainer(config, data, folder, folder / "cache")


def paper(*settings: str) -> TrainConfig:
    return load_preset("paper").with_settings(("optimizer.batch_size=8", *settings))


def test_lambda_0_is_the_plain_weighted_softmax(tiny_data: Path, tmp_path: Path) -> None:
    # Without warm-up steps, which have lambda 0 anyway, and with classes of different size, so that the weights matter.
    data = training_split(tiny_data, ["tiny"], load_preset("paper").labels)
    uneven = replace(data, train=tuple([c for c in data.train if c.emotion != "sad" or c.speaker == "s0"]))
    ours, plain = (
        Trainer(paper("loss.warmup_steps=0", setting), uneven, tmp_path, tmp_path / "cache")
        for setting in ("loss.lambda_center=0.0", "seed=0")
    )
    # torch's own weighted mean, Σ ω l / Σ ω, and torch's own Adam, written out.
    adam = torch.optim.Adam(plain.net.parameters(), lr=3e-4)
    omega = class_weights([8, 8, 8, 2])
    for step in range(4):
        x, n_frames, rows = plain.batch(step)
        y = torch.from_numpy(plain.train_y[rows])
        plain.net.train()
        adam.zero_grad()
        F.cross_entropy(plain.net(x, n_frames).logits, y, weight=omega).backward()
        adam.step()
        ours.step()
    for (name, a), (_, b) in zip(ours.net.named_parameters(), plain.net.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5, msg=name)


def test_the_center_loss_takes_over_after_the_warm_up(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(paper("loss.warmup_steps=2"), tiny_data, tmp_path / "run")
    totals = []
    for _ in range(3):
        run.step()
        totals.append(list(run.progress.loss_sums))
        run.progress.loss_sums = [0.0, 0.0, 0.0]
    for joint, softmax_loss, _center in totals[:2]:
        assert joint == softmax_loss
    joint, softmax_loss, center = totals[2]
    assert center > 0
    assert joint == pytest.approx(softmax_loss + 0.3 * center, rel=1e-5)


def test_warm_up_puts_the_centres_on_the_class_means(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(paper(), tiny_data, tmp_path / "run")
    x, n_frames, rows = run.batch(0)
    y = torch.from_numpy(run.train_y[rows])
    with torch.no_grad():
        z = run.net.eval()(x, n_frames).z
    run.step()
    for label in y.unique():
        torch.testing.assert_close(run.centres[label], z[y == label].mean(dim=0), atol=1e-5, rtol=1e-5)


def test_sound_without_speech_teaches_doubt(tiny_data: Path, tmp_path: Path) -> None:
    certain, doubting = (
        trainer(paper("loss.warmup_steps=0", f"loss.outliers={share}"), tiny_data, tmp_path / str(share)) for share in (0.0, 0.25)
    )
    marks = outliers(0, 8, doubting.config)
    assert marks.sum() == 2
    (x, n_frames, rows), (plain, _, same) = doubting.batch(0), certain.batch(0)
    assert np.array_equal(rows, same)
    assert ((x - plain).abs().amax(dim=(1, 2)) > 0).tolist() == marks.tolist()
    y = torch.from_numpy(doubting.train_y[rows])[~marks]
    with torch.no_grad():
        out = doubting.net.eval()(x, n_frames)
    softmax_loss = weighted_softmax_loss(out.logits[~marks], y, doubting.omega)
    center_loss = weighted_center_loss(out.z[~marks], y, torch.zeros(4, 64), doubting.omega)
    doubt = 2 / 8 * outlier_loss(out.logits[marks])
    assert doubt > 0
    doubting.step()
    expected = [softmax_loss + 0.3 * center_loss + doubt, softmax_loss, center_loss]
    assert doubting.progress.loss_sums == pytest.approx([float(value) for value in expected], rel=1e-4)
    for label in y.unique():
        moved = 0.5 * out.z[~marks][y == label].mean(dim=0)  # from 0, by alpha
        torch.testing.assert_close(doubting.centres[label], moved, atol=1e-5, rtol=1e-5)


def test_a_step_goes_down_the_loss_of_its_batch(tiny_data: Path, tmp_path: Path) -> None:
    # The first step of Adam is down the gradient's signs; this small, it lowers the loss whatever the rounding.
    run = trainer(paper("optimizer.lr=1e-5", "loss.warmup_steps=5"), tiny_data, tmp_path / "run")
    x, n_frames, rows = run.batch(0)
    y = torch.from_numpy(run.train_y[rows])

    def loss() -> float:
        with torch.no_grad():
            return float(weighted_softmax_loss(run.net.eval()(x, n_frames).logits, y, run.omega))

    before = loss()
    run.step()
    assert run.progress.loss_sums[0] == pytest.approx(before, rel=1e-4)
    assert loss() < before - 1e-3


def test_one_cycle_is_torchs() -> None:
    config = OptimizerConfig(lr=1e-3, schedule="one_cycle", max_steps=200)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=200)
    for step in range(200):
        assert learning_rate(config, step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        if step < 199:
            schedule.step()


def test_batches_depend_on_the_step_alone(tiny_data: Path, tmp_path: Path) -> None:
    config = load_preset("edge").with_settings(("optimizer.batch_size=8",))
    first, second = (trainer(config, tiny_data, tmp_path / name) for name in "ab")
    in_order = [first.batch(step) for step in range(9)]
    for step in (7, 0, 4, 8):
        for a, b in zip(in_order[step], second.batch(step), strict=True):
            assert np.array_equal(np.asarray(a), np.asarray(b))
    epoch = np.concatenate([in_order[i][2] for i in range(4)])
    assert np.bincount(epoch).tolist() == [1] * 32  # every clip once an epoch


@pytest.mark.parametrize("preset", ["paper", "edge"])
def test_a_finished_run_is_complete(train_tiny: Callable[..., Path], tmp_path: Path, preset: str) -> None:
    run = train_tiny(tmp_path / "run", preset)
    for name in ("config.toml", "data.json", "model.safetensors", "metrics.jsonl", "report.json", "curves.png", "confusion.png"):
        assert (run / name).stat().st_size > 0, name
    assert not list(run.glob(".*")), "temporary files were left behind"
    trained = load_run(run)
    report = json.loads((run / "report.json").read_text())
    assert trained.temperature == report["temperature"] > 0
    assert trained.speech_mean.shape == trained.speech_std.shape == (128,)
    assert report["steps"] == 6
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [2, 4, 6]
    assert max(m["dev_ua"] for m in metrics) == pytest.approx(report["dev"]["ua"])


def test_finishing_measures_speech(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    trained = load_run(tiny_run)
    data = training_split(tiny_data, ["tiny"], trained.labels)
    run = Trainer(load_config(tiny_run / runs.CONFIG), data, tmp_path, tmp_path / "cache")
    speech = np.concatenate([x[speech_frames(x)] for x in run.train_features])
    np.testing.assert_allclose(trained.speech_mean.numpy(), speech.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(trained.speech_std.numpy(), speech.std(axis=0, dtype=np.float64), rtol=1e-6)
    vectors = [v[speech_vectors(x)] for v, x in zip(encode(trained.net, run.train_features), run.train_features, strict=True)]
    ordinary = [v for v, clip in zip(vectors, data.train, strict=True) if clip.emotion == "neutral"]
    for found, of in ((trained.speech_vector, vectors), (trained.ordinary_vector, ordinary)):
        np.testing.assert_allclose(found.numpy(), np.concatenate(of).mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", None, "temperature is None; expected a positive number"),
        ("temperature", -1.0, r"temperature is -1\.0"),
        ("speech_mean", torch.zeros(5), r"speech_mean is \(5,\), expected \(128,\)"),
        ("speech_vector", torch.zeros(5), r"speech_vector is \(5,\), expected \(480,\)"),
        ("ordinary_vector", torch.full((480,), torch.inf), "NaN or infinity"),
        ("speech_mean", torch.full((128,), torch.nan), "NaN or infinity"),
        ("speech_std", torch.zeros(128), "speech_std is not positive"),
        ("speech_std", None, r"speech_std is \(0,\)"),
    ],
)
def test_what_finishing_fitted_is_checked(tiny_run: Path, tmp_path: Path, name: str, value: Any, message: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    tensors, metadata = load_tensors(run / runs.MODEL)
    table: dict[str, Any] = tensors if name in tensors else metadata
    table.pop(name) if value is None else table.update({name: value})
    weights.save_tensors(run / runs.MODEL, tensors, metadata)
    with pytest.raises(RunError, match=message):
        load_run(run)


def dtype_of(value: Any) -> torch.dtype:
    """Return the type of a tensor, or of the first one in what a GRU takes and gives."""
    while not isinstance(value, torch.Tensor):
        value = value[0]
    return value.dtype


def _steps(run: Trainer, n: int) -> None:
    for _ in range(n):
        run.step()


def test_bfloat16_is_for_the_convolutions_alone(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(paper("precision=bfloat16"), tiny_data, tmp_path / "run")
    computed: dict[str, torch.dtype] = {}
    for name, part in (("convolution", run.net.convs[1]), ("GRU", run.net.gru)):
        part.register_forward_pre_hook(lambda part, given, name=name: computed.update({f"into {name}": dtype_of(given[0])}))
        part.register_forward_hook(lambda part, given, out, name=name: computed.update({f"out of {name}": dtype_of(out)}))
    run.step()
    assert computed["out of convolution"] == torch.bfloat16
    assert computed["into GRU"] == torch.float32
    assert all(np.isfinite(run.progress.loss_sums))
    assert all(p.dtype == torch.float32 for p in run.net.parameters())


def test_a_loss_that_explodes_is_one_line(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(paper("optimizer.lr=1e30"), tiny_data, tmp_path / "run")
    with pytest.raises(RunError, match=r"try a lower optimizer\.lr"):
        _steps(run, 5)


def test_the_average_follows_the_weights(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(paper("optimizer.ema=0.5"), tiny_data, tmp_path / "run")
    assert run.average is not None
    before = run.average.fc2.weight.clone()
    run.step()
    decay = 0.1  # (1 + step) / (10 + step) while it is young
    expected = decay * before + (1 - decay) * run.net.fc2.weight
    torch.testing.assert_close(run.average.fc2.weight, expected.detach())


@pytest.mark.parametrize("native", [torch.float32, torch.bfloat16])
def test_the_settings_say_what_the_processor_computed_in(
    train_tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: torch.dtype
) -> None:
    compute_type = model.compute_type
    monkeypatch.setattr(model, "compute_type", lambda of, device: native if of == "auto" else compute_type(of, device))
    run = train_tiny(tmp_path / "run", "edge", "precision=auto", "optimizer.max_steps=2")
    expected = str(native).removeprefix("torch.")
    assert load_config(run / runs.CONFIG).precision == expected
    assert json.loads((run / runs.REPORT).read_text())["precision"] == expected
