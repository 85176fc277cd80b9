"""A page about a labelled archive: one HTML file that needs nothing else, but for the recordings to be listened to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser._version import __version__
from edge_ser.archive.counts import Counts, count
from edge_ser.archive.dataset import read_record
from edge_ser.archive.storage import is_url
from edge_ser.archive.summary import Summary, summarise
from edge_ser.arrays import Float64Array
from edge_ser.errors import ConfigError
from edge_ser.terminal import clock_time

_COLORS = {"neutral": "#9aa0a6", "angry": "#d1495b", "happy": "#edae49", "sad": "#30638e", "uncertain": "#dadce0"}
_OTHERS = ("#6a4c93", "#1982c4", "#8ac926", "#ff924c", "#52796f")
_FOLDERS = 20
_MINUTES = 60
_WIDTH, _HEIGHT = 720, 180
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #202124 }
h1 { font-size: 1.5rem }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
table { border-collapse: collapse; width: 100% }
td, th { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #e8eaed }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.path { word-break: break-all } .quiet { color: #5f6368 }
.share { display: flex; height: 1.1rem; width: 18rem }
.key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem }
svg { width: 100%; height: auto } text { font-size: 11px; fill: #5f6368 } audio { height: 1.8rem; width: 15rem }
@media (prefers-color-scheme: dark) { body { background: #202124; color: #e8eaed } td, th { border-color: #3c4043 } }
"""


