"""A timeline as a picture: the waveform, where somebody speaks, and how each utterance sounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import numpy as np

from edge_ser.arrays import Float64Array
from edge_ser.prediction import NO_SPEECH, UNCERTAIN
from edge_ser.timeline.formats import Envelope, Segment

_COLORS = {"neutral": "#9aa0a6", "angry": "#d1495b", "happy": "#edae49", "sad": "#30638e"}
_MEANS = 100  # more utterances than these are drawn as the means of as many equal stretches of time
_WORD_SHARE = 0.038  # of the width: an utterance shorter than that has no room for its label
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
_SPEECH_COLOR = "#dfe8e1"


def draw_timeline(
    file: IO[bytes], title: str, duration_s: float, envelope: Envelope, segments: Sequence[Segment], labels: Sequence[str]
) -> None:
    """Write a PNG: the waveform over the stretches of speech, and every utterance's probabilities below.

    Of more than a hundred utterances, the means of a hundred stretches of time. Needs matplotlib.
    """
    from edge_ser.figures import new_figure
    from edge_ser.terminal import clock_time

    figure = new_figure(figsize=(12, 4.2), dpi=120, layout="constrained")
    from matplotlib.patches import Patch  # after the figure, which imports matplotlib without a trace
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    wave, shares = figure.subplots(2, sharex=True, height_ratios=(1, 1.2))
    colors = {label: _COLORS.get(label, f"C{i}") for i, label in enumerate(labels)}

    at = (np.arange(len(envelope.low)) + 0.5) * duration_s / len(envelope.low)
    wave.fill_between(at, envelope.low, envelope.high, color="#3c4043", linewidth=0)
    peak = max(1e-3, float(envelope.high.max()), -float(envelope.low.min()))
    for segment in segments:
        wave.axvspan(segment.start_s, segment.stop_s, color=_SPEECH_COLOR, linewidth=0, zorder=0)
    wave.set(ylim=(-1.05 * peak, 1.05 * peak), ylabel="waveform", title=title)

    starts, widths, p = _columns(segments, duration_s, labels)
    for i, label in enumerate(labels):
        shares.bar(starts, p[:, i], widths, p[:, :i].sum(axis=1), align="edge", color=colors[label], linewidth=0)
    for segment in segments:
        answer, width = segment.prediction, segment.stop_s - segment.start_s
        if width >= _WORD_SHARE * duration_s:
            middle = segment.start_s + width / 2
            style = "italic" if answer.label in (UNCERTAIN, NO_SPEECH) else "normal"
            shares.text(middle, 1.03, answer.label, ha="center", va="bottom", fontsize=8, fontstyle=style)
    mean = f"\nmean of {duration_s / _MEANS:.3g} s" if len(segments) > _MEANS else ""
    shares.set(xlim=(0, duration_s), ylim=(0, 1.22), yticks=[0, 0.5, 1], ylabel=f"probability{mean}", xlabel="time")
    step_s = next((step for step in _STEPS_S if duration_s / step <= 12), 86400)
    shares.xaxis.set_major_locator(MultipleLocator(step_s))
    shares.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock_time(seconds).removesuffix(".0")))
    for axes in (wave, shares):
        axes.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=_SPEECH_COLOR, label="speech"), *(Patch(color=colors[label], label=label) for label in labels)]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    figure.savefig(file, format="png")


def _columns(
    segments: Sequence[Segment], duration_s: float, labels: Sequence[str]
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return start, width and probabilities [n], [n], [n, n_labels] of the bars: one an utterance, or one a stretch of time."""
    starts = np.array([segment.start_s for segment in segments])
    stops = np.array([segment.stop_s for segment in segments])
    p = np.array([[segment.prediction.probabilities[label] for label in labels] for segment in segments])
    if len(segments) <= _MEANS:
        return starts, stops - starts, p.reshape(-1, len(labels))
    edges = np.linspace(0, duration_s, _MEANS + 1)
    speech_s = np.minimum(stops, edges[1:, None]) - np.maximum(starts, edges[:-1, None])  # [stretch, segment]
    speech_s = speech_s.clip(min=0)
    heard = speech_s.sum(axis=1)
    spoken = heard > 0
    return edges[:-1][spoken], np.diff(edges)[spoken], (speech_s @ p)[spoken] / heard[spoken, None]
