"""The profile: what a device has learnt of its microphone and of a person, in one small JSON file.

Data only. It is written whole or not at all, and every statement in it is checked when it is read.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.arrays import AnyArray, Float32Array, Float64Array
from edge_ser.errors import ConfigError
from edge_ser.files import holding, writing
from edge_ser.model.manifest import Manifest
from edge_ser.personal.correction import Correction, Learnt, learn
from edge_ser.personal.microphone import Microphone
from edge_ser.personal.person import Heard, Person

FORMAT = "edge-ser-profile"
FORMAT_VERSION = 4

_MAX_BYTES = 4_000_000
_PATIENCE_S = 2.0  # for whoever changes the file: a correction takes a moment, adapt --record minutes
_ARRAYS = {"statistics": "<u2", "embedding": "<i4", "logits": "<i4"}
"""What is kept of an utterance, and its type in the file."""


@dataclass(frozen=True)
class Profile:
    """What is known of a microphone, of a person, or of both; the person's utterances came through that microphone.

    >>> Profile().microphone is None and Profile().person is None
    True
    """

    microphone: Microphone | None = None
    """What speech looks like to one model through it; None: as the model was trained."""
    person: Person | None = None
    """How they sound to one model; None: as the model was trained."""

    def offset(self, manifest: Manifest) -> Float32Array | None:
        """Return what the model's encoder vectors need behind this microphone; ConfigError when another model measured it."""
        if self.microphone is None:
            return None
        self.microphone.require(manifest.training["weights_sha256"], manifest.encoder_size)
        speech, ordinary = (np.array(v, dtype=np.float32) for v in (manifest.speech_vector, manifest.ordinary_vector))
        return self.microphone.offset(speech, ordinary)

    def correction(self, manifest: Manifest) -> Correction | None:
        """Return what the person's utterances change, None where nothing; ConfigError for a model they don't fit."""
        if self.person is None:
            return None
        self.person.require(manifest.training["weights_sha256"])
        return learn(self.person, Learnt.of(manifest))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile as JSON; a reader sees the old file or the new one, never half of it.

        Raises ConfigError when the file cannot be written, or would be larger than one that is read.
        """
        path = Path(path)
        table: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, "microphone": None, "person": None}
        if self.microphone is not None:
            table["microphone"] = vars(self.microphone) | {"vector": self.microphone.vector.tolist()}
        if self.person is not None:
            heard = [{"label": h.label} | {name: _text(getattr(h, name)) for name in _ARRAYS} for h in self.person.utterances]
            table["person"] = vars(self.person) | {"utterances": heard}
        content = json.dumps(table, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        if len(content) > _MAX_BYTES:
            raise ConfigError(
                f"the profile {path} would have {len(content) / 1e6:.1f} MB; expected at most {_MAX_BYTES // 1_000_000} MB: "
                "take utterances back with edge-ser adapt --forget"
            )
        with writing(path, "the profile") as file:
            file.write(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read what :meth:`save` wrote; ConfigError says what was found and what was expected."""
        try:
            with Path(path).open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
            raise ConfigError(f"cannot read the profile {path}: {getattr(error, 'strerror', None) or error}") from None
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path} is larger than {_MAX_BYTES // 1_000_000} MB; expected a profile that edge-ser wrote")
        try:
            table = json.loads(content)
        except (ValueError, RecursionError):
            raise ConfigError(f"{path} is no JSON; expected a profile that edge-ser wrote") from None
        try:
            return cls._from_table(table)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def load_or_begin(cls, path: str | os.PathLike[str]) -> Profile:
        """Read the profile that is to learn: :meth:`load`, or an empty one where there is no file yet."""
        return cls.load(path) if Path(path).exists() else cls()

    @classmethod
    def _from_table(cls, table: Any) -> Profile:
        if not isinstance(table, dict) or table.pop("format", None) != FORMAT:
            raise ConfigError(f"format is not {FORMAT!r}; expected a profile that edge-ser wrote")
        version = table.pop("format_version", None)
        if type(version) is not int or version != FORMAT_VERSION:
            raise ConfigError(
                f"profile: format_version is {version!r}; this version of edge-ser reads {FORMAT_VERSION}: write it anew with "
                "edge-ser calibrate or adapt (or upgrade edge-ser?)"
            )
        _require_keys("profile", table, cls)
        microphone, person = table["microphone"], table["person"]
        return cls(None if microphone is None else _microphone(microphone), None if person is None else _person(person))


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep others from changing the profile at ``path`` while the block reads, extends and saves it.

    Raises ConfigError where another process is at it for more than a moment, or no file can be written there.
    """
    target = Path(os.path.realpath(path))
    with contextlib.ExitStack() as held:
        try:
            is_alone = held.enter_context(holding(target.with_name(f".{target.name}.adapting"), _PATIENCE_S))
        except OSError as error:
            raise ConfigError(f"cannot write the profile {path}: {error.strerror or error}") from None
        if not is_alone:
            raise ConfigError(f"another process is changing {path}; start again when it has ended")
        yield


def _microphone(table: Any) -> Microphone:
    _require_keys("microphone", table, Microphone)
    vector = _numbers("microphone: vector", table["vector"])
    with np.errstate(over="ignore"):  # infinity, which is refused as such
        return Microphone(**table | {"vector": vector.astype(np.float32)})


def _person(table: Any) -> Person:
    _require_keys("person", table, Person)
    kinds = {"weights_sha256": str, "utterances": list, "only": bool}
    for name, kind in kinds.items():
        if not isinstance(table[name], kind):
            raise ConfigError(f"person: {name} is {type(table[name]).__name__}; the file was edited")
    utterances = []
    for heard in table["utterances"]:
        _require_keys("person: an utterance", heard, Heard)
        utterances.append(Heard(heard["label"], *(_array(name, heard[name], dtype) for name, dtype in _ARRAYS.items())))
    return Person(table["weights_sha256"], tuple(utterances), table["only"])


def _text(values: AnyArray) -> str:
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def _array(name: str, text: Any, dtype: str) -> AnyArray:
    try:
        content = base64.b64decode(text, validate=True)
        return np.frombuffer(content, dtype=dtype).astype(np.dtype(dtype).newbyteorder("="))
    except (TypeError, ValueError):
        raise ConfigError(f"person: {name} of an utterance is no base64 of whole numbers; the file was edited") from None


def _require_keys(what: str, table: Any, cls: type[Any]) -> None:
    names = {f.name for f in fields(cls)}
    if not isinstance(table, dict):
        raise ConfigError(f"{what} is {type(table).__name__}; expected an object with {', '.join(sorted(names))}")
    odd = sorted(names ^ table.keys())
    if odd:
        raise ConfigError(f"{what}: {odd[0]!r} is {'missing' if odd[0] in names else 'unknown'}; the file was edited")


def _numbers(what: str, values: Any) -> Float64Array:
    if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
        raise ConfigError(f"{what} is no list of numbers; the file was edited")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        raise ConfigError(f"{what} holds a number beyond all bounds; the file was edited") from None
