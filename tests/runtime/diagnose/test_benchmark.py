from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ser import ConfigError, EmotionRecognizer
from edge_ser.diagnose.benchmark import measurement
from edge_ser.diagnose.benchmark.clips import RATE_HZ, speech_like
from edge_ser.diagnose.benchmark.comparison import format_comparison, matched, ratio_of_medians
from edge_ser.diagnose.benchmark.histogram import sparkline
from edge_ser.diagnose.benchmark.limits import Limit
from edge_ser.diagnose.benchmark.measurement import MIN_ROUNDS, WARM_UP_ROUNDS, Rule, measure
from edge_ser.diagnose.benchmark.results import (
    FORMAT_VERSION,
    STAGES,
    START_SERIES,
    Case,
    Report,
    Result,
    Start,
    Subject,
    Timing,
    read_report,
    to_json,
    write_report,
)
from edge_ser.diagnose.benchmark.table import format_report
from edge_ser.diagnose.machine import read_condition, read_machine
from edge_ser.engines import BACKENDS, ENGINE_PACKAGES, shipped_backend

STATISTICS = ["first_ms", "n", "min", "mean", "p50", "p90", "p99", "max", "outliers", "times_ms"]


@pytest.fixture(scope="module")
def measured() -> Report:
    """A real measurement of two subjects, as short as it can be."""
    return measure([Subject(None), Subject(None, threads=2)], (1, 2), rule=Rule(rounds=3), starts=1, idle_s=0.1)


def made_up(p50_ms: float = 10.0, name: str = "a.onnx", seconds: float = 3.0) -> Report:
    """A report of round figures: every answer took ``p50_ms`` give or take a tenth."""
    spread = np.random.default_rng(1).uniform(0.9, 1.1, 51)
    timing = Timing(tuple(float(p50_ms * s) for s in spread / np.median(spread)), first_ms=4 * p50_ms)
    case = Case(seconds, timing, timing, dict.fromkeys(STAGES, timing), timing, timing)
    start = Start(3.0, dict.fromkeys(START_SERIES, timing), steady_mb=80.0, peak_mb=90.0, idle_cpu_percent=0.1)
    subject = Subject("x/" + name, "onnx", name=name, bytes=660_000, graph_sha256="0" * 64)
    condition = replace(read_condition(Path("/nowhere")), load=0.1)
    return Report("0", read_machine(), condition, condition, 5, 51, "as many", (Result(subject, (case,), start),))


def test_everything_is_measured(measured: Report) -> None:
    assert [result.subject.threads for result in measured.results] == [1, 2]
    for result in measured.results:
        assert result.subject.name == f"edge-ser{BACKENDS[shipped_backend(result.subject.threads)]}"
        assert result.subject.bytes == Path(str(result.subject.model)).stat().st_size
        assert [case.seconds for case in result.cases] == [1, 2]
        for case in result.cases:
            series = [case.answer, case.answer_cpu, *case.stages.values(), case.stream_answer, case.stream_feed]
            for timing in series:
                assert timing is not None
                assert len(timing.times_ms) == 3
                assert min(timing.times_ms) > 0
            assert list(case.stages) == list(STAGES)
            assert case.rtf == pytest.approx(np.median(case.answer.times_ms) / 1000 / case.seconds)
        assert result.start is not None
        assert result.start.seconds == 2  # the nearest to three
        of = {name: timing.times_ms[0] for name, timing in result.start.series.items()}
        assert of["cold_start"] > of["import"] + of["load"] + of["first_answer"]
        assert result.start.steady_mb is not None
        assert result.start.peak_mb is not None
        assert 20 < result.start.steady_mb <= result.start.peak_mb < 1000
        assert 0 <= result.start.idle_cpu_percent < 100


def test_the_stages_are_those_of_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[Any] = []
    monkeypatch.setattr(measurement, "decide", lambda logits, *rest: decided.append(logits))
    measure([Subject(None)], (0.8,), rule=Rule(rounds=1), starts=0)
    assert len(decided) == 1 + WARM_UP_ROUNDS + 1
    expected = EmotionRecognizer().predict((speech_like(0.8), RATE_HZ)).logits
    assert all(np.array_equal(logits, expected) for logits in decided)


