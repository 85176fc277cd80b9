"""What a benchmark finds, field by field; these are the fields of its JSON, too.

The JSON is an object with ``format`` (``edge-ser-benchmark``), ``format_version`` and the fields of :class:`Report`; below it
every class here is an object with its fields as keys. A Timing is ``first_ms``, ``times_ms`` and, for those who read it
without this module, the statistics; a Case has ``rtf`` and ``stream_cpu_percent`` as well. Units are in the names.
A field may be added within a version; one that is renamed, removed or changes its meaning makes a new version.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.diagnose.machine import Condition, Machine
from edge_ser.errors import ConfigError
from edge_ser.files import writing

FORMAT = "edge-ser-benchmark"
FORMAT_VERSION = 1

STATISTICS = ("first", "min", "mean", "p50", "p90", "p99", "max")
STAGES = ("audio", "front_end", "network", "decision")
START_SERIES = ("cold_start", "import", "load", "first_answer")

_FAR_OUT = 3.0  # Tukey's outer fence, in interquartile ranges above the third quartile


@dataclass(frozen=True)
class Timing:
    """Times of one thing, in ms."""

    times_ms: tuple[float, ...]
    """One a round, in the order they were taken; warm-up left out."""
    first_ms: float
    """The very first one, before any warm-up."""

    def statistics(self) -> dict[str, float]:
        """Return n, first, min, mean, p50, p90, p99, max (ms) and how many outliers there are.

        An outlier lies more than three interquartile ranges above the third quartile.

        >>> Timing((1.0, 2.0, 3.0, 2.0, 60.0), first_ms=9.0).statistics()["outliers"]
        1
        """
        times = np.array(self.times_ms)
        low, p50, high, p90, p99 = np.percentile(times, [25, 50, 75, 90, 99])
        return {
            "n": len(times),
            "first": self.first_ms,
            "min": float(times.min()),
            "mean": float(times.mean()),
            "p50": float(p50),
            "p90": float(p90),
            "p99": float(p99),
            "max": float(times.max()),
            "outliers": int((times > high + _FAR_OUT * (high - low)).sum()),
        }

    def uncertainty(self) -> float:
        """Return half the width of the median's 95 % interval as a share of it (order statistics); infinity below 6 times."""
        n = len(self.times_ms)
        if n < 6:
            return math.inf
        times = sorted(self.times_ms)
        reach = 0.98 * math.sqrt(n)
        low, high = times[max(0, math.floor(n / 2 - reach))], times[min(n - 1, math.ceil(n / 2 + reach))]
        return (high - low) / 2 / statistics.median(times)


@dataclass(frozen=True)
class Case:
    """One subject's answers for one clip."""

    seconds: float
    """Length of the clip."""
    answer: Timing
    """``predict`` of the file: reading, front end, network and decision."""
    answer_cpu: Timing
    """Processor time of the same, all threads together; a machine busy with other work takes longer, but this hardly grows."""
    stages: dict[str, Timing]
    """The same in its parts, run one by one: ``audio``, ``front_end``, ``network`` (encoder and head), ``decision``."""
    stream_answer: Timing | None
    """End of speech to answer: a stream's last chunk of 20 ms and ``finish()``; None for a model that cannot stream."""
    stream_feed: Timing | None
    """All the chunks before, together."""

    @property
    def rtf(self) -> float:
        """Real-time factor: the median answer's time as a share of the clip's length."""
        return statistics.median(self.answer.times_ms) / 1000 / self.seconds

    @property
    def stream_cpu_percent(self) -> float | None:
        """Share of one core that a stream takes while speech arrives, in per cent."""
        if self.stream_feed is None:
            return None
        return statistics.median(self.stream_feed.times_ms) / 10 / self.seconds

    def rows(self) -> Iterator[tuple[str, Timing]]:
        """Yield what was timed, by the names that people read."""
        yield f"{self.seconds:.3g} s, file to answer", self.answer
        yield "  of it on a processor", self.answer_cpu
        yield from ((f"  {name.replace('_', ' ')}", timing) for name, timing in self.stages.items())
        if self.stream_answer is not None:
            yield "  stream, end to answer", self.stream_answer


@dataclass(frozen=True)
class Start:
    """One subject in processes of its own."""

    seconds: float
    """Length of the clip they answer about."""
    series: dict[str, Timing]
    """``cold_start``: from the start of the process to the first answer; in it ``import``, ``load``, ``first_answer``."""
    steady_mb: float | None
    """Resident memory after twenty answers; None where the system does not tell."""
    peak_mb: float | None
    """The highest it was until then."""
    idle_cpu_percent: float
    """Share of one core that the process takes while a stream is open and nothing arrives."""


