"""The one way the project writes: files whole or not at all, pipes and devices as it comes; and locks on what is in use."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edge_ser.errors import ConfigError, EdgeSerError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

STANDARD_OUTPUT = Path("-")
"""The path that stands for standard output."""

_NAME_CHARACTERS = 48  # of the target's name in a temporary one, which may not be longer than 255 bytes
_LOCKED_BYTE = 2**30  # of a file on Windows, whose locks keep the bytes from all others: none that is ever written
_WAIT_S = 0.02
_DESCRIPTORS = re.compile(r"/proc/(self|\d+)(/task/\d+)?/fd|/dev/fd")


@contextlib.contextmanager
def writing(path: Path, what: str = "", error: type[EdgeSerError] = ConfigError) -> Iterator[IO[bytes]]:
    """Give a binary file that takes what is to be at ``path``.

    A regular file is replaced when all is written: a reader, or a crash, sees the old file or the new one, never half of it.
    Its permissions and a symbolic link to it stay. Devices, pipes and descriptors (/dev/stdout) are written through, ``-`` is
    standard output. Raises ``error``, which names the file as ``what`` it is, when it cannot be written, BrokenPipeError when
    nobody reads a pipe any more.
    """
    try:
        with _opened(path) as file:
            yield file
            file.flush()
    except BrokenPipeError:
        raise
    except OSError as failure:
        raise _refusal(path, what, error, failure) from None


def require_writable(path: Path, error: type[EdgeSerError] = ConfigError) -> None:
    """Raise ``error`` when :func:`writing` would, as far as that can be known; leave everything as it is."""
    try:
        if not is_stream(path):
            with _partial(_target(path)):
                pass
        elif path != STANDARD_OUTPUT and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as failure:
        raise _refusal(path, "", error, failure) from None


def is_stream(path: Path) -> bool:
    """Return whether what is written to ``path`` arrives at once: not in a regular file that is replaced in the end.

    >>> is_stream(Path("-")), is_stream(Path("/dev/null")), is_stream(Path("new.csv"))
    (True, True, False)
    """
    known = path == STANDARD_OUTPUT or _descriptor(path) is not None
    return known or (path.exists() and not path.is_file() and not path.is_dir())


@contextlib.contextmanager
def holding(path: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock file ``path`` while the block runs, if no other process does for ``wait_s``: that is what it gives.

    A process that is killed holds nothing any more.
    """
    until = time.monotonic() + wait_s
    while (file := _locked(path)) is None and time.monotonic() < until:
        time.sleep(_WAIT_S)
    if file is None:
        yield False
        return
    with file:
        try:
            yield True
        finally:
            _remove(path)


@contextlib.contextmanager
def sharing(path: Path, alone: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``, made where there is none, together with others or ``alone``; wait until that may be."""
    with path.open("a+b") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            _wait_for_lock(file, alone)
        yield


def _refusal(path: Path, what: str, error: type[EdgeSerError], failure: OSError) -> EdgeSerError:
    name = "standard output" if path == STANDARD_OUTPUT else path
    return error(f"cannot write {f'{what} ' if what else ''}{name}: {failure.strerror or failure}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    descriptor = _descriptor(path)
    if path == STANDARD_OUTPUT:
        if sys.stdout is None:
            raise OSError(None, "standard output is closed")
        sys.stdout.flush()
        yield sys.stdout.buffer
    elif descriptor is not None:
        if sys.stdout is not None:
            sys.stdout.flush()
        # Opening it by its name would truncate the file behind it.
        with os.fdopen(os.dup(descriptor), "wb") as file:
            yield file
    elif is_stream(path):
        with os.fdopen(os.open(path, os.O_WRONLY), "wb") as file:
            yield file
    else:
        target = _target(path)
        with _partial(target) as file:
            yield file
            file.flush()
            _keep_permissions(target, file)
            os.fsync(file.fileno())
            if sys.platform == "win32":
                file.close()  # there no open file is renamed
            os.replace(file.name, target)


def _descriptor(path: Path) -> int | None:
    """Return N where ``path`` leads to this process's descriptor N, as /dev/stdout and /dev/fd/N do."""
    if "\0" in str(path):
        return None
    for _ in range(40):  # as many links as the kernel follows
        folder = os.path.realpath(path.parent)
        if path.name.isdigit() and _DESCRIPTORS.fullmatch(folder):
            return int(path.name)
        path = Path(folder, path.name)
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return None


def _target(path: Path) -> Path:
    """Return the regular file, there or not, that ``path`` leads to; OSError where it cannot be replaced."""
    if "\0" in str(path):
        raise OSError(None, "no file can have such a name")
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return target


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[IO[bytes]]:
    """Give a new file beside ``target``, which is gone in the end unless it was renamed; remove those of killed processes."""
    stem = f".{target.name[:_NAME_CHARACTERS]}."
    for left in target.parent.glob(f"{glob.escape(stem)}{'[0-9a-f]' * 8}.edge-ser"):
        with contextlib.suppress(OSError), left.open("r+b") as file:
            _lock(file)  # its writer holds the lock for as long as it lives
            if sys.platform == "win32":
                file.close()
            left.unlink()
    opened = None
    while opened is None:  # another process may take a new file for a dead one's before it is locked
        partial = target.with_name(f"{stem}{os.urandom(4).hex()}.edge-ser")
        opened = _locked(partial)
    with opened:
        try:
            yield opened
        finally:
            if sys.platform == "win32":
                opened.close()  # there no open file is removed
            partial.unlink(missing_ok=True)


def _locked(path: Path) -> IO[bytes] | None:
    """Open ``path``, made where there is none, and lock it while it is open; None where another process has it."""
    while True:
        file = path.open("a+b")
        try:
            _lock(file)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            pass  # a file system without locks: it is nobody's then, and nothing there is ever taken for a dead process's
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # whoever had it removed it meanwhile


def _lock(file: IO[bytes]) -> None:
    """Lock a file for this process alone, until it is closed; BlockingIOError where another process has it."""
    if sys.platform == "win32":
        try:
            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                raise BlockingIOError(error.errno, error.strerror) from None
            raise
        finally:
            file.seek(0, os.SEEK_END)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _wait_for_lock(file: IO[bytes], alone: bool) -> None:
    """Wait until a file is locked, with others unless ``alone``; on Windows, whose locks nobody shares, always alone."""
    if sys.platform == "win32":
        while True:
            with contextlib.suppress(BlockingIOError):
                _lock(file)
                return
            time.sleep(_WAIT_S)
    else:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)


def _remove(lock: Path) -> None:
    """Remove a lock file that is still open; where that cannot be, as on Windows, it stays and is used again."""
    with contextlib.suppress(PermissionError):
        lock.unlink(missing_ok=True)


def _keep_permissions(target: Path, file: IO[bytes]) -> None:
    if sys.platform == "win32":  # its files have owners and lists, which the folder gives
        return
    with contextlib.suppress(OSError):  # where there is none yet, or it is somebody else's
        found = target.stat()
        os.fchmod(file.fileno(), found.st_mode & 0o7777)
        os.fchown(file.fileno(), found.st_uid, found.st_gid)
