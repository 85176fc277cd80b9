"""The labelled archive: a folder of Parquet files, the parts, each the rows of some recordings, whole or not at all.

    _settings.json     model, settings and columns, the same for all parts
    part-HASH.parquet  rows; the hash is of the part's recordings, the model and the settings
    .lock .writing .run  who labels into it

One run holds ``.lock``. A process that outlives its run, or that the run has given up, may still finish its part. It writes with
``.writing`` held, and only while ``.run`` names its run and nobody has withdrawn the part. So no recording gets two parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ser.errors import ConfigError, first_line
from edge_ser.files import holding, sharing, writing

SETTINGS = "_settings.json"
_PARTS = "part-*.parquet"
_LOCK, _WRITING, _RUN, _WITHDRAWN = ".lock", ".writing", ".run", ".withdrawn-"


@dataclass(frozen=True)
class Terms:
    """What all parts of a dataset have in common."""

    model_sha256: str
    """Of the model file."""
    settings: str
    """How it was asked, as JSON."""
    labels: tuple[str, ...]
    """The emotions, in the model's order."""
    carried: Any
    """``pyarrow.Schema`` of the columns from manifests."""

    def schema(self) -> Any:
        """Return the ``pyarrow.Schema`` of the rows; ConfigError where a carried column has a name of ours."""
        import pyarrow as pa

        text, number = pa.string(), pa.float64()
        ours = pa.schema(
            [
                ("file", text),
                ("start_s", number),
                ("stop_s", number),
                ("duration_s", number),
                ("label", text),
                ("confidence", number),
                ("probabilities", pa.struct([(label, number) for label in self.labels])),
                ("embedding", pa.list_(pa.float32())),
                ("speech", number),
                ("cut", pa.bool_()),
                ("error", text),
                ("modified", pa.timestamp("us", "UTC")),
                ("model_sha256", text),
                ("edge_ser_version", text),
                ("settings", text),
            ]
        )
        taken = [name for name in self.carried.names if name.lower() in ours.names]
        if taken:
            raise ConfigError(f"the manifest's column {taken[0]} is one that the answers have; give it another name")
        return pa.schema([*ours, *self.carried])

    def record(self) -> dict[str, Any]:
        """Return the terms as the settings file holds them."""
        return {
            "model_sha256": self.model_sha256,
            "settings": json.loads(self.settings),
            "labels": list(self.labels),
            "carried": {field.name: str(field.type) for field in self.carried},
        }


