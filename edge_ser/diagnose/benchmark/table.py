"""A Report as text for people, within 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from edge_ser.diagnose.benchmark.histogram import SPARK_WIDTH, sparkline
from edge_ser.diagnose.benchmark.results import STATISTICS, Report, Result, Start, Subject, Timing
from edge_ser.diagnose.machine import Condition, Machine
from edge_ser.terminal import WIDE, keyed

_NOT_TOLD = "not told"

_NAME_WIDTH = 26
_KEY_WIDTH = 20  # at least: of what stands before the memory's size and its like
_SPARK_ENDS, _LEAST_SPARK = 20, 24  # columns of both times and the blanks beside a sparkline; of one beside its name


def shown_statistics(width: int) -> list[str]:
    """Return the columns of the table that fit ``width``, the most telling first to stay.

    >>> shown_statistics(100) == [*STATISTICS, "outliers"], shown_statistics(80), shown_statistics(40)
    (True, ['min', 'mean', 'p50', 'p90', 'p99', 'max'], ['p50'])
    """
    ranked = ("p50", "p99", "max", "min", "p90", "mean", "first", "outliers")
    kept = ranked[: max(1, (width - _NAME_WIDTH) // 9)]
    return [name for name in (*STATISTICS, "outliers") if name in kept]


def format_report(report: Report, width: int = WIDE) -> str:
    """Return the machine, how it was measured, a table for every subject, and where the answers' times lie."""
    names = shown_statistics(width)

    def row(name: str, timing: Timing) -> str:
        found = timing.statistics()
        return f"{name:<{_NAME_WIDTH}}" + "".join(f"{found[s]:>9}" if s == "outliers" else f"{found[s]:>9.2f}" for s in names)

    def wrapped(line: str) -> list[str]:
        return textwrap.wrap(line, min(width, WIDE), subsequent_indent="  ")

    lines = [f"edge-ser {report.edge_ser}"]
    for line in (*machine_lines(report.machine), *condition_lines(report.before, report.after)):
        lines += wrapped(line)
    if report.overload is not None:
        lines += wrapped("THE MACHINE IS BUSY: compare what was measured together here, and no times")
    rounds = f"{report.warm_up_rounds} rounds of warm-up, then {report.rounds} rounds, {report.stopped_because}"
    lines += ["", *wrapped(rounds)]
    if len(report.results) > 1:
        lines += wrapped("every round runs each of them in turn, and begins with another one")
    for result in report.results:
        lines += ["", *(part for line in subject_lines(result.subject) for part in wrapped(line)), ""]
        lines.append(f"{'ms':<{_NAME_WIDTH}}" + "".join(f"{name:>9}" for name in names))
        lines += [row(*timed) for case in result.cases for timed in case.rows()]
        if result.start is not None:
            named = {**result.start.series, f"cold start, {result.start.seconds:.3g} s": result.start.series["cold_start"]}
            lines += [row(name.replace("_", " "), timing) for name, timing in named.items() if name != "cold_start"]
        key_width = max(_KEY_WIDTH, min(_NAME_WIDTH, width // 3))
        lines += ["", *keyed((*_costs(result.start), *_shares(result)), key_width, min(width, WIDE))]
    lines += ["", *wrapped("file to answer, ms: from the fastest to the slowest, outliers included")]
    for result in report.results:
        for case in result.cases:
            name = f"{result.subject.name}, {case.seconds:.3g} s"
            room = width - _NAME_WIDTH - _SPARK_ENDS
            if room < _LEAST_SPARK or (len(name) > _NAME_WIDTH and width < WIDE):
                lines.append(name)
                name, room = "", width - _SPARK_ENDS
            line = sparkline(case.answer.times_ms, max(1, min(SPARK_WIDTH, room)))
            lines.append(f"{name:<{_NAME_WIDTH}}  {line}" if name else f"  {line}")
    return "\n".join(line.rstrip() for line in lines)


def machine_lines(machine: Machine) -> list[str]:
    """Return what the machine is, on three lines."""
    ram = _NOT_TOLD if machine.ram_mb is None else f"{machine.ram_mb / 1000:.1f} GB"
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if version)
    virtual = ", virtual" if machine.virtual else ""
    board = f"{machine.board}, " if machine.board else ""
    return [
        f"{board}{machine.processor or 'processor not told'}, {machine.architecture}, {machine.cores} cores{virtual}; "
        f"{', '.join(machine.features) or 'features not told'}; {ram}",
        f"{machine.system}; {machine.python}",
        packages,
    ]


def condition_lines(before: Condition, after: Condition) -> list[str]:
    """Return how the machine fares, before -> after where that changes."""

    def change(of: object, then: object) -> str:
        return f"{of}" if of == then else f"{of} -> {then}"

    def told(value: object, unit: str = "") -> str:
        return _NOT_TOLD if value is None else f"{value}{unit}"

    def heat(condition: Condition) -> str:
        return f"{max(condition.temperatures_c.values()):.0f} °C" if condition.temperatures_c else _NOT_TOLD

    def slowed(condition: Condition) -> str:
        return _NOT_TOLD if condition.throttling is None else ", ".join(condition.throttling) or "none"

    most = f" of at most {before.max_frequency_mhz}" if before.max_frequency_mhz else ""
    mode = f"; power mode {before.power_mode}" if before.power_mode else ""
    return [
        f"governor {told(before.governor)}; {change(told(before.frequency_mhz, ' MHz'), told(after.frequency_mhz, ' MHz'))}"
        f"{most}{mode}; load {change(told(before.load), told(after.load))}",
        f"temperature {change(heat(before), heat(after))}; throttling {change(slowed(before), slowed(after))}",
    ]


def subject_lines(subject: Subject) -> list[str]:
    """Return what was measured, on two lines."""
    threads = f"{subject.threads} thread{'s' if subject.threads > 1 else ''}"
    return [
        f"{subject.name}  {subject.engine}, {threads}, {subject.provider}",
        f"{subject.bytes / 1e6:.3f} MB; int8: {subject.weights_int8_percent:.1f} % of weights, "
        f"{subject.macs_int8_percent:.1f} % of operations; SHA-256 {subject.graph_sha256[:12]}",
    ]


def _costs(start: Start | None) -> Iterator[tuple[str, str]]:
    if start is None:
        return
    told = start.steady_mb is not None
    yield "memory", f"{start.steady_mb:.1f} MB steady, {start.peak_mb:.1f} MB at most" if told else _NOT_TOLD
    yield "idle, a stream open", f"{start.idle_cpu_percent:.2f} % of a core"


def _shares(result: Result) -> Iterator[tuple[str, str]]:
    for case in result.cases:
        cpu = "" if case.stream_cpu_percent is None else f", {case.stream_cpu_percent:.2f} % of a core while speech arrives"
        yield f"{case.seconds:.3g} s", f"real-time factor {case.rtf:.5f}{cpu}"
