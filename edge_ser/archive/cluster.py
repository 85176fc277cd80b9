"""The machines of a Ray cluster, or this one: actors that hold a recogniser each and write their parts themselves.

An actor gets the next unit when it is free, so every path travels to one actor, once. It gets its first when it runs: where
fewer CPUs are free than actors were asked for, the others wait and hold up nobody.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from types import TracebackType
from typing import Any

from edge_ser.archive.dataset import Dataset
from edge_ser.archive.pool import MOST_FAILED_STARTS, Answer, Death, Pool, WithoutPandas, answer
from edge_ser.archive.units import Labeller, Outcome, Unit
from edge_ser.errors import BackendError, first_line

_START_S = 600.0
"""So long may a cluster take to find room for the first actor."""


class RayPool(Pool):
    """So many actors, one CPU each; None: as many as there are CPUs. Leaving the context ends them."""

    def __init__(self, jobs: int | None, labeller: Labeller, dataset: Dataset, address: str | None) -> None:
        # Before ray is imported: it reads them then. The second one is what it does on systems where it knows one machine alone:
        # every process listens at the loopback address, and nobody outside can reach it.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if address is None:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        import ray

        self._ray = ray
        self._jobs, self._address = jobs, address
        self.n_jobs = 0
        self._given: Any = labeller, dataset
        self._starting: dict[Any, Any] = {}
        self._free: list[Any] = []
        self._busy: dict[Any, tuple[Any, Unit]] = {}
        self._failed_starts = 0

    def __enter__(self) -> RayPool:
        ray = self._ray
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": None}
        try:
            if self._address is None:
                quiet["include_dashboard"] = False
                ray.init("local", num_cpus=self._jobs, **quiet)
            else:
                _require_answer(self._address)
                ray.init(self._address, **quiet)
        except (Exception, SystemExit) as error:  # a slow start raises a bare Exception, a port that is taken ends the process
            where = f"at {self._address}" if self._address else "here"
            raise BackendError(f"no Ray cluster {where}: {first_line(error)}; start one with: ray start --head") from None
        self._given = ray.put(self._given)
        self._actor = ray.remote(num_cpus=1, max_restarts=0)(_Actor)
        self.n_jobs = self._jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
        for _ in range(self.n_jobs):
            self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for actor in [*self._starting.values(), *self._free, *(actor for actor, _ in self._busy.values())]:
            self._end(actor)
        self._ray.shutdown()

    def give(self, unit: Unit) -> None:
        """Let a free actor label ``unit``."""
        actor = self._free.pop()
        self._busy[actor.label.remote(unit)] = actor, unit

    def answers(self) -> list[tuple[Unit, Answer]]:
        """Wait until something happens, and return what became of units meanwhile; BackendError where no actor starts."""
        timeout_s = None if self._busy or self._free else _START_S
        done, _ = self._ray.wait([*self._starting, *self._busy], timeout=timeout_s)
        if not done:
            raise BackendError(f"no actor started within {_START_S:g} s; expected a cluster with a free CPU")
        return [found for reference in done for found in self._heard(reference)]

    def _heard(self, reference: Any) -> list[tuple[Unit, Answer]]:
        try:
            message: Outcome | Exception | None = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._ended(reference, error)
        if reference in self._starting:
            self._failed_starts = 0
            self._free.append(self._starting.pop(reference))
            return []
        actor, unit = self._busy.pop(reference)
        self._free.append(actor)
        return [(unit, message)] if message is not None else []

    def _ended(self, reference: Any, error: Exception) -> list[tuple[Unit, Answer]]:
        if reference in self._starting:
            self._end(self._starting.pop(reference))
            self._failed_starts += 1
            if self._failed_starts == MOST_FAILED_STARTS:
                raise BackendError(
                    f"the actors end while they start: {first_line(error)}; is edge-ser installed on every machine?"
                )
            self._start()
            return []
        actor, unit = self._busy.pop(reference)
        self._end(actor)  # one that cannot be reached may still live
        self._start()
        return [(unit, Death(type(error).__name__))]

    def _start(self) -> None:
        actor = self._actor.remote(self._given)
        self._starting[actor.ready.remote()] = actor

    def _end(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)


def _require_answer(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), 5).close()


class _Actor:
    """One process of the cluster."""

    def __init__(self, given: tuple[Labeller, Dataset]) -> None:
        sys.meta_path.insert(0, WithoutPandas)
        self._labeller, self._dataset = given

    def ready(self) -> None:
        """Answer as soon as the recogniser is loaded."""

    def label(self, unit: Unit) -> Outcome | Exception:
        """Label a unit."""
        return answer(self._labeller, unit, self._dataset)
