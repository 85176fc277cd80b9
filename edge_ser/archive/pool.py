"""Processes that label units, on this machine; what an engine is, and what one answers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import TypeAlias

from edge_ser.archive.dataset import Dataset
from edge_ser.archive.units import Labeller, Outcome, Unit, label_unit
from edge_ser.errors import BackendError
from edge_ser.processes import death

if sys.platform == "win32":
    from multiprocessing.connection import PipeConnection as Connection
else:
    from multiprocessing.connection import Connection

MOST_FAILED_STARTS = 3
"""In a row; then no process is started any more."""
OUT_OF_MEMORY = 137
"""Exit status of a process that found no memory, as if the system had killed it for that."""


@dataclass(frozen=True)
class Death:
    """A process ended in the middle of a unit."""

    reason: str


Answer: TypeAlias = "Outcome | Death | Exception"
"""What became of a unit: it was labelled, its process ended, or something is wrong that no recording is to blame for."""


class Pool(ABC):
    """Processes that take units when they are free, and write their parts themselves."""

    n_jobs: int
    """Of them, once they were started."""
    _free: Sized
    _busy: Sized

    @property
    def n_free(self) -> int:
        """How many units can be given now."""
        return len(self._free)

    @property
    def n_busy(self) -> int:
        """How many were given and not answered."""
        return len(self._busy)

    @abstractmethod
    def give(self, unit: Unit) -> None:
        """Let a free process label ``unit``."""

    @abstractmethod
    def answers(self) -> list[tuple[Unit, Answer]]:
        """Wait until something happens, and return what became of units meanwhile; BackendError where no process starts."""


def answer(labeller: Labeller, unit: Unit, dataset: Dataset) -> Outcome | Exception:
    """Label a unit, or say why that cannot be; end the process where memory is short: the unit is divided then."""
    try:
        return label_unit(labeller, unit, dataset)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:
        return error


class WithoutPandas:
    """Put into ``sys.meta_path``, keeps pyarrow from importing pandas, 50 MB, only to see that no list is one of its columns."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Refuse it, and leave all else to others."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out here", name=name)


class LocalPool(Pool):
    """So many processes on this machine. Leaving the context ends them, in the middle of a unit too."""

    def __init__(self, jobs: int, labeller: Labeller, dataset: Dataset) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._given = labeller, dataset
        self._starting: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self._free: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self._busy: dict[Connection, tuple[multiprocessing.process.BaseProcess, Unit]] = {}
        self._failed_starts = 0
        self.n_jobs = jobs

    def __enter__(self) -> LocalPool:
        for _ in range(self.n_jobs):
            self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        processes = [*self._starting.values(), *self._free.values(), *(process for process, _ in self._busy.values())]
        for process in processes:
            process.kill()
        for process in processes:
            process.join()

    def give(self, unit: Unit) -> None:
        """Let a free process label ``unit``."""
        connection, process = self._free.popitem()
        self._busy[connection] = process, unit
        with suppress(OSError):  # it has ended, and answers() finds that
            connection.send(unit)

    def answers(self) -> list[tuple[Unit, Answer]]:
        """Wait until something happens, and return what became of units meanwhile; BackendError where no process starts."""
        return [answer for connection in wait([*self._starting, *self._free, *self._busy]) for answer in self._heard(connection)]

    def _heard(self, connection: object) -> Iterator[tuple[Unit, Answer]]:
        assert isinstance(connection, Connection)
        try:
            message = connection.recv()
        except (EOFError, OSError):
            yield from self._ended(connection)
            return
        if connection in self._starting:
            self._failed_starts = 0
            self._free[connection] = self._starting.pop(connection)
        else:
            process, unit = self._busy.pop(connection)
            self._free[connection] = process
            yield unit, message

    def _ended(self, connection: Connection) -> Iterator[tuple[Unit, Answer]]:
        connection.close()
        unit = None
        if connection in self._busy:
            process, unit = self._busy.pop(connection)
        else:
            was_starting = connection in self._starting
            process = self._starting.pop(connection) if was_starting else self._free.pop(connection)
            self._failed_starts += was_starting
        process.join()
        reason = _reason(process.exitcode or 0)
        if self._failed_starts == MOST_FAILED_STARTS:
            raise BackendError(f"the processes that label end while they start: {reason}; give fewer --jobs?")
        self._start()
        if unit is not None:
            yield unit, Death(reason)

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, *self._given), daemon=True)
        process.start()
        theirs.close()
        self._starting[ours] = process


_KILLED = 9  # SIGKILL, which Windows does not name


def _reason(exitcode: int) -> str:
    if exitcode == OUT_OF_MEMORY:
        return "out of memory"
    return f"{death(exitcode) or f'exit status {exitcode}'}{' (out of memory?)' * (-exitcode == _KILLED)}"


def _work(connection: Connection, labeller: Labeller, dataset: Dataset) -> None:
    """Label what comes, in a process of its own, until nobody is there any more."""
    sys.meta_path.insert(0, WithoutPandas)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(None)
    with suppress(EOFError, OSError):
        while True:
            connection.send(answer(labeller, connection.recv(), dataset))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