@dataclass(frozen=True)
class Subject:
    """A model in an engine; the first four fields are what is asked for."""

    model: str | None
    """Path of the file; None until the model that ships is found."""
    backend: str = "auto"
    threads: int = 1
    provider: str = "cpu"
    name: str = ""
    """The file's name."""
    engine: str = ""
    """The engine's package and version, and the kernels that answered where it tells."""
    bytes: int = 0
    """Size of the file."""
    scheme: str = ""
    """How its weights are stored."""
    weights_int8_percent: float = 0.0
    macs_int8_percent: float = 0.0
    graph_sha256: str = ""


@dataclass(frozen=True)
class Result:
    """Everything measured about one subject."""

    subject: Subject
    cases: tuple[Case, ...]
    start: Start | None
    """None where no processes were started."""


@dataclass(frozen=True)
class Report:
    """What ``edge-ser benchmark`` found."""

    edge_ser: str
    """The version that was measured."""
    machine: Machine
    before: Condition
    after: Condition
    warm_up_rounds: int
    rounds: int
    stopped_because: str
    results: tuple[Result, ...]

    @property
    def overload(self) -> float | None:
        """The machine's load before or after, the higher one, where more processes wanted a core than there are cores."""
        busiest = max((c.load for c in (self.before, self.after) if c.load is not None), default=0.0)
        return busiest if busiest > self.machine.cores else None


def to_json(report: Report) -> str:
    """Return the report as JSON."""
    table = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(report)}
    for result, row in zip(report.results, table["results"], strict=True):
        for case, entry in zip(result.cases, row["cases"], strict=True):
            entry |= {"rtf": case.rtf, "stream_cpu_percent": case.stream_cpu_percent}
    return json.dumps(_with_statistics(table), allow_nan=False)


def _with_statistics(value: Any) -> Any:
    """Add to every Timing below ``value`` its statistics, and round times to what a clock tells."""
    if isinstance(value, dict) and "times_ms" in value:
        timing = Timing(tuple(value["times_ms"]), value["first_ms"])
        found = {key: round(number, 4) for key, number in timing.statistics().items() if key != "first"}
        return {"first_ms": round(timing.first_ms, 4), **found, "times_ms": [round(t, 4) for t in timing.times_ms]}
    if isinstance(value, dict):
        return {key: _with_statistics(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_statistics(of) for of in value]
    return value


def write_report(report: Report, path: Path) -> None:
    """Write the JSON; a reader sees the old file or the new one, never half of it. ConfigError when it cannot be written."""
    with writing(path, "the benchmark") as file:
        file.write(to_json(report).encode() + b"\n")


def read_report(path: Path) -> Report:
    """Read what :func:`write_report` wrote; ConfigError says what was found and what was expected."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the benchmark {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is no JSON; expected what edge-ser benchmark --json wrote") from None
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise ConfigError(f"{path}: its format is not {FORMAT!r}; expected what edge-ser benchmark --json wrote")
    if table.get("format_version") != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: format_version is {table.get('format_version')!r}; this version of edge-ser reads {FORMAT_VERSION}"
        )
    try:
        return _report(table)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigError(f"{path}: {type(error).__name__} {error}; the file was edited") from None


def _report(table: dict[str, Any]) -> Report:
    machine, before, after = table["machine"], table["before"], table["after"]
    for condition in (before, after):
        condition["throttling"] = None if condition["throttling"] is None else tuple(condition["throttling"])
    results = [
        Result(
            Subject(**of["subject"]),
            tuple(
                Case(
                    case["seconds"],
                    _timing(case["answer"]),
                    _timing(case["answer_cpu"]),
                    {name: _timing(case["stages"][name]) for name in STAGES},
                    *(None if case[name] is None else _timing(case[name]) for name in ("stream_answer", "stream_feed")),
                )
                for case in of["cases"]
            ),
            None
            if of["start"] is None
            else Start(**{**of["start"], "series": {name: _timing(of["start"]["series"][name]) for name in START_SERIES}}),
        )
        for of in table["results"]
    ]
    return Report(
        edge_ser=table["edge_ser"],
        machine=Machine(**{**machine, "features": tuple(machine["features"])}),
        before=Condition(**before),
        after=Condition(**after),
        warm_up_rounds=table["warm_up_rounds"],
        rounds=table["rounds"],
        stopped_because=table["stopped_because"],
        results=tuple(results),
    )


def _timing(table: dict[str, Any]) -> Timing:
    return Timing(tuple(map(float, table["times_ms"])), float(table["first_ms"]))