class Dataset:
    """The folder ``path``; pickled, it is the same run's in another process."""

    def __init__(self, path: Path, terms: Terms) -> None:
        self.path, self.terms = path.absolute(), terms
        self._run = ""

    def require(self) -> None:
        """Raise ConfigError unless the folder is new, empty, or labelled on the same terms."""
        record = read_record(self.path)
        if record is None:
            if self.path.exists() and (not self.path.is_dir() or any(not p.name.startswith(".") for p in self.path.iterdir())):
                raise ConfigError(f"{self.path} holds something else; expected a new folder, or one that edge-ser label made")
            return
        given = self.terms.record()
        for found, wanted in ((record, given), (record.get("settings", {}), given["settings"])):
            for name, value in wanted.items():
                if name != "settings" and found.get(name) != value:
                    raise ConfigError(
                        f"{self.path} was labelled {_in_words(name, found.get(name))}, now it would be {_in_words(name, value)}; "
                        "ask as before, or give another folder"
                    )

    @contextlib.contextmanager
    def labelling(self) -> Iterator[None]:
        """Hold the folder for one run, from which on no process of an earlier one writes; ConfigError while another has it."""
        with contextlib.ExitStack() as held:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                if not held.enter_context(holding(self.path / _LOCK)):
                    raise ConfigError(f"another run labels into {self.path}; wait for it, or give another folder")
                self.require()
                self._begin()
            except OSError as error:
                raise ConfigError(f"cannot write {self.path}: {error.strerror or error}") from None
            try:
                yield
            finally:
                for left in [self.path / _RUN, *self.path.glob(f"{_WITHDRAWN}*")]:
                    left.unlink(missing_ok=True)

    def _begin(self) -> None:
        self._run = secrets.token_hex(8)
        with sharing(self.path / _WRITING, alone=True):
            (self.path / _RUN).write_text(self._run)
            for left in [*self.path.glob(".*.edge-ser"), *self.path.glob(f"{_WITHDRAWN}*")]:
                left.unlink(missing_ok=True)
        with writing(self.path / SETTINGS) as file:
            file.write(json.dumps(self.terms.record(), ensure_ascii=False, indent=1).encode() + b"\n")

    def part(self, files: Iterable[bytes]) -> Path:
        """Return where the rows of these recordings belong."""
        digest = hashlib.sha256(json.dumps(self.terms.record(), sort_keys=True).encode())
        for file in files:
            digest.update(b"\0" + file)
        return self.path / f"part-{digest.hexdigest()[:32]}.parquet"

    def write(self, part: Path, rows: Any) -> None:
        """Write a part, a ``pyarrow.Table``; do nothing where it is no longer wanted. ConfigError where it cannot be written."""
        import pyarrow as pa
        from pyarrow import parquet

        content = pa.BufferOutputStream()
        # Dictionaries of numbers that are all different make a part a third larger.
        texts = [field.name for field in rows.schema if pa.types.is_string(field.type)]
        parquet.write_table(rows, content, compression="zstd", use_dictionary=texts)
        try:
            with sharing(self.path / _WRITING):
                if self._is_wanted(part):
                    with writing(part) as file:
                        file.write(content.getvalue())
        except OSError as error:
            raise ConfigError(f"cannot write {part}: {error.strerror or error}") from None

    def _is_wanted(self, part: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return (self.path / _RUN).read_text() == self._run and not self._withdrawn(part).exists()
        return False

    def withdraw(self, part: Path) -> bool:
        """Return whether a part was written; if not, from now on it won't be."""
        with sharing(self.path / _WRITING, alone=True):
            if part.exists():
                return True
            self._withdrawn(part).touch()
            return False

    def _withdrawn(self, part: Path) -> Path:
        return self.path / f"{_WITHDRAWN}{part.stem}"

    def parts(self) -> list[Path]:
        """Return the parts that are there."""
        return parts_of(self.path)

    def finished(self) -> Any:
        """Return the names of all recordings that have rows, a ``pyarrow`` array of text."""
        import pyarrow as pa
        import pyarrow.compute as pc

        names = [pc.unique(batch["file"]) for batch in batches(self.path, ["file"])]
        return pc.unique(pa.chunked_array(names, pa.string())).cast(pa.large_string())


def _in_words(name: str, value: Any) -> str:
    """Return what one of the terms of a dataset says about how it was asked for.

    >>> _in_words("min_speech", None), _in_words("segments", True), _in_words("carried", {"agent": "string"})
    ("with the model's own --min-speech", 'with --segments', "with the manifests' columns agent (string)")
    """
    if name in ("model_sha256", "profile_sha256"):
        kind = name.partition("_")[0]
        return f"with the {kind} of SHA-256 {str(value)[:12]}..." if value else f"without a {kind}"
    if name == "segments":
        return f"{'with' if value else 'without'} --segments"
    if name == "min_speech" and value is None:
        return "with the model's own --min-speech"
    if name in ("min_confidence", "min_speech"):
        return f"with --{name.replace('_', '-')} {value}"
    if name == "labels":
        return f"with the labels {', '.join(map(str, value or ()))}"
    if name == "carried":
        columns = ", ".join(f"{column} ({kind})" for column, kind in (value or {}).items())
        return f"with the manifests' columns {columns}" if columns else "without further columns of manifests"
    return f"without the setting {name}" if value is None else f"with --set {name}={value}"


def parts_of(path: Path) -> list[Path]:
    """Return the parts of the dataset in a folder, sorted."""
    return sorted(path.glob(_PARTS))


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the terms of the dataset in a folder; None where there is none, ConfigError where they cannot be read."""
    try:
        record = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path / SETTINGS}: {first_line(error)}; give another folder") from None
    kinds = {"settings": dict, "labels": list, "carried": dict}
    if not isinstance(record, dict) or any(not isinstance(record.get(name, kind()), kind) for name, kind in kinds.items()):
        raise ConfigError(f"{path / SETTINGS} was edited; give another folder")
    return record


def batches(path: Path, columns: Any) -> Iterator[Any]:
    """Yield the rows of a labelled archive, ``pyarrow.RecordBatch`` of the ``columns``; ConfigError for a damaged part."""
    import pyarrow as pa
    from pyarrow import dataset, parquet
    from pyarrow.fs import LocalFileSystem

    parts = parts_of(path)
    if not parts:
        return
    try:
        rows = dataset.dataset(list(map(str, parts)), parquet.read_schema(parts[0]), "parquet", LocalFileSystem())
        yield from rows.to_batches(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        damaged = next((part for part in parts if not _is_whole(part)), path)
        raise ConfigError(f"{damaged} is damaged: {first_line(error)}; remove it and start again") from None


def _is_whole(part: Path) -> bool:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        parquet.ParquetFile(part).close()
    except (pa.ArrowException, OSError):
        return False
    return True
