"""What the verbs of the command line share: errors on one line, bars, options, the extras they need."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_ser.errors import ConfigError, MissingExtraError, did_you_mean

if TYPE_CHECKING:
    from edge_ser.decision import Prediction

BAR_WIDTH = 10

model_option = click.option("--model", type=click.Path(path_type=Path), help="Model file; default: the one that ships.")
backend_option = click.option(
    "--backend", default="auto", show_default=True, metavar="NAME", help="auto (by the file or speed), onnx, tflite or native."
)
threads_option = click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="CPU threads for one answer."
)
provider_option = click.option(
    "--provider",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="cpu; ONNX: cuda, tensorrt; TFLite: the path of a delegate's library.",
)
min_confidence_option = click.option(
    "--min-confidence",
    default=0.0,
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Answer `uncertain` below this confidence, 0 to 1; default: never.",
)
profile_option = click.option(
    "--profile", type=click.Path(path_type=Path), metavar="FILE", help="What calibrate and adapt learnt (JSON)."
)


def complain(error: Exception) -> None:
    """Print an error on one line of standard error."""
    click.echo(f"edge-ser: error: {' '.join(str(error).split())}", err=True)


def require_extra(extra: str, *modules: str) -> None:
    """Raise MissingExtraError, with the pip line that mends it, unless all of ``modules`` can be imported."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"this command needs {', '.join(missing)}; install with: pip install 'edge-ser[{extra}]'")


def configured(settings: Iterable[str], *kinds: Callable[..., Any]) -> list[Any]:
    """Return one configuration of each of ``kinds``, dataclasses of numbers and booleans, from NAME=VALUE; else BadParameter.

    >>> from edge_ser.tone import ToneConfig
    >>> configured(["hold_s=2", "doubt_novel=false"], ToneConfig)[0].hold_s
    2.0
    """
    known = {field.name: (kind, field) for kind in kinds for field in fields(kind)}  # type: ignore[arg-type]
    given: dict[Any, dict[str, Any]] = {kind: {} for kind in kinds}
    try:
        for setting in settings:
            name, equals, text = setting.partition("=")
            if name not in known or not equals:
                raise ConfigError(
                    f"unknown setting {setting!r}{did_you_mean(name, known)}; expected NAME=VALUE with one of {', '.join(known)}"
                )
            kind, field = known[name]
            is_switch = isinstance(field.default, bool)
            try:
                given[kind][name] = {"true": True, "false": False}[text] if is_switch else float(text)
            except (ValueError, KeyError):
                raise ConfigError(f"{name} is {text!r}; expected {'true or false' if is_switch else 'a number'}") from None
        return [kind(**values) for kind, values in given.items()]
    except ConfigError as error:
        raise click.BadParameter(str(error), param_hint="--set") from None


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """Return a share from 0 to 1 as a bar of block characters, padded to ``width``.

    >>> bar(0.5, 5)
    '██▌  '
    """
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")).ljust(width)


def clock_time(seconds: float) -> str:
    """Return a time in a recording.

    >>> clock_time(75.25), clock_time(3675.25)
    ('1:15.2', '1:01:15.2')
    """
    tenths = int(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{tenths / 10:04.1f}" if hours else f"{minutes}:{tenths / 10:04.1f}"


def utterance_header(labels: Iterable[str]) -> str:
    """Return the head of the table that :func:`utterance_row` fills."""
    shares = "".join(f"{label:>9}" for label in labels)
    return f"{'start':>9} {'length':>8}  {'emotion':<9} {'confidence':<{BAR_WIDTH + 5}} {shares}"


def utterance_row(start_s: float, stop_s: float, answer: Prediction, is_cut: bool, after: str = "") -> str:
    """Return one row of the table of utterances; ``after`` is one more column."""
    confidence = f"{bar(answer.confidence)} {answer.confidence:4.0%}"
    shares = "".join(f"{p:>9.0%}" for p in answer.probabilities.values())
    notes = "".join(f"  {note}" for note, holds in (("novel", answer.is_novel), ("goes on", is_cut)) if holds)
    return f"{clock_time(start_s):>9} {stop_s - start_s:6.2f} s  {answer.label:<9} {confidence} {shares}{after}{notes}"
