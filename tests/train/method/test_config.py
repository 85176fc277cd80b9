from __future__ import annotations

from pathlib import Path

import pytest

from edge_ser.errors import ConfigError
from edge_ser_train.method.config import PRESETS, TrainConfig, config_from_toml, load_config, load_preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_round_trip(name: str) -> None:
    preset = load_preset(name)
    assert preset.preset == name
    assert config_from_toml(preset.to_toml(), "again") == preset


def test_the_preset_paper_is_theirs() -> None:
    paper = load_preset("paper")
    assert (paper.loss.lambda_center, paper.loss.alpha, paper.loss.warmup_steps) == (0.3, 0.5, 20)
    assert (paper.optimizer.lr, paper.optimizer.schedule, paper.optimizer.batch_size) == (3e-4, "constant", 32)
    assert (paper.selection.every_steps, paper.selection.after_step) == (11, 200)
    assert not paper.model.batch_norm
    assert paper.model.dropout == 0
    assert paper.front_end == "logmel-paper"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "unknown setting 'sed' \\(did you mean 'seed'"),
        ("[loss]\nlamda_center = 1.0", "unknown setting 'loss.lamda_center' \\(did you mean 'loss.lambda_center|lambda_center"),
        ("train = 1", r"unknown setting 'train'; expected preset, .*, or a name in a section: model\.…, loss\.…, optimizer\.…"),
        ("lambda_center = 1.0", r"unknown setting 'lambda_center' \(did you mean 'loss\.lambda_center'\?\)"),
        ("[loss]\ntrain = 1", "unknown setting 'loss.train'; section loss has lambda_center, alpha,"),
        ("seed = 'x'", "seed is 'x'; expected a whole number"),
        ("[loss]\nalpha = 1.5", "loss.alpha is 1.5; expected 0 to 1"),
        ("[loss]\noutliers = 0.01", "loss.outliers is 0.01; expected 0, or a share that makes 1 to 16 clips"),
        ("[loss]\noutliers = 0.9", "loss.outliers is 0.9"),
        ("loss = 3", r"loss is 3; it is a section: set loss\.lambda_center"),
        ("labels = ['a']", "two or more"),
        ("labels = [1, 2]", "labels"),
        ("front_end = 'mfcc'", "one of logmel-v1"),
        ("[optimizer]\nschedule = 'step'", "constant|one_cycle"),
        ("[selection]\nafter_step = 9999", "less than optimizer.max_steps"),
        ("[augment]\nfreq_warp = 0.9", "augment.freq_warp"),
        ("[model]\ndropout = 1", "model.dropout"),
        ("[augment]\nfreq_mask_bins = 200", "augment.freq_mask_bins is 200; expected at most 128"),
        ("[augment]\ntime_mask_frames = -1", "augment.time_mask_frames"),
        ("[augment]\ngain_db = nan", "augment.gain_db"),
        ("[optimizer]\nlr = inf", "optimizer.lr"),
        ("not toml", "mine.toml: "),
    ],
)
def test_wrong_settings_are_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config_from_toml(text, "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")


def test_settings_from_the_command_line() -> None:
    config = TrainConfig().with_settings(("loss.lambda_center=0", "front_end=logmel-v1", 'precision="float32"'))
    assert (config.loss.lambda_center, config.front_end, config.precision) == (0.0, "logmel-v1", "float32")
    for setting, message in (
        ("seed", "NAME=VALUE"),
        ("los.alpha=1", "did you mean 'loss'"),
        ("loss.alfa=1", "did you mean"),
        ("seed.x=1", "holds a value"),
    ):
        with pytest.raises(ConfigError, match=message):
            TrainConfig().with_settings((setting,))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="unknown preset 'papr' \\(did you mean 'paper'"):
        load_preset("papr")
