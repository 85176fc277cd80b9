"""What the verbs of the command line share: errors on one line, bars, options, the extras they need."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from edge_ser.errors import MissingExtraError

BAR_WIDTH = 10

model_option = click.option("--model", type=click.Path(path_type=Path), help="Model file; default: the one that ships.")
backend_option = click.option(
    "--backend", default="auto", show_default=True, metavar="NAME", help="auto (by the file), onnx or tflite."
)
threads_option = click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="CPU threads for one answer."
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


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """Return a share from 0 to 1 as a bar of block characters, padded to ``width``.

    >>> bar(0.5, 5)
    '██▌  '
    """
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")).ljust(width)
