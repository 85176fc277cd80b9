"""What is to be labelled: recordings below folders, in object storage, or in manifests; sorted, each of them once."""

from __future__ import annotations

import codecs
import csv
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from edge_ser.archive.storage import Storage, is_url, plain
from edge_ser.errors import ConfigError, first_line
from edge_ser.frontend.audio import AUDIO_SUFFIXES
from edge_ser.frontend.containers import FOREIGN_SUFFIXES, skipped

Table: TypeAlias = Any
"""A ``pyarrow.Table``."""

MANIFESTS = (".csv", ".jsonl", ".ndjson", ".parquet")
"""Endings of files that name recordings."""
PATH_COLUMNS = ("file", "path")
"""The column of a manifest that holds the paths."""
OWN_COLUMNS = ("file", "n_bytes", "modified")
"""Columns of a listing; the others were carried along from manifests."""

_TIMES = range(-62135596800_000_000, 253402300800_000_000)
"""Microseconds since 1970 that a ``datetime`` has room for: the years 1 to 9999."""
_ESCAPE = re.compile(r"\\x[89a-f][0-9a-f]")  # how bytes that are no UTF-8 are written
_ENDINGS, _FOREIGN = (tuple(suffix.encode() for suffix in of) for of in (AUDIO_SUFFIXES, FOREIGN_SUFFIXES))


@dataclass(frozen=True)
class Listing:
    """Recordings, sorted by name."""

    recordings: Table
    """``file`` (binary: a path's own bytes, or a URL), ``n_bytes``, ``modified``, and the further columns of manifests."""
    storage: Storage
    """Opens them."""
    n_doubles: int
    """How often a recording was named that had been named before."""
    unlisted: tuple[str, ...]
    """Folders that could not be read, and why."""
    skipped: str
    """What to tell about files that are not decoded here; empty where there are none."""


def listing(names: Sequence[str]) -> Listing:
    """List what ``names`` lead to: folders, recordings, manifests, URLs of object storage.

    ConfigError for a name that leads nowhere, a manifest that cannot be read, or nothing to label at all.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    storage = Storage(name for name in names if is_url(name))
    unlisted: list[str] = []
    foreign: list[str] = []
    tables = []
    for name in names:
        if (plain(name) if is_url(name) else name).lower().endswith(MANIFESTS) and not os.path.isdir(name):
            tables.append(_manifest(name, storage))
        elif is_url(name):
            tables.append(_objects(name, storage, foreign))
        else:
            tables.append(_table(_files(name, unlisted, foreign)))
    try:
        every = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise ConfigError(f"the manifests' columns differ in type: {first_line(error)}") from None
    note = skipped(len(foreign), min(foreign)) if foreign else ""
    if every.num_rows == 0:
        expected = f"{', '.join(AUDIO_SUFFIXES)}, or a manifest that names some"
        raise ConfigError(f"no recordings in {', '.join(names)}; expected files in {expected}{note and f'; {note}'}")
    order = pc.sort_indices(every, sort_keys=[("file", "ascending")])  # stable: of doubles the first named comes first
    every = every.take(order)
    files = every["file"].combine_chunks()
    is_new = pa.concat_arrays([pa.array([True]), pc.not_equal(files[1:], files[:-1])])
    n_doubles = every.num_rows - pc.sum(is_new).as_py()
    return Listing(every.filter(is_new) if n_doubles else every, storage, n_doubles, tuple(unlisted), note)


def of_size(listed: Listing, n_bytes: int) -> list[str]:
    """Return the names of the recordings of ``n_bytes``: all that a file of that length can be."""
    import pyarrow.compute as pc

    found = listed.recordings.filter(pc.equal(listed.recordings["n_bytes"], n_bytes))
    return [os.fsdecode(file) for file in found["file"].to_pylist()]


def text(name: bytes) -> str:
    r"""Return a name as text: bytes that are no UTF-8 are escaped, and so are backslashes where one could be such an escape.

    No two names have the same text.

    >>> text(b"caf\xe9.wav"), text(rb"caf\xe9.wav"), text(rb"C:\calls\1.wav")
    ('caf\\xe9.wav', 'caf\\\\xe9.wav', 'C:\\calls\\1.wav')
    """
    try:
        decoded = name.decode()
        if not _ESCAPE.search(decoded):
            return decoded
    except UnicodeDecodeError:
        pass
    return name.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")


def texts(files: Any) -> Any:
    """Return names (binary) as ``pyarrow`` text, each as :func:`text` does."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        decoded = files.cast(pa.large_string())
        if not pc.any(pc.match_substring(decoded, r"\x")).as_py():
            return decoded
    except pa.ArrowInvalid:
        pass
    return pa.array(map(text, files.to_pylist()), pa.large_string())