def page(path: Path) -> str:
    """Return the page about the dataset in the folder ``path``; ConfigError where there is none."""
    record = read_record(path)
    if record is None:
        raise ConfigError(f"there is no labelled archive in {path}; expected the folder that edge-ser label wrote")
    summary, counts = summarise(path), count(path)
    labels = [*record["labels"], *(set(summary.rows) - set(record["labels"]))]
    colors = {label: _COLORS.get(label, _OTHERS[i % len(_OTHERS)]) for i, label in enumerate(labels)}
    body = "\n".join(_body(path, record, summary, counts, colors))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(path.absolute().name)}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _body(path: Path, record: Mapping[str, Any], summary: Summary, counts: Counts, colors: Mapping[str, str]) -> Iterator[str]:
    n, hours = sum(summary.rows.values()), sum(summary.seconds.values()) / 3600
    yield f"<h1>{escape(path.absolute().name)}</h1>"
    yield f"<p>{n:,} answers about {hours:,.2f} hours. How the speech sounds, not what the people feel."
    yield f'<br><span class="quiet">edge-ser {__version__}, model {escape(str(record["model_sha256"])[:16])}…</span></p>'
    yield "<p>" + "".join(f'<span class="key" style="background:{c}"></span>{escape(label)}' for label, c in colors.items())
    yield "</p><h2>By label</h2>"
    rows = [
        (escape(label), f"{summary.rows[label]:,}", f"{summary.rows[label] / n:.1%}", f"{summary.seconds[label] / 60:,.1f}")
        for label in colors
        if summary.rows[label]
    ]
    yield _table(("label", "answers", "share", "minutes"), rows, numbers=3)
    if summary.n_without_speech:
        yield f"<p>{summary.n_without_speech:,} recordings or utterances hold no speech.</p>"
    if counts.edges:
        yield "<h2>Over time: when the recordings were last changed, share of the seconds</h2>"
        first, last = (f"{counts.edges[i]:%Y-%m-%d %H:%M}" for i in (0, -1))
        yield _columns(counts.by_time, len(counts.edges) - 1, colors, first, last)
    n_minutes = min(_MINUTES, max(map(len, counts.by_place.values()), default=0))
    if n_minutes > 1:
        yield "<h2>Within the recordings, minute by minute</h2>"
        minutes = {label: sums[:n_minutes] for label, sums in counts.by_place.items()}
        yield _columns(minutes, n_minutes, colors, "0 min", f"{n_minutes} min")
    yield "<h2>By folder, share of the minutes</h2>"
    yield _folders(counts.by_folder, colors)
    yield "<h2>Confidence of the answers</h2>"
    yield _histogram(counts.by_confidence)
    yield "<h2>The least certain</h2>"
    yield _heard(counts.unsure)
    if summary.errors:
        yield "<h2>Errors</h2>"
        kinds = [(escape(kind), f"{n:,}", _path(summary.where[kind])) for kind, n in summary.errors.most_common(_FOLDERS)]
        yield _table(("what", "recordings", "such as"), kinds, numbers=0)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> str:
    """Return a table of cells in HTML, so many columns behind the first of numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="n"' if 0 < i <= numbers else "" for i in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)) + "</tr>"

    return "<table>" + row(head, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"


def _path(file: str) -> str:
    return f'<span class="path">{escape(file)}</span>'


def _columns(bins: Mapping[str, Float64Array], n: int, colors: Mapping[str, str], first: str, last: str) -> str:
    """Return stacked columns of shares, [n] each, as SVG; columns without answers are left out."""
    heights = np.zeros((len(colors), n))
    for i, label in enumerate(colors):
        sums = bins.get(label, np.zeros(0))
        heights[i, : len(sums)] = sums
    totals = heights.sum(axis=0)
    width = _WIDTH / n
    boxes = []
    for column in np.flatnonzero(totals):
        top = 0.0
        for share, (label, color) in zip(heights[:, column] / totals[column], colors.items(), strict=True):
            box = f'x="{column * width:.1f}" y="{top * _HEIGHT:.1f}" width="{width * 0.92:.1f}" height="{share * _HEIGHT:.1f}"'
            boxes.append(f'<rect {box} fill="{color}"><title>{escape(label)} {share:.0%}</title></rect>')
            top += float(share)
    return _svg(boxes, first, last)


def _histogram(counts: Float64Array) -> str:
    width, most = _WIDTH / len(counts), max(1.0, float(counts.max()))
    boxes = [
        f'<rect x="{i * width:.1f}" y="{(1 - n / most) * _HEIGHT:.1f}" width="{width * 0.92:.1f}" '
        f'height="{n / most * _HEIGHT:.1f}" fill="#5f6368"><title>{n:,.0f}</title></rect>'
        for i, n in enumerate(counts)
    ]
    return _svg(boxes, "0 %", "100 %")


def _svg(boxes: Iterable[str], first: str, last: str) -> str:
    below = _HEIGHT + 16
    axis = f'<text x="0" y="{below}">{escape(first)}</text><text x="{_WIDTH}" y="{below}" text-anchor="end">{escape(last)}</text>'
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 20}">{"".join(boxes)}{axis}</svg>'


def _folders(by_folder: Mapping[str, Mapping[str, float]], colors: Mapping[str, str]) -> str:
    """Return a row for each of the folders with the most speech."""
    longest = sorted(by_folder, key=lambda folder: -sum(by_folder[folder].values()))
    common = os.path.commonpath(longest) if longest and not any(map(is_url, longest)) else ""
    rows = []
    for folder in longest[:_FOLDERS]:
        sums = by_folder[folder]
        total = max(1e-9, sum(sums.values()))
        bars = "".join(
            f'<i style="background:{color};width:{sums.get(label, 0.0) / total:.2%}" title="{escape(label)}"></i>'
            for label, color in colors.items()
        )
        name = folder[len(common) :].lstrip("/") or folder
        rows.append((_path(name), f"{total / 60:,.1f}", f'<div class="share">{bars}</div>'))
    if len(longest) > _FOLDERS:
        rows.append((f'<span class="quiet">and {len(longest) - _FOLDERS:,} more</span>', "", ""))
    return _table(("folder", "minutes", "shares"), rows, numbers=1)


def _heard(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return answers with what plays them."""
    found = []
    for row in rows:
        start_s, stop_s, file = row["start_s"], row["stop_s"], row["file"]
        source = "" if is_url(file) else f"{Path(file).as_uri()}#t={start_s:.2f},{stop_s:.2f}"
        player = f'<audio controls preload="none" src="{escape(source)}"></audio>' if source else ""
        at = f"{clock_time(start_s)}–{clock_time(stop_s)}"
        found.append((_path(file), at, escape(row["label"]), f"{row['confidence']:.0%}", player))
    return _table(("file", "at", "label", "confidence", ""), found, numbers=3)
