"""Work on many recordings shared out over processes: the answers come in order, as they would from one."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar, cast

from edge_ser.errors import BackendError, EdgeSerError

_T = TypeVar("_T")
_CHUNK = 16  # items handed over at once, so that handing over costs little
_SHARED = "edge_ser.recognizer"  # what is shared, or a part of it
# Asks a process to end. By SIGTERM the pool ends, at once, those that are left when one of them died.
_STOP = getattr(signal, "SIGUSR1", signal.SIGTERM)

_NTSTATUS = {
    0xC0000005: "an access violation",
    0xC000001D: "an illegal instruction",
    0xC00000FD: "a stack overflow",
    0xC0000135: "a DLL that was not found",
    0xC0000374: "a damaged heap",
}
"""What a process's exit code is on Windows when it is killed."""

Work = Callable[[Any, str], _T]


def cores() -> int:
    """Return how many cores this process may use."""
    # Linux alone tells.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def death(exit_code: int) -> str | None:
    """Return what killed a process that left such an exit code: a signal, or an exception of Windows; None: it ended itself.

    >>> death(-4), death(0xC000001D), death(1)
    ('SIGILL', 'an illegal instruction (0xC000001D)', None)
    """
    if exit_code < 0:
        return signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
    if exit_code >= 0xC0000000:
        return f"{_NTSTATUS.get(exit_code, 'an exception')} (0x{exit_code:08X})"
    return None


def each(work: Work[_T], shared: Any, items: Sequence[str], jobs: int) -> Generator[_T | EdgeSerError, None, None]:
    """Yield what ``work(shared, item)`` returns, or the EdgeSerError that it raises, for each of ``items`` in order.

    More than one of ``jobs`` is as many processes; ``work`` is then a function of a module, and ``shared`` is pickled once for
    each. Warnings are given here. When the caller stops, by Ctrl-C too, the processes end with it. Raises BackendError when one
    of them dies.
    """
    if min(jobs, len(items)) <= 1:
        for item in items:
            yield _outcome(work, shared, item)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
    context.set_forkserver_preload([work.__module__, _SHARED])  # imported once for all
    pool = ProcessPoolExecutor(jobs, context, _begin, (work, shared))
    try:
        # Ctrl-C reaches every process of the terminal; the others, which start here, leave it to this one.
        interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
        asked: list[bool] = []
        try:
            if context.get_start_method() == "forkserver":
                from multiprocessing import forkserver

                forkserver.ensure_running()  # which passes on that Ctrl-C is ignored; here it is heard from now on
                signal.signal(signal.SIGINT, lambda *_: asked.append(True))
            outcomes = pool.map(_in_process, items, chunksize=max(1, min(_CHUNK, len(items) // (8 * jobs))))
        finally:
            signal.signal(signal.SIGINT, interrupted)
        if asked:
            raise KeyboardInterrupt
        for outcome, heard in outcomes:
            for message, category in heard:
                warnings.warn(message, category, stacklevel=2)
            yield outcome
    except (BrokenProcessPool, _Ended):
        raise BackendError("one of the processes died, perhaps for want of memory; try --jobs 1") from None
    except BaseException:
        for child in multiprocessing.active_children():
            with contextlib.suppress(OSError):
                os.kill(cast(int, child.pid), _STOP)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(work: Work[_T], shared: Any, item: str) -> _T | EdgeSerError:
    try:
        return work(shared, item)
    except EdgeSerError as error:
        return error


class _Ended(BaseException):
    """Raised in the work of a process whose caller has stopped."""


_begun: list[tuple[Work[Any], Any]] = []
_now = {"working": False, "ended": False}


def _begin(work: Work[Any], shared: Any) -> None:
    _begun.append((work, shared))
    signal.signal(_STOP, _end)


def _end(*_: object) -> None:
    # A process that died while it sends would leave half an answer, for the rest of which the caller waits for ever.
    _now["ended"] = True
    if _now["working"]:
        raise _Ended


def _in_process(item: str) -> tuple[Any, list[tuple[str, type[Warning]]]]:
    ((work, shared),) = _begun
    _now["working"] = True
    try:
        if _now["ended"]:
            raise _Ended
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outcome = _outcome(work, shared, item)
        return outcome, [(str(w.message), w.category) for w in caught]
    finally:
        _now["working"] = False
