"""Two benchmarks side by side: what became faster, what slower, and what only seems so."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_ser.diagnose.benchmark.results import Report, Result, Timing
from edge_ser.errors import ConfigError

_RESAMPLINGS = 2000
_ENOUGH = 10  # below, resampling knows too little of what could have been
_NAME_WIDTH = 26


def matched(a: Report, b: Report) -> Report:
    """Return ``b`` with its results in the order of those of ``a`` that measured the same thing.

    The same thing is a backend, threads and provider; where each holds one result, these two. ConfigError where nothing matches.
    """
    if len(a.results) == len(b.results) == 1:
        return b
    wanted, there = (
        [(r.subject.name, r.subject.backend, r.subject.threads, r.subject.provider) for r in report.results] for report in (a, b)
    )
    of = dict(zip(there, b.results, strict=True))
    for key in wanted:
        if key not in of:
            raise ConfigError("only the first benchmark measured {} with {}, {} threads, {}".format(*key))
    return Report(**{**vars(b), "results": tuple(of[key] for key in wanted)})


def ratio_of_medians(a: Timing, b: Timing) -> tuple[float, float, float]:
    """Return median(b) / median(a) and its 95 % interval (percentile bootstrap, seeded)."""
    rng = np.random.default_rng(0)
    resampled = [np.median(rng.choice(np.array(t.times_ms), (_RESAMPLINGS, len(t.times_ms))), axis=1) for t in (b, a)]
    low, high = np.percentile(resampled[0] / resampled[1], [2.5, 97.5])
    return float(np.median(b.times_ms) / np.median(a.times_ms)), float(low), float(high)


def format_comparison(a: Report, b: Report) -> str:
    """Return a table of the medians of ``a`` and ``b``, whose results match one by one (see :func:`matched`)."""
    lines = [f"note: {note}" for note in _differences(a, b)]
    for before, after in zip(a.results, b.results, strict=True):
        lines += ["", f"{before.subject.name} -> {after.subject.name}", ""]
        lines.append(f"{'ms, p50':<{_NAME_WIDTH}}{'A':>10}{'B':>10}{'B / A':>9}   95 % of the ratio")
        for name, old, new in _series(before, after):
            ratio, low, high = ratio_of_medians(old, new)
            few = min(len(old.times_ms), len(new.times_ms)) < _ENOUGH
            verdict = "too few" if few else "slower" if low > 1 else "faster" if high < 1 else "no difference shown"
            lines.append(
                f"{name:<{_NAME_WIDTH}}{np.median(old.times_ms):>10.2f}{np.median(new.times_ms):>10.2f}{ratio:>8.2f}x"
                f"   {low:.2f} to {high:.2f}  {verdict}"
            )
    return "\n".join(lines).lstrip("\n")


def _series(a: Result, b: Result) -> Iterator[tuple[str, Timing, Timing]]:
    """Yield every series both hold, by the name it has in the table."""
    of_b = {f"{case.seconds:.3g}": case for case in b.cases}
    for case in a.cases:
        other = of_b.get(f"{case.seconds:.3g}")
        if other is not None:
            rows = dict(other.rows())
            yield from ((name, timing, rows[name]) for name, timing in case.rows() if name in rows)
    if a.start is not None and b.start is not None:
        for name, timing in a.start.series.items():
            yield name.replace("_", " "), timing, b.start.series[name]


def _differences(a: Report, b: Report) -> Iterator[str]:
    """Yield what else than the code differs, one line each: it may be the cause."""
    for what in ("board", "processor", "cores", "features", "system", "python"):
        old, new = getattr(a.machine, what), getattr(b.machine, what)
        if old != new:
            yield f"another {what}: {_shown(old)} -> {_shown(new)}"
    packages = sorted(a.machine.packages.keys() | b.machine.packages.keys())
    for name in packages:
        old, new = a.machine.packages.get(name), b.machine.packages.get(name)
        if old != new:
            yield f"{name} {_shown(old)} -> {_shown(new)}"
    for before, after in zip(a.results, b.results, strict=True):
        if before.subject.graph_sha256 != after.subject.graph_sha256:
            yield f"another graph: {before.subject.graph_sha256[:12]} -> {after.subject.graph_sha256[:12]}"
    for name, report in (("A", a), ("B", b)):
        slowed = report.after.throttling
        if slowed:
            yield f"{name} was slowed down: {', '.join(slowed)}"
        if report.overload is not None:
            yield f"{name} was measured on a busy machine: load {report.overload:.1f} on {report.machine.cores} cores"


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
