"""Cells are run: in the order that answers first, some at a time, by any number of machines that share OUT.

Who runs a cell holds a lease on it: the file OUT/runs/CELL/lease, which names process and host and changes while the process
lives. A process that has ended holds nothing: on the same host at once, on another after LEASE_S seconds in which the file did
not change, by the clock of whoever waits. A machine that slept through that records nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from enum import Enum
from pathlib import Path

import torch
from filelock import SoftFileLease, Timeout

from edge_ser.errors import RunError
from edge_ser_train.method import run as runs
from edge_ser_train.method.config import load_config
from edge_ser_train.paper.cells import Cell, among_the_runs, measure, record, train_cell
from edge_ser_train.paper.experiments import ANSWERS_FIRST
from edge_ser_train.paper.table import has_result

LEASE_S = 60.0


class Outcome(Enum):
    """How the attempt at a cell ended."""

    DONE = "done"
    BEFORE = "done by another process meanwhile"
    ELSEWHERE = "in another process's hands"
    STOPPED = "stopped"
    """By Ctrl-C."""


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells so that each question has its first answer early.

    One seed and one repeat of every experiment come before the next ones, the paper's claim and the recipe that ships before the
    rest, the corpus' own protocol before the one beside it.
    """
    named = list(dict.fromkeys([*ANSWERS_FIRST, *(cell.experiment for cell in cells)]))
    protocols = list(dict.fromkeys(cell.split.protocol for cell in cells))

    def key(cell: Cell) -> tuple[int, int, int, int]:
        rank = named.index(cell.experiment), protocols.index(cell.split.protocol)
        return cell.config.seed, repeat_of(cell), *rank

    return sorted(cells, key=key)


def repeat_of(cell: Cell) -> int:
    """Return which repeat of its protocol's folds a cell belongs to, from 1."""
    found = re.match(r"repeat (\d+)", cell.split.fold)
    return int(found[1]) if found else 1


def run_cell(cell: Cell, data: Path, out: Path, cache: Path, wait_s: float) -> Outcome:
    """Train, measure and record one cell, unless it is done; wait so long for whoever is at it."""
    among_the_runs(cell, out)  # what it lacks is said before a folder is made
    folder = out / "runs" / cell.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lease = SoftFileLease(folder / "lease", lease_duration=LEASE_S)
        lease.acquire(timeout=wait_s, poll_interval=min(1.0, LEASE_S / 3))
    except Timeout:
        return Outcome.ELSEWHERE
    except OSError as error:
        raise RunError(f"cannot work in {folder}: {error.strerror or error}") from None
    try:
        if has_result(out, cell.name):
            return Outcome.BEFORE
        with runs.held(folder):
            cell = _settled(cell, folder)
            trained = train_cell(cell, data, out, cache)
            if trained is None:
                return Outcome.STOPPED
            measured = measure(cell, trained)
            if lease.compromise is not None:
                return Outcome.ELSEWHERE
            record(out, cell, trained.leaks, measured)
            return Outcome.DONE
    finally:
        lease.release()


def _settled(cell: Cell, folder: Path) -> Cell:
    """Return the cell with the precision that its run began with, or that this processor has, in place of ``auto``."""
    from edge_ser_train.method.model import with_settled_precision
    from edge_ser_train.method.processes import present

    if cell.config.precision != "auto":
        return cell
    begun = (folder / runs.CONFIG).is_file()
    own = load_config(folder / runs.CONFIG) if begun else with_settled_precision(cell.config, present().device())
    return replace(cell, config=replace(cell.config, precision=own.precision))


def run_cells(
    cells: Sequence[Cell], data: Path, out: Path, cache: Path, jobs: int, n_wanted: int
) -> Iterator[tuple[Cell, Outcome]]:
    """Run the first ``n_wanted`` of the cells that nobody else runs, ``jobs`` at a time; yield each with how it ended.

    What others run is looked at again in the end, for long enough to see who has died; what they still run then is yielded too.
    Ctrl-C ends it.
    """
    waits = (0.0, 1.5 * LEASE_S)
    for wait_s in waits:
        elsewhere = []
        for cell, outcome in _outcomes(cells, data, out, cache, jobs, n_wanted, wait_s):
            if outcome is Outcome.ELSEWHERE and wait_s != waits[-1]:
                elsewhere.append(cell)
                continue
            n_wanted -= outcome is Outcome.DONE
            yield cell, outcome
            if outcome is Outcome.STOPPED:
                return
        cells = elsewhere


def _outcomes(
    cells: Sequence[Cell], data: Path, out: Path, cache: Path, jobs: int, n_wanted: int, wait_s: float
) -> Iterator[tuple[Cell, Outcome]]:
    waiting = iter(cells)
    if jobs <= 1:
        while n_wanted and (cell := next(waiting, None)):
            outcome = run_cell(cell, data, out, cache, wait_s)
            n_wanted -= outcome is Outcome.DONE
            yield cell, outcome
        return
    os.environ["TQDM_DISABLE"] = "1"  # for the processes, which inherit it: no bars of theirs across this one's
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        running: dict[Future[Outcome], Cell] = {}
        while True:
            while len(running) < min(jobs, n_wanted) and (cell := next(waiting, None)):
                running[pool.submit(run_cell, cell, data, out, cache, wait_s)] = cell
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                n_wanted -= future.result() is Outcome.DONE
                yield running.pop(future), future.result()
