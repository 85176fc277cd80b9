"""The verbs of training as a user calls them, and the settings of a run that takes seconds."""

from __future__ import annotations

from click.testing import CliRunner

from edge_ser.cli import cli
from edge_ser_train.method import speech

speech.N_SOUNDS = 8  # in this process: a run of seconds would spend most of them on more
TINY_SETTINGS = (
    "optimizer.max_steps=6",
    "optimizer.batch_size=8",
    "selection.every_steps=2",
    "selection.after_step=1",
    "loss.warmup_steps=2",
    "precision=float32",  # on any processor
)


def setting(*settings: str) -> list[str]:
    """Return settings as the command line has them."""
    return [word for one in settings for word in ("--set", one)]


def edge_ser(*arguments: object) -> str:
    """Return what a command that succeeds prints."""
    result = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    """Return what is wrong with a command, its status before it: 2 for a mistake of usage, 1 for one of input."""
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exit_code
    return f"{result.exit_code} {result.output if result.exit_code == 2 else result.exception}"
