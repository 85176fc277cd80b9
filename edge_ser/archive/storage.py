"""Where recordings lie: paths of this machine, and objects of the storage that URLs name (``s3://bucket/key``)."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from edge_ser.errors import AudioError, ConfigError, StorageError, first_line


def is_url(name: str) -> bool:
    """Return whether ``name`` is of object storage.

    >>> is_url("s3://bucket/calls"), is_url("calls/s3:/x.wav")
    (True, False)
    """
    scheme, separator, _ = name.partition("://")
    return bool(separator) and scheme.isalnum() and len(scheme) > 1


def plain(url: str) -> str:
    """Return a URL without credentials and query: what its objects are called.

    >>> plain("s3://key:secret@bucket/calls/?region=eu-west-1")
    's3://bucket/calls'
    """
    parts = _split(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


class Storage:
    """Opens recordings by their names; pickled, it opens them in another process.

    ``urls`` are those that were given: what they say of an endpoint, a region or credentials holds for their whole bucket.
    """

    def __init__(self, urls: Iterable[str] = ()) -> None:
        self._given = {_bucket(url): url for url in urls}
        self._opened: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, str]:
        return self._given

    def __setstate__(self, given: dict[str, str]) -> None:
        self._given, self._opened = given, {}

    def located(self, name: str) -> tuple[Any, str]:
        """Return the pyarrow file system of an object or a folder, and the path in it; StorageError where there is none."""
        from pyarrow import ArrowException
        from pyarrow.fs import FileSystem

        bucket = _bucket(name)
        if bucket not in self._opened:
            try:
                self._opened[bucket] = FileSystem.from_uri(self._given.get(bucket, bucket))[0]
            except (ArrowException, OSError, ValueError) as error:
                raise StorageError(f"cannot open {bucket}: {first_line(error)}") from None
        return self._opened[bucket], name.partition("://")[2]

    def recording(self, file: bytes) -> Any:
        """Return what AudioReader reads: the path, or the open object.

        AudioError for what is no regular file, an object that is not there or not ours to read; StorageError where nobody
        answers.
        """
        name = os.fsdecode(file)
        if not is_url(name):
            with contextlib.suppress(OSError, ValueError):  # what is not there is told when it is opened
                if not stat.S_ISREG(os.stat(name).st_mode):  # a pipe would never end
                    raise AudioError(f"{name} is no regular file; expected a recording")
            return name
        system, path = self.located(name)
        try:
            return _Object(name, system.open_input_stream(path))
        except (FileNotFoundError, PermissionError) as error:
            raise AudioError(f"cannot open {name}: {os.strerror(error.errno or 2)}; expected an audio file") from None
        except OSError as error:
            raise StorageError(f"cannot read {name}: {first_line(error)}; start again when the storage answers") from None


class _Object:
    """An object as the binary file that AudioReader takes."""

    def __init__(self, name: str, stream: Any) -> None:
        self.name, self._stream = name, stream

    def read(self, n: int = -1) -> bytes:
        try:
            content: bytes = self._stream.read(n)
        except OSError as error:
            raise StorageError(f"cannot read {self.name}: {first_line(error)}; start again when the storage answers") from None
        return content


def _split(url: str) -> SplitResult:
    """Return a URL's parts, none of them a fragment: keys may hold #."""
    try:
        return urlsplit(url, allow_fragments=False)
    except ValueError as error:
        raise ConfigError(f"{url} is no URL: {error}; expected one such as s3://bucket/calls") from None


def _bucket(url: str) -> str:
    parts = _split(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
