"""What a benchmark must not exceed: ``--fail-if 'p99>20ms'``.

LIMIT     = METRIC [@ SECONDS s] OP NUMBER [UNIT]
METRIC    = [SERIES .] STATISTIC | SERIES | FIGURE
SERIES    = answer (default), answer_cpu, audio, front_end, network, decision, stream_answer,
            cold_start, import, load, first_answer
STATISTIC = first, min, mean, p50 (default), p90, p99, max
FIGURE    = rtf, stream_cpu [%], idle_cpu [%], steady_memory [MB], peak_memory [MB], size [MB]
UNIT      = us, ms or s of a series; x, a multiple of the other benchmark's, where two are compared
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass

from edge_ser.diagnose.benchmark.results import STAGES, START_SERIES, Report, Result, Timing
from edge_ser.errors import ConfigError, did_you_mean

SERIES = ("answer", "answer_cpu", *STAGES, "stream_answer", *START_SERIES)
STATISTICS = ("first", "min", "mean", "p50", "p90", "p99", "max")
FIGURES = {"rtf": "", "stream_cpu": "%", "idle_cpu": "%", "steady_memory": "MB", "peak_memory": "MB", "size": "MB"}
"""Single figures and their units."""

_TIME_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_LIMIT = re.compile(
    r"(?P<metric>[\w.]+?)(?:@(?P<seconds>[\d.]+)s)?(?P<op>[<>]=?)(?P<value>\d+(?:\.\d*)?|\.\d+)(?P<unit>%|[a-zA-Z]*)"
)


@dataclass(frozen=True)
class Limit:
    """One limit; it is broken where ``metric op value`` is true."""

    text: str
    """As it was given."""
    series: str
    """A name of SERIES or FIGURES."""
    statistic: str
    """Which of a series' statistics; empty for a figure."""
    seconds: float | None
    """Length of the clip it is about; None: every one."""
    op: str
    value: float
    """In ms, MB, % or, where ``relative``, as a multiple of the other benchmark's."""
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read a limit; ConfigError says what is wrong with it.

        >>> Limit.parse("p99@3s > 20ms").value, Limit.parse("cold_start>.45s").value
        (20.0, 450.0)
        """
        found = _LIMIT.fullmatch(re.sub(r"\s", "", text).replace("µs", "us"))
        if found is None:
            raise ConfigError(f"{text!r} is no limit; expected METRIC[@SECONDSs] OP NUMBER UNIT, such as 'p99>20ms'")
        metric, unit = found["metric"], found["unit"]
        series, _, statistic = metric.rpartition(".")
        if metric in FIGURES or metric in SERIES:
            series, statistic = metric, "" if metric in FIGURES else "p50"
        series = series or "answer"
        for part, known in ((series, (*SERIES, *FIGURES)), (statistic, STATISTICS)):
            if part and part not in known:
                near = did_you_mean(part, (*SERIES, *FIGURES, *STATISTICS))
                raise ConfigError(f"{text!r}: {part!r} is not one of {', '.join(known)}{near}")
        if series in FIGURES and statistic:
            raise ConfigError(f"{text!r}: {series} is a single figure; leave out .{statistic}")
        try:
            seconds = None if found["seconds"] is None else float(found["seconds"])
        except ValueError:
            raise ConfigError(f"{text!r}: {found['seconds']!r} is no length in seconds") from None
        if seconds is not None and series in (*START_SERIES, "idle_cpu", "steady_memory", "peak_memory", "size"):
            raise ConfigError(f"{text!r}: {series} does not depend on the length of a clip; leave out @{found['seconds']}s")
        expected = (FIGURES[series],) if series in FIGURES else tuple(_TIME_UNITS)
        if unit not in (*expected, "x"):
            units = " or ".join(filter(None, expected)) or "no unit"
            raise ConfigError(f"{text!r}: the unit is {unit or 'missing'}; expected {units}, or x to compare two benchmarks")
        value = float(found["value"]) * _TIME_UNITS.get(unit, 1.0)
        return cls(text, series, statistic, seconds, found["op"], value, relative=unit == "x")

    def broken(self, report: Report, reference: Report | None = None) -> list[str]:
        """Return a line for every place where ``report`` breaks the limit; ``reference`` is what ``x`` multiplies.

        Raises ConfigError where the report does not hold what the limit is about.
        """
        if self.relative and reference is None:
            raise ConfigError(f"{self.text!r}: x relates two benchmarks; give --compare A.json B.json")
        found, lines = False, []
        for i, result in enumerate(report.results):
            before = dict(self._values(reference.results[i])) if self.relative and reference is not None else {}
            for place, value in self._values(result):
                if self.relative and place not in before:
                    continue
                found = True
                measured = value / before[place] if self.relative else value
                if _OPERATORS[self.op](measured, self.value):
                    unit = "x" if self.relative else FIGURES.get(self.series, "ms")
                    lines.append(f"{self.text}: it is {measured:.4g} {unit}".rstrip() + f" ({result.subject.name}{place})")
        if not found:
            raise ConfigError(f"{self.text!r}: nothing of the kind was measured")
        return lines

    def _values(self, result: Result) -> Iterator[tuple[str, float]]:
        """Yield where and what: one value, or one a clip."""
        start = result.start
        if self.series in START_SERIES or self.series in ("idle_cpu", "steady_memory", "peak_memory", "size"):
            alone: dict[str, float | None] = {"size": result.subject.bytes / 1e6}
            if start is not None:
                alone |= {
                    "idle_cpu": start.idle_cpu_percent,
                    "steady_memory": start.steady_mb,
                    "peak_memory": start.peak_mb,
                    **{name: self._of(timing) for name, timing in start.series.items()},
                }
            value = alone.get(self.series)
            if value is not None:
                yield "", value
            return
        for case in result.cases:
            if self.seconds is not None and abs(case.seconds - self.seconds) > 0.005:
                continue
            series = {"answer": case.answer, "answer_cpu": case.answer_cpu, "stream_answer": case.stream_answer, **case.stages}
            timing = series.get(self.series)
            figures = {"rtf": case.rtf, "stream_cpu": case.stream_cpu_percent}
            measured = figures.get(self.series) if self.series in figures else self._of(timing)
            if measured is not None:
                yield f", {case.seconds:.3g} s", measured

    def _of(self, timing: Timing | None) -> float | None:
        return None if timing is None or not self.statistic else timing.statistics()[self.statistic]
