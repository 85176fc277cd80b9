"""What the terminal shows: errors on one line, bars, times, the table of utterances."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from edge_ser.prediction import Prediction

BAR_WIDTH = 10

_T = TypeVar("_T")


def complain(error: Exception) -> None:
    """Print an error on one line of standard error."""
    click.echo(f"edge-ser: error: {' '.join(str(error).split())}", err=True)


def progress(items: Sequence[_T], label: str) -> Iterator[_T]:
    """Yield the items, and show on standard error, where that is a terminal, how far it is."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(items, file=sys.stderr, label=label, show_pos=True) as shown:
        yield from shown


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
