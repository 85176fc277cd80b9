"""A run: units go to whoever is free, and those whose process ended are divided until the recording is found that ends it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from edge_ser.archive.dataset import Dataset
from edge_ser.archive.pool import Death, Pool
from edge_ser.archive.units import Outcome, Unit, n_bytes, write_error

MOST_DEATHS = 3
"""Processes that may end while they are at one recording alone; then it gets a row that says so."""


def run(work: Iterable[Unit], pool: Pool, dataset: Dataset) -> Iterator[Outcome]:
    """Have all units labelled, and yield what was done as it is done.

    Units are taken when somebody is free for them. Those of a process that ended come again last, in halves, so that a shortage
    may be over. ConfigError or StorageError where the run cannot go on; starting it again goes on where it ended.
    """
    fresh, again = iter(work), deque[Unit]()
    unit = next(fresh, None)
    while unit is not None or again or pool.n_busy:
        while pool.n_free and (unit is not None or again):
            pool.give(unit or again.popleft())
            unit = next(fresh, None)
        for labelled, answer in pool.answers():
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Outcome):
                yield answer
            elif _is_done(labelled, dataset):
                yield Outcome(len(labelled.files), n_bytes(labelled))
            else:
                yield from _once_more(labelled, answer, again, dataset)


def _is_done(unit: Unit, dataset: Dataset) -> bool:
    """Return whether the process ended after its work was done.

    If not, nobody writes the part of several recordings any more: they get others. That of one recording stays the same.
    """
    part = dataset.part(unit.files)
    return dataset.withdraw(part) if len(unit.files) > 1 else part.exists()


def _once_more(unit: Unit, death: Death, again: deque[Unit], dataset: Dataset) -> Iterator[Outcome]:
    if len(unit.files) > 1:
        again.extend(unit.halves())
    elif unit.deaths + 1 < MOST_DEATHS:
        again.append(Unit(unit.recordings, unit.deaths + 1))
    else:
        yield write_error(unit, f"the process that labelled it ended {MOST_DEATHS} times: {death.reason}", dataset)