def test_json_has_the_documented_keys(measured: Report) -> None:
    table = json.loads(to_json(measured))
    assert list(table) == ["format", "format_version", *(f.name for f in fields(Report))]
    assert (table["format"], table["format_version"]) == ("edge-ser-benchmark", FORMAT_VERSION)
    result = table["results"][0]
    assert list(result) == ["subject", "cases", "start"]
    assert list(result["subject"]) == [f.name for f in fields(Subject)]
    case = result["cases"][0]
    assert list(case) == [*(f.name for f in fields(Case)), "rtf", "stream_cpu_percent"]
    assert list(result["start"]) == [f.name for f in fields(Start)]
    for timing in (case["answer"], case["stages"]["network"], case["stream_answer"], result["start"]["series"]["cold_start"]):
        assert list(timing) == STATISTICS
        assert timing["n"] == len(timing["times_ms"])
        assert timing["p50"] == pytest.approx(np.median(timing["times_ms"]), abs=1e-3)
        assert timing["max"] == max(timing["times_ms"])


def test_every_key_is_documented(measured: Report) -> None:
    text = (Path(__file__).parents[3] / "bench" / "README.md").read_text(encoding="utf-8")
    documented = {part for name in re.findall(r"`([\w.\[\]]+)`", text) for part in name.replace("[]", "").split(".")}

    def keys(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set(value).union(*map(keys, value.values())) if isinstance(value, dict) else set()

    table = json.loads(to_json(measured))
    table["machine"]["packages"] = {}  # its keys are names of packages
    table["before"]["temperatures_c"] = table["after"]["temperatures_c"] = {}
    assert keys(table) <= documented


def test_json_survives_a_round_trip(measured: Report, tmp_path: Path) -> None:
    write_report(measured, tmp_path / "a.json")
    again = read_report(tmp_path / "a.json")
    assert (again.machine, again.before, again.rounds) == (measured.machine, measured.before, measured.rounds)
    assert [r.subject for r in again.results] == [r.subject for r in measured.results]
    assert to_json(again) == to_json(read_report(tmp_path / "a.json"))
    np.testing.assert_allclose(again.results[1].cases[0].answer.times_ms, measured.results[1].cases[0].answer.times_ms, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: "{", "is no JSON"),
        (lambda t: "[]", "its format is not"),
        (lambda t: t | {"format_version": 99}, "reads 1"),
        (lambda t: {k: v for k, v in t.items() if k != "machine"}, "KeyError 'machine'; the file was edited"),
        (lambda t: t | {"results": [{"subject": {"modl": 1}}]}, "the file was edited"),
    ],
)
def test_damaged_benchmarks_are_refused(tmp_path: Path, edit: Any, message: str) -> None:
    edited = edit(json.loads(to_json(made_up())))
    file = tmp_path / "a.json"
    file.write_text(edited if isinstance(edited, str) else json.dumps(edited))
    with pytest.raises(ConfigError, match=message):
        read_report(file)


class _Fake:
    """A runner that notes when it ran and makes up how long it took."""

    def __init__(self, log: list[str], name: str, jitter: float) -> None:
        self.times: list[dict[str, list[float]]] = [{}]
        self._log, self._name, self._rng, self._jitter = log, name, np.random.default_rng(0), jitter

    def run(self, clip: object, times: dict[str, list[float]]) -> None:
        self._log.append(self._name)
        times.setdefault("answer", []).append(float(self._rng.normal(10, self._jitter)))


def test_subjects_take_turns() -> None:
    log: list[str] = []
    runners: Any = [_Fake(log, name, 0.1) for name in "abc"]
    rounds, warm_up, _ = measurement._rounds(runners, [None], Rule(rounds=3), lambda what, share: None)  # type: ignore[list-item]
    assert (rounds, warm_up) == (3, WARM_UP_ROUNDS)
    turns = ["".join(log[i : i + 3]) for i in range(0, len(log), 3)]
    assert len(turns) == 1 + WARM_UP_ROUNDS + 3
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert {turn[0] for turn in turns[-3:]} == {"a", "b", "c"}


@pytest.mark.parametrize(("jitter", "why"), [(0.1, "known to ±2 %"), (5.0, "s were over; medians are known to")])
def test_rounds_stop_when_the_median_is_known_or_time_is_over(jitter: float, why: str) -> None:
    runners: Any = [_Fake([], "a", jitter)]
    rule = Rule(duration_s=30 if jitter < 1 else 0.05)
    rounds, _, found = measurement._rounds(runners, [None], rule, lambda what, share: None)  # type: ignore[list-item]
    assert why in found
    assert rounds == MIN_ROUNDS if jitter < 1 else rounds > 1


def test_outliers_are_counted_and_seen() -> None:
    timing = Timing((*np.linspace(9.0, 11.0, 99), 80.0), first_ms=1.0)
    assert timing.statistics()["outliers"] == 1
    assert timing.statistics()["max"] == 80
    line = sparkline(timing.times_ms)
    assert line.endswith("▁ 80.00")
    assert line.startswith("9.00 █")


