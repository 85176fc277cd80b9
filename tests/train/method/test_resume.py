"""A run that is interrupted, continued, shared by processes, is the run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edge_ser.errors import RunError
from edge_ser_train.corpora.splits import training_split
from edge_ser_train.method import run as runs
from edge_ser_train.method.config import load_config, load_preset
from edge_ser_train.method.run import describe_data, open_run, record_run
from edge_ser_train.method.weights import load_tensors
from tests.commanding import COMMAND
from tests.training import TINY_SETTINGS, setting


def kept_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(folder / runs.MODEL)[0]


INTERRUPTED = """
import os, sys
from edge_ser_train.method.loop import Trainer
step, signal = Trainer.step, int(sys.argv.pop(1))
def interrupted(self):
    step(self)
    if self.progress.step == 7:
        os.kill(os.getpid(), signal)
Trainer.step = interrupted
from edge_ser.cli import main
main()
"""
"""Trains, and is sent a signal while its 7th step is taken."""


@pytest.mark.parametrize("how", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT])
def test_an_interrupted_run_resumes_to_the_same_result(
    train_tiny: Callable[..., Path], tiny_data: Path, tmp_path: Path, how: signal.Signals
) -> None:
    settings = ("optimizer.max_steps=10", "selection.every_steps=3")
    whole = train_tiny(tmp_path / "whole", "edge", *settings)
    cut = tmp_path / "cut"
    config = (whole / runs.CONFIG).read_text()
    (tmp_path / "config.toml").write_text(config)
    arguments = ["train", "--data", tiny_data, "--corpus", "tiny", "--config", tmp_path / "config.toml", "--out", cut]
    command = [sys.executable, "-c", INTERRUPTED, str(int(how)), *map(str, arguments)]
    process = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert b"--resume" in process.stderr
        assert b"Traceback" not in process.stderr
    assert not (cut / runs.REPORT).exists()

    resumed = subprocess.run([*COMMAND, "train", "--out", str(cut), "--resume"], capture_output=True, check=True)
    assert b"resuming at step" in resumed.stderr
    for name, tensor in kept_weights(whole).items():
        assert torch.equal(tensor, kept_weights(cut)[name]), name
    assert (cut / runs.METRICS).read_bytes() == (whole / runs.METRICS).read_bytes()
    reports = [json.loads((folder / runs.REPORT).read_text()) for folder in (whole, cut)]
    assert reports[0]["dev"] == reports[1]["dev"]


def test_a_run_is_never_overwritten_nor_mixed(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = load_preset("edge")
    data = training_split(tiny_data, ["tiny"], config.labels)
    described = describe_data(data, tiny_data, ["tiny"], config)
    with pytest.raises(RunError, match="already holds a run"):
        open_run(config, described, tiny_run, resume=False)
    with pytest.raises(RunError, match="already holds a run"):  # begun while this one read its clips
        record_run(config, described, data, tiny_run)
    with pytest.raises(RunError, match="differs from the settings given"):
        open_run(config, described, tiny_run, resume=True)
    own = load_config(tiny_run / runs.CONFIG)
    with pytest.raises(RunError, match="other clips"):
        open_run(own, described | {"clips_sha256": "0"}, tiny_run, resume=True)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match="cannot make the folder"):
        open_run(config, described, blocked / "run", resume=False)


def train_by_two(data: Path, out: Path, preset: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Train on the miniature corpus in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [str(Path(sys.executable).parent / "edge-ser"), "train", "--data", str(data), "--corpus", "tiny"]
    command += ["--preset", preset, "--out", str(out), *setting(*TINY_SETTINGS, *settings)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    failed = train_by_two(tiny_data, tmp_path / "odd", "edge", "optimizer.batch_size=7")
    assert "a batch of 7 clips cannot be shared by 2 processes" in failed.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "settings"),
    # Batch normalisation leaves gradients of nothing but rounding error, of which Adam makes whole steps: small ones, then.
    [("paper", ("loss.kind=island", "optimizer.ema=0.9")), ("edge", ("optimizer.lr=1e-7",))],
)
def test_two_processes_train_what_one_trains(
    tiny_data: Path, tmp_path: Path, train_tiny: Callable[..., Path], preset: str, settings: tuple[str, ...]
) -> None:
    one = train_tiny(tmp_path / "one", preset, *settings)
    done = train_by_two(tiny_data, tmp_path / "two", preset, *settings)
    assert done.returncode == 0, done.stderr
    both = [load_tensors(folder / runs.CHECKPOINT)[0] for folder in (one, tmp_path / "two")]
    assert both[0].keys() == both[1].keys()
    for name, value in both[0].items():
        if name.startswith(("net.", "ema.", "centres")):
            # In the mean: where a gradient is nearly nothing, Adam makes a step of its rounding error.
            assert (value - both[1][name]).abs().float().mean() < 1e-5, name
    losses = [[json.loads(line)["loss"] for line in (folder / runs.METRICS).open()] for folder in (one, tmp_path / "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
