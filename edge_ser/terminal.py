"""What the terminal shows: errors on one line, bars, times, the table of utterances."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from edge_ser.prediction import Prediction

BAR_WIDTH = 10
WIDE = 100
"""Columns of text where there is no terminal to ask."""
FULL = sys.maxsize
"""Columns of a table where there is no terminal to ask: nothing of it is left out."""
_BAR, _SHARE, _CLOSE_SHARE = BAR_WIDTH + 5, 9, 8

_T = TypeVar("_T")


def complain(error: Exception) -> None:
    """Print an error on one line of standard error."""
    click.echo(f"edge-ser: error: {' '.join(str(error).split())}", err=True)


def columns(otherwise: int = WIDE) -> int:
    """Return the columns of the terminal that standard output is, ``otherwise`` for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else otherwise


class Layout(NamedTuple):
    """Which columns of a table of answers fit, and how wide the first one is."""

    first: int
    has_bar: bool
    has_shares: bool

    @classmethod
    def of(cls, longest: int, n_labels: int, width: int, least: int = 12) -> Layout:
        """Return the fullest layout in which a row fits ``width``; ``longest`` is what the first column would like to have.

        >>> Layout.of(20, 4, 200), Layout.of(20, 4, 80), Layout.of(20, 4, 40)
        (Layout(first=20, has_bar=True, has_shares=True), Layout(first=13, has_bar=False, has_shares=True), \
Layout(first=16, has_bar=False, has_shares=False))
        """
        emotion, percent, length, note = 2 + 9 + 1, 4, 11, 8
        if longest + emotion + _BAR + 1 + n_labels * _SHARE + length + note <= width:
            return cls(longest, True, True)
        with_shares = emotion + percent + n_labels * _CLOSE_SHARE + length + note
        if min(longest, least) + with_shares <= width:
            return cls(min(longest, width - with_shares), False, True)
        return cls(max(1, min(longest, width - emotion - percent - note)), False, False)

    def row(self, first: str, label: str, confidence: str, shares: Iterable[str], length: str, note: str = "") -> str:
        """Return one row; what does not fit the first column loses its beginning."""
        shown = first if len(first) <= self.first else ("…" + first[len(first) - self.first + 1 :])[: self.first]
        sure = f"{confidence:<{_BAR}} " if self.has_bar else f"{confidence.split()[-1][:4]:>4}"
        wide = _SHARE if self.has_bar else _CLOSE_SHARE
        rest = "".join(f"{share:>{wide}}" for share in shares) + f" {length:>10}" if self.has_shares else ""
        return f"{shown:<{self.first}}  {label[:9]:<9} {sure}{rest}{note}".rstrip()


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


def keyed(rows: Iterable[tuple[str, str]], key_width: int, width: int | None = None) -> Iterator[str]:
    """Yield the lines of keys and texts, wrapped to the terminal; what is to be copied, such as a path, stays whole.

    >>> list(keyed([("size", "0.74 MB"), ("", "int8")], 6))
    ['size  0.74 MB', '      int8']
    """
    import textwrap

    columns_of_text = max(20, (width or min(WIDE, columns())) - key_width)
    for key, text in rows:
        for line in textwrap.wrap(text, columns_of_text, break_long_words=False, break_on_hyphens=False) or [""]:
            yield f"{key:<{key_width}}{line}"
            key = ""


def clock_time(seconds: float) -> str:
    """Return a time in a recording.

    >>> clock_time(75.25), clock_time(3675.25)
    ('1:15.2', '1:01:15.2')
    """
    tenths = int(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{tenths / 10:04.1f}" if hours else f"{minutes}:{tenths / 10:04.1f}"


_BARE_UTTERANCE, _NOTE = 46, 9  # columns of a row but for the shares; of its note, goes on


def _is_narrow(n_labels: int, after: str, width: int) -> bool:
    return width < _BARE_UTTERANCE + n_labels * _SHARE + len(after) + _NOTE


def utterance_header(labels: Sequence[str], after: str = "", width: int = FULL) -> str:
    """Return the head of the table that :func:`utterance_row` fills; ``after`` is one more column."""
    if _is_narrow(len(labels), after, width):
        return f"{'start':>9} {'length':>8}  {'emotion':<9} conf"
    shares = "".join(f"{label:>9}" for label in labels)
    return f"{'start':>9} {'length':>8}  {'emotion':<9} {'confidence':<{BAR_WIDTH + 5}} {shares}{after}"


def utterance_row(start_s: float, stop_s: float, answer: Prediction, is_cut: bool, after: str = "", width: int = FULL) -> str:
    """Return one row of the table of utterances. A narrow one, as its head, has neither bar nor shares nor ``after``."""
    if _is_narrow(len(answer.probabilities), after, width):
        note = " …" * is_cut
        return f"{clock_time(start_s):>9} {stop_s - start_s:6.2f} s  {answer.label[:9]:<9} {answer.confidence:4.0%}{note}"
    confidence = f"{bar(answer.confidence)} {answer.confidence:4.0%}"
    shares = "".join(f"{p:>9.0%}" for p in answer.probabilities.values())
    note = "  goes on" * is_cut
    return f"{clock_time(start_s):>9} {stop_s - start_s:6.2f} s  {answer.label:<9} {confidence} {shares}{after}{note}"