def test_the_table_shows_it_all(measured: Report) -> None:
    text = format_report(measured)
    for word in ("1 s, file to answer", "front end", "stream, end to answer", "cold start", "real-time factor", "MB steady"):
        assert word in text, word
    assert f"{WARM_UP_ROUNDS} rounds of warm-up, then 3 rounds" in text
    assert "of weights" in text
    assert max(map(len, text.splitlines())) <= 110


def test_the_engine_and_its_kernels_are_named(measured: Report) -> None:
    engine, kernel = measured.results[0].subject.engine, EmotionRecognizer()._backend.kernel
    assert engine.startswith(ENGINE_PACKAGES[shipped_backend()])
    assert engine.endswith(f" ({kernel})") if kernel else "(" not in engine
    assert engine in format_report(measured)


@pytest.mark.parametrize("width", [40, 80, 100])
def test_the_table_fits_the_terminal(measured: Report, width: int) -> None:
    text = format_report(measured, width)
    assert max(map(len, text.splitlines())) <= width
    assert "real-time" in text


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("p99>20ms", False),
        ("p50 > 9 ms", True),
        ("front_end.max>1000ms", False),
        ("cold_start.p50>5ms", True),
        ("load.first > 39ms", True),
        ("idle_cpu>0.5%", False),
        ("steady_memory>79MB", True),
        ("size>1MB", False),
        ("rtf>0.01", False),
        ("stream_answer.p90>1000ms", False),
    ],
)
def test_limits(text: str, broken: bool) -> None:
    assert bool(Limit.parse(text).broken(made_up())) == broken


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no limit"),
        ("p99", "is no limit"),
        ("p99=20ms", "is no limit"),
        ("p99>20", "unit is missing"),
        ("p99>20MB", "expected ms"),
        ("rtf>1ms", "expected no unit"),
        ("p98>20ms", "unknown metric 'p98'"),
        ("netwrok.p50>1ms", "did you mean 'network.p50'"),
        ("size.p50>1MB", "unknown metric"),
        ("p50.p90>1ms", "unknown metric"),
        ("p50@3s>1ms", "is no limit"),
        ("p50<1ms", "is no limit"),
        ("p99>1e3ms", "is no limit"),
    ],
)
def test_bad_limits_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Limit.parse(text)


def test_a_limit_on_what_was_not_measured_is_an_error() -> None:
    report = made_up()
    without = replace(report, results=tuple(replace(r, start=None) for r in report.results))
    with pytest.raises(ConfigError, match="nothing of the kind was measured"):
        Limit.parse("cold_start.p50>1ms").broken(without)


def test_comparison_tells_slower_from_the_same() -> None:
    a, same, slower = made_up(10.0), made_up(10.0), made_up(15.0)
    assert "no difference shown" in format_comparison(a, same)
    text = format_comparison(a, slower)
    assert "1.50x" in text
    assert "slower" in text
    ratio, low, high = ratio_of_medians(a.results[0].cases[0].answer, slower.results[0].cases[0].answer)
    assert 1.4 < low < ratio < high < 1.6
    assert Limit.parse("p50>1.4x").broken(slower, a)
    assert not Limit.parse("p50>1.6x").broken(slower, a)
    start = a.results[0].start
    assert start is not None
    idle, busy = (
        replace(a, results=(replace(a.results[0], start=replace(start, idle_cpu_percent=share)),)) for share in (0.0, 0.1)
    )
    assert not Limit.parse("idle_cpu>2x").broken(idle, idle)
    assert "it is inf x" in Limit.parse("idle_cpu>2x").broken(busy, idle)[0]


def test_comparison_names_what_else_differs() -> None:
    a, b = made_up(), made_up()
    other = replace(b, machine=replace(b.machine, processor="Cortex-A72", packages={"numpy": "9"}))
    other = replace(other, after=replace(b.after, load=99.0, throttling=("under-voltage",)))
    text = format_comparison(a, other)
    for note in ("another processor", "numpy", "B was slowed down: under-voltage", "B was measured on a busy machine"):
        assert note in text
    assert "note" not in format_comparison(a, b)


def test_comparison_matches_what_was_measured_alike() -> None:
    one, two = made_up(10.0, "one.onnx"), made_up(20.0, "two.onnx")
    a, b = (replace(one, results=(x.results[0], y.results[0])) for x, y in ((one, two), (two, one)))
    assert [r.subject.name for r in matched(a, b).results] == ["one.onnx", "two.onnx"]
    with pytest.raises(ConfigError, match=r"only the first benchmark measured two\.onnx"):
        matched(a, one)


def test_speech_like_sound_is_always_the_same() -> None:
    assert np.array_equal(speech_like(2), speech_like(2))
    assert speech_like(2).dtype == np.int16
    assert 3000 < np.abs(speech_like(3).astype(int)).max() < 32767
