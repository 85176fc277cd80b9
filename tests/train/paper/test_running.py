from __future__ import annotations

import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from filelock import SoftFileLease

from edge_ser_train.paper import running
from edge_ser_train.paper.cells import Cell, plan_cells
from edge_ser_train.paper.experiments import EXPERIMENTS
from edge_ser_train.paper.running import Outcome, in_order, repeat_of, run_cells
from edge_ser_train.paper.table import read_results
from tests.training import edge_ser, setting

HOLDER = """
import sys, time
from filelock import SoftFileLease
lease = SoftFileLease(sys.argv[1], lease_duration=float(sys.argv[2]))
lease.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cells(tiny_data: Path) -> list[Cell]:
    settings = ("precision=float32",)
    return plan_cells(tiny_data, "tiny", None, ["setting-1", "setting-2", "edge-lambda-0"], 1, settings=settings, quick=True)


def hold(out: Path, cell: Cell) -> subprocess.Popen[bytes]:
    """Start a process that holds the cell's lease until its input ends."""
    lease = out / "runs" / cell.name / "lease"
    lease.parent.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, str(lease), str(running.LEASE_S)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def ended(cells: list[Cell], data: Path, out: Path, n_wanted: int = 9) -> list[tuple[str, Outcome]]:
    return [(cell.experiment, outcome) for cell, outcome in run_cells(cells, data, out, out / "cache", 1, n_wanted)]


def test_what_another_process_runs_is_left_to_it_until_it_dies(
    cells: list[Cell], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "LEASE_S", 6.0)
    other = hold(tmp_path, cells[1])
    assert ended(cells, tiny_data, tmp_path, n_wanted=1) == [("setting-1", Outcome.DONE)]
    alive = ended(cells, tiny_data, tmp_path)
    assert alive == [("setting-1", Outcome.BEFORE), ("edge-lambda-0", Outcome.DONE), ("setting-2", Outcome.ELSEWHERE)]
    other.kill()
    other.communicate()
    assert (tmp_path / "runs" / cells[1].name / "lease").is_file()
    assert ended(cells[1:2], tiny_data, tmp_path) == [("setting-2", Outcome.DONE)]
    assert len(read_results(tmp_path)) == 3
    assert not list(tmp_path.rglob("lease"))


def test_a_dead_host_holds_a_cell_no_longer_than_a_lease(
    cells: list[Cell], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "LEASE_S", 4.0)
    other = hold(tmp_path, cells[0])
    other.kill()
    other.communicate()
    lease = tmp_path / "runs" / cells[0].name / "lease"
    lines = lease.read_text().splitlines(keepends=True)
    lease.write_text("".join("host=another\n" if line.startswith("host=") else line for line in lines))
    assert ended(cells[:2], tiny_data, tmp_path) == [("setting-2", Outcome.DONE), ("setting-1", Outcome.DONE)]


def test_who_has_lost_the_lease_records_nothing(
    cells: list[Cell], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SoftFileLease, "compromise", "owner-changed")
    assert ended(cells[:1], tiny_data, tmp_path) == [("setting-1", Outcome.ELSEWHERE)]
    assert read_results(tmp_path) == {}


def test_the_order_answers_first(iemocap_data: Path) -> None:
    everything = [name for name, e in EXPERIMENTS.items() if not e.lasting]
    cells = in_order(plan_cells(iemocap_data, "iemocap", None, everything, seeds=2))
    answers = [answer for answer, _ in groupby((c.config.seed, repeat_of(c), c.experiment, c.split.protocol) for c in cells)]
    assert answers[:6] == [
        (0, 1, experiment, protocol)
        for experiment in ("setting-1", "setting-2", "edge")
        for protocol in ("paper", "leave-one-session-out")
    ]
    assert len(answers) == len(set(answers)) == 2 * (5 * len(everything) + 6)
    assert [answer[:2] for answer in answers] == sorted(answer[:2] for answer in answers)
    assert [c.split.fold for c in cells[:6]] == [*(f"repeat 1 fold {i}" for i in range(1, 6)), "1"]
    alone = plan_cells(iemocap_data, "iemocap", None, everything, seeds=1, protocol="leave-one-session-out")
    assert len(alone) == 5 * len(everything)


def test_the_cost_is_said_before_anything_starts(tiny_data: Path, tmp_path: Path) -> None:
    where = ("--data", tiny_data, "--corpus", "tiny", "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    said = edge_ser("reproduce", *where, "--seeds", 3, "--table", "1", *setting("precision=float32"), "--cells", 0)
    assert "6 cells (2 experiments), 0 done before" in said
    assert "setting-1 (logmel-paper): measured " in said
    assert "6 cells, 6,000 steps: about " in said
    assert ", 2 cells: setting-2, fixed, seed 0" in said
    assert "6 cells to do; the same command goes on" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_new_speakers_stand_beside_the_papers_table(iemocap_data: Path, tmp_path: Path) -> None:
    where = ("--data", iemocap_data, "--corpus", "iemocap", "--out", tmp_path, "--cache", tmp_path / "cache")
    command = ("reproduce", *where, "--quick", "--table", "1", "--experiment", "alpha-0.1", *setting("precision=float32"))
    assert "3 cells to do" in edge_ser(*command, "--cells", 2)
    done = {name: cell["experiment"] for name, cell in read_results(tmp_path).items()}
    assert list(done.values()) == ["setting-1", "setting-1"]
    assert "to do" not in edge_ser(*command)
    report = (tmp_path / "report-iemocap-4-paper.md").read_text()
    assert "| setting | paper (IEMOCAP) | iemocap-4-paper | iemocap-4-leave-one-session-out |" in report
    assert report.count("| Mel, softmax loss (λ = 0) |") == 3  # theirs beside both, and each place's own table
    assert "### iemocap-4-leave-one-session-out" in report
