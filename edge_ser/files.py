"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edge_ser.errors import ConfigError, EdgeSerError


@contextlib.contextmanager
def replacing(path: Path, what: str = "", error: type[EdgeSerError] = ConfigError) -> Iterator[Path]:
    """Give a path in the folder of ``path`` to write to; what lies there in the end takes the place of ``path``.

    A reader, or a crash, sees the old file or the new one, never half of it. Raises ``error``, which names the file as
    ``what`` it is, when it cannot be written.
    """
    with _beside(path, what, error) as partial:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)


def require_writable(path: Path) -> None:
    """Raise ConfigError when :func:`replacing` would; leave everything as it is."""
    with _beside(path, "", ConfigError) as partial:
        partial.touch()


@contextlib.contextmanager
def _beside(path: Path, what: str, error: type[EdgeSerError]) -> Iterator[Path]:
    partial = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        if "\0" in path.name:
            raise OSError(None, "no file can have such a name")
        if path.is_dir():
            raise IsADirectoryError(None, "Is a directory")
        yield partial
    except OSError as failure:
        raise error(f"cannot write {f'{what} ' if what else ''}{path}: {failure.strerror or failure}") from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            partial.unlink()
