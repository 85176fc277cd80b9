"""What a benchmark must not exceed: ``--fail-if 'p99>20ms'``.

LIMIT     = [SERIES .] STATISTIC > NUMBER ms | FIGURE > NUMBER UNIT
SERIES    = answer (default), answer_cpu, audio, front_end, network, decision, stream_answer,
            cold_start, import, load, first_answer
STATISTIC = first, min, mean, p50, p90, p99, max
FIGURE    = rtf, stream_cpu [%], idle_cpu [%], steady_memory [MB], peak_memory [MB], size [MB]

Where two benchmarks are compared the unit may be x, a multiple of the other one's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from edge_ser.diagnose.benchmark.results import STAGES, START_SERIES, STATISTICS, Report, Result, Timing
from edge_ser.errors import ConfigError, did_you_mean

SERIES = ("answer", "answer_cpu", *STAGES, "stream_answer", *START_SERIES)
FIGURES = {"rtf": "", "stream_cpu": "%", "idle_cpu": "%", "steady_memory": "MB", "peak_memory": "MB", "size": "MB"}
"""Single figures and their units."""

_LIMIT = re.compile(r"(\w+(?:\.\w+)?)>(\d+(?:\.\d*)?|\.\d+)(%|[a-zA-Z]*)")


@dataclass(frozen=True)
class Limit:
    """One limit; it is broken where the metric is larger than ``most``."""

    text: str
    """As it was given."""
    metric: str
    """A name of FIGURES, or series and statistic with a dot between."""
    most: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read a limit; ConfigError says what is wrong with it.

        >>> Limit.parse("p99 > 20ms").metric, Limit.parse("size>.7MB").most
        ('answer.p99', 0.7)
        """
        found = _LIMIT.fullmatch(re.sub(r"\s", "", text))
        if found is None:
            raise ConfigError(f"{text!r} is no limit; expected METRIC>NUMBER UNIT, such as 'p99>20ms' or 'size>1MB'")
        metric, most, unit = found[1], float(found[2]), found[3]
        if metric in STATISTICS:
            metric = f"answer.{metric}"
        known = (*FIGURES, *(f"{series}.{statistic}" for series in SERIES for statistic in STATISTICS))
        if metric not in known:
            near = did_you_mean(metric, known)
            raise ConfigError(
                f"{text!r}: unknown metric {found[1]!r}{near}; expected SERIES.STATISTIC or one of {', '.join(FIGURES)}"
            )
        expected = FIGURES.get(metric, "ms")
        if unit not in (expected, "x"):
            raise ConfigError(
                f"{text!r}: the unit is {unit or 'missing'}; expected {expected or 'no unit'}, or x to compare two benchmarks"
            )
        return cls(text, metric, most, unit)

    def broken(self, report: Report, reference: Report | None = None) -> list[str]:
        """Return a line for every place where ``report`` breaks the limit; ``reference`` is what ``x`` multiplies.

        Raises ConfigError where the report does not hold what the limit is about.
        """
        if self.unit == "x" and reference is None:
            raise ConfigError(f"{self.text!r}: x relates two benchmarks; give --compare A.json B.json")
        lines, found = [], False
        for i, result in enumerate(report.results):
            before = dict(self._values(reference.results[i])) if self.unit == "x" and reference is not None else None
            for place, value in self._values(result):
                if before is not None and place not in before:
                    continue
                found = True
                unit = 1.0 if before is None else before[place]
                if value > self.most * unit:
                    measured = f"{value / unit if unit else math.inf:.4g} {self.unit}".rstrip()
                    lines.append(f"{self.text}: it is {measured} ({result.subject.name}{place})")
        if not found:
            raise ConfigError(f"{self.text!r}: nothing of the kind was measured")
        return lines

    def _values(self, result: Result) -> Iterator[tuple[str, float]]:
        """Yield where and what: one value, or one a clip."""
        name, _, statistic = self.metric.partition(".")
        for place, measured in _measured(result):
            value = measured.get(name)
            if value is not None:
                yield place, value.statistics()[statistic] if isinstance(value, Timing) else value


def _measured(result: Result) -> Iterator[tuple[str, dict[str, Timing | float | None]]]:
    """Yield where and what was measured by its names here: of the subject, then of every clip."""
    alone: dict[str, Timing | float | None] = {"size": result.subject.bytes / 1e6}
    if (start := result.start) is not None:
        memory = {"steady_memory": start.steady_mb, "peak_memory": start.peak_mb}
        alone |= {"idle_cpu": start.idle_cpu_percent, **memory, **start.series}
    yield "", alone
    for case in result.cases:
        figures = {"rtf": case.rtf, "stream_cpu": case.stream_cpu_percent}
        series = {"answer": case.answer, "answer_cpu": case.answer_cpu, "stream_answer": case.stream_answer}
        yield f", {case.seconds:.3g} s", {**figures, **series, **case.stages}