def _table(rows: Iterable[tuple[bytes, int, int | None]]) -> Table:
    """Return a listing's own columns of (name, bytes, time of the last change in ns)."""
    import pyarrow as pa

    files, n_bytes, modified = zip(*rows, strict=True) if (rows := list(rows)) else ((), (), ())
    times = pa.array([None if ns is None or ns // 1000 not in _TIMES else ns // 1000 for ns in modified], pa.int64())
    return pa.table(
        {
            "file": pa.array(files, pa.large_binary()),
            "n_bytes": pa.array(n_bytes, pa.int64()),
            "modified": times.cast(pa.timestamp("us", "UTC")),
        }
    )


def _files(name: str, unlisted: list[str], foreign: list[str]) -> Iterator[tuple[bytes, int, int | None]]:
    """Yield the recordings below a folder, or the one file; links to nothing too, which are errors to be told.

    ``unlisted`` gets the folders that cannot be read, ``foreign`` the files there that are not decoded.
    """
    if not os.path.lexists(name):
        raise ConfigError(f"there is no {name}; expected a folder, a recording, a manifest or a URL such as s3://bucket/calls")
    top = os.path.abspath(os.fsencode(name))
    if not os.path.isdir(top):
        yield _stated(top)
        return
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.name.lower().endswith(_ENDINGS):
                        try:
                            found = entry.stat()
                        except OSError:  # a link to nothing gets a row that says so
                            yield entry.path, 0, None
                            continue
                        if stat.S_ISREG(found.st_mode):
                            yield entry.path, found.st_size, found.st_mtime_ns
                    elif entry.name.lower().endswith(_FOREIGN) and entry.is_file():
                        foreign.append(os.fsdecode(entry.path))
        except OSError as error:
            unlisted.append(f"{os.fsdecode(folder)}: {error.strerror}")


def _stated(path: bytes) -> tuple[bytes, int, int | None]:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # not there, or with a zero in its name
        return path, 0, None
    return path, found.st_size, found.st_mtime_ns


def _objects(url: str, storage: Storage, foreign: list[str]) -> Table:
    from pyarrow.fs import FileSelector, FileType

    system, path = storage.located(plain(url))
    scheme = url.partition("://")[0]
    try:
        found = [system.get_file_info(path)] if PurePosixPath(path).suffix.lower() in AUDIO_SUFFIXES else []
        if not found or found[0].type == FileType.Directory:
            found = system.get_file_info(FileSelector(path, recursive=True))
    except OSError as error:
        raise ConfigError(f"cannot list {plain(url)}: {first_line(error)}") from None
    named = [(f"{scheme}://{info.path}", info) for info in found if info.type != FileType.Directory]
    foreign += [name for name, _ in named if name.lower().endswith(FOREIGN_SUFFIXES)]
    return _table(
        (name.encode(), info.size or 0, info.mtime_ns)
        for name, info in named
        if PurePosixPath(info.path).suffix.lower() in AUDIO_SUFFIXES
    )


def _manifest(name: str, storage: Storage) -> Table:
    """Return the recordings that a manifest names, its further columns carried along.

    Paths are seen from the manifest's own folder.
    """
    import pyarrow as pa

    table = _read_manifest(name, storage)
    columns = table.column_names
    lower = [column.lower() for column in columns]
    twice = next((column for column in columns if lower.count(column.lower()) > 1), None)
    if twice is not None:
        raise ConfigError(f"{name} has the column {twice} twice, but for capitals; expected different names")
    column = next((c for c in PATH_COLUMNS if c in columns), None)
    if column is None:
        raise ConfigError(f"{name} has the columns {', '.join(columns)}; expected one of the paths, {' or '.join(PATH_COLUMNS)}")
    try:
        paths = table[column].cast(pa.large_string()).to_pylist()
    except pa.ArrowException:
        raise ConfigError(f"{name}: column {column} holds {table[column].type}; expected paths") from None
    if None in paths or "" in paths:
        row = min(paths.index(nothing) for nothing in (None, "") if nothing in paths)
        raise ConfigError(f"{name}: row {row + 1} has no {column}; expected a path")
    if is_url(name):
        top = plain(name).rpartition("/")[0]
        named = [path if is_url(path) else f"{top}/{path}" for path in paths]
    else:
        top = os.path.dirname(os.path.abspath(name))
        named = [path if is_url(path) else os.path.normpath(os.path.join(top, path)) for path in paths]
    listed = _table(_stated_objects(named, storage))
    for carried in columns:
        if carried not in (column, *OWN_COLUMNS):
            listed = listed.append_column(carried, table[carried])
    taken = set(columns) & set(OWN_COLUMNS[1:])
    if taken:
        raise ConfigError(f"{name}: column {taken.pop()} is one that the answers have; give it another name")
    return listed


def _stated_objects(names: Sequence[str], storage: Storage) -> Iterator[tuple[bytes, int, int | None]]:
    urls: dict[str, list[str]] = {}
    for name in names:
        if is_url(name):
            urls.setdefault(name.partition("://")[2].partition("/")[0], []).append(name)
    infos: dict[str, Any] = {}
    for of_bucket in urls.values():
        system = storage.located(of_bucket[0])[0]
        try:
            infos |= dict(zip(of_bucket, system.get_file_info([storage.located(name)[1] for name in of_bucket]), strict=True))
        except OSError as error:
            raise ConfigError(f"cannot look at {of_bucket[0]}: {first_line(error)}") from None
    for name in names:
        if name in infos:
            yield name.encode(), infos[name].size or 0, infos[name].mtime_ns
        else:
            yield _stated(os.fsencode(name))


def _read_manifest(name: str, storage: Storage) -> Table:
    """Return a manifest as it is: CSV as text alone, so that 007 stays 007."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import json as arrow_json
    from pyarrow import parquet
    from pyarrow.fs import LocalFileSystem

    system, path = storage.located(plain(name)) if is_url(name) else (LocalFileSystem(), name)
    suffix = PurePosixPath(path).suffix.lower()
    try:
        with system.open_input_file(path) as file:
            head = file.read(2**16).removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
            if not head.strip():
                expected = f"a column {' or '.join(PATH_COLUMNS)}, and a row a recording"
                raise ConfigError(f"the manifest {name} is empty; expected {expected}")
            file.seek(0)
            if suffix == ".parquet":
                return parquet.read_table(file)
            if suffix != ".csv":
                return arrow_json.read_json(file)
            columns = next(csv.reader([head.splitlines()[0].decode()]), [])
            as_text = arrow_csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False)
            return arrow_csv.read_csv(file, convert_options=as_text)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"cannot read the manifest {name}: {first_line(error)}") from None
