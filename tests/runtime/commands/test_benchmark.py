from __future__ import annotations

from pathlib import Path

import pytest

from edge_ser.diagnose.benchmark.results import read_report
from tests.commanding import complaint, run, without


def test_the_verb_measures_writes_and_judges(tmp_path: Path) -> None:
    short = ("--runs", 2, "--starts", 0, "--seconds", "0.6,1")
    file, png = tmp_path / "a.json", tmp_path / "a.png"
    done = run("benchmark", *short, "--json", file, "--plot", png, "--fail-if", "p50>10000ms")
    assert done.returncode == 0, done.stderr
    assert [case.seconds for case in read_report(file).results[0].cases] == [0.6, 1]
    assert png.read_bytes().startswith(b"\x89PNG")
    broken = run("benchmark", "--compare", file, file, "--fail-if", "p50>0.001ms", "--fail-if", "p50>2x")
    assert "limit broken: p50>0.001ms" in broken.stderr.decode()
    assert broken.returncode == 1
    assert run("benchmark", "--compare", file, file, "--fail-if", "p50>1.5x").returncode == 0


def test_your_own_recording_is_measured(speech: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert run("benchmark", "--audio", speech, "--runs", 1, "--starts", 0, "--json", file).returncode == 0
    (case,) = read_report(file).results[0].cases
    assert case.seconds == pytest.approx(4.34, abs=0.01)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seconds", "1,x"),
        ("--seconds", "0"),
        ("--threads", "0"),
        ("--runs", "0"),
        ("--fail-if", "p98>1ms"),
        ("--fail-if", "p50>2x"),
    ],
)
def test_mistakes_in_the_command_exit_with_2(arguments: tuple[str, str]) -> None:
    done = run("benchmark", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr.decode()


def test_what_cannot_be_measured_is_one_line(tmp_path: Path) -> None:
    short = ("--runs", 1, "--starts", 0, "--seconds", "1")
    # A recogniser would answer on the CPU; a benchmark of that under this name would be a lie.
    assert "provider cuda is not there to be measured" in complaint(run("benchmark", *short, "--provider", "cuda"))
    assert "nope.onnx" in complaint(run("benchmark", "nope.onnx", *short))
    assert "unknown backend" in complaint(run("benchmark", *short, "--backend", "onx"))
    assert "No such file or directory" in complaint(run("benchmark", *short, "--json", tmp_path / "no" / "a.json"))
    assert "cannot open" in complaint(run("benchmark", *short, "--audio", tmp_path / "no.wav"))
    assert "cannot read the benchmark" in complaint(run("benchmark", "--compare", tmp_path / "a", tmp_path / "b"))


def test_without_matplotlib_the_histogram_is_text(tmp_path: Path) -> None:
    verb = ("benchmark", "--runs", 2, "--starts", 0, "--seconds", 1, "--plot", tmp_path / "a.png")
    done = run(*verb, command=without("matplotlib"))
    assert done.returncode == 0, done.stderr
    assert b"pip install 'edge-ser[plot]'" in done.stderr
    assert "█" in done.stdout.decode()
    assert not (tmp_path / "a.png").exists()
