"""The model file: one graph and, inside it, a manifest that says everything needed to use and to judge it.

ONNX and TFLite files carry the manifest as JSON in their metadata, .eser files in front of their numbers (see
:mod:`edge_ser.model.containers`). Every statement in it that
can be checked is checked before the graph runs. Data only: nothing in a model file is ever executed but the graph.
"""

from __future__ import annotations

import base64
import json
import pkgutil
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.arrays import Int64Array
from edge_ser.errors import ModelFileError
from edge_ser.frontend.features import FRONT_ENDS, FrontEndConfig
from edge_ser.geometry import EMBEDDING_SIZE, encoder_size
from edge_ser.model.containers import CONTAINERS
from edge_ser.model.graph import GRAPHS, require_graph
from edge_ser.model.statements import Check, each, int8s, interval, load_json, number, refuse, several, share, table, text, whole

FORMAT = "edge-ser-model"
FORMAT_VERSION = 7
FLOAT_STEP = 1 / 1024
"""Unit that statistics of float encoder vectors are kept in."""

_MAX_FILE = 64_000_000  # bytes; the largest network, of 513 bins in float32, has 12 million
_MAX_DB, _MAX_VALUE = 1000.0, 1e6  # beyond them a level is no level, and float32 soon at its end

_POSITIVE = number(1e-6, _MAX_VALUE)
_CORPUS = table({"name": text, "train_clips": whole, "licence": text, "citation": text})
_TRAINING = table(
    {
        **dict.fromkeys(("train_clips", "train_speakers", "dev_speakers", "steps", "best_step"), whole),
        **dict.fromkeys(("preset", "speech", "weights_sha256"), text),
        "seed": number(-(2**63), 2**63),
        "lambda_center": number(0, _MAX_VALUE),
        "corpora": several(_CORPUS),
    },
    {"split": text},
)
_QUANTIZATION = table(
    {"scheme": text, **dict.fromkeys(("weights_int8_percent", "macs_int8_percent"), number(0, 100))}, {"vector_scale": _POSITIVE}
)


def speech_check(encoder_size: int) -> Check:
    """Return a check for what ``Manifest.speech`` holds."""
    value = number(-_MAX_VALUE, _MAX_VALUE)
    scale = number(0, _MAX_VALUE)
    return table({"weights": int8s(2 * encoder_size), "scale": scale, "bias": value, "threshold": number(0, 1)})


@lru_cache(maxsize=8)
def usual_statistics(mean: str, unit: float, step: float) -> Int64Array:
    """Return the training speech's mean statistics, uint8 in base64 in units of ``unit`` as ``Manifest.distance`` has them, in
    units of ``step``: int64 [2 · encoder_size], 0 to 65535."""
    values = np.frombuffer(base64.b64decode(mean), dtype=np.uint8) * (unit / step)
    whole_steps: Int64Array = np.rint(values).clip(0, 65535).astype(np.int64)
    return whole_steps


def distance_check(encoder_size: int) -> Check:
    """Return a check for what ``Manifest.distance`` holds."""
    return table({"mean": int8s(2 * encoder_size), "unit": number(0, _MAX_VALUE), "scale": number(0, _MAX_VALUE)})


_SCORE = table(
    {
        **dict.fromkeys(("corpus", "split", "protocol"), text),
        **dict.fromkeys(("n_clips", "n_speakers"), whole),
        **dict.fromkeys(("ua", "wa", "macro_f1", "ece"), share),
        **dict.fromkeys(("ua_95", "wa_95", "macro_f1_95"), interval),
        "by_gender": each(table({"n_clips": whole, "ua": share})),
    },
    {"engine": text},
)


@dataclass(frozen=True)
class Manifest:
    """What a model file says about itself."""

    front_end: FrontEndConfig
    """The features the graph expects."""
    labels: tuple[str, ...]
    """Class names in logit order."""
    encoder_size: int
    """Length of an encoder vector (``past`` and ``encoded``)."""
    embedding_size: int
    """Length of the embedding z."""
    temperature: float
    """Divides the logits before the softmax, as ``distance`` does, so that confidence means frequency; fitted on dev speakers."""
    centres: tuple[tuple[float, ...], ...]
    """Mean embedding of each class over the training clips, [n_labels][embedding_size]."""
    speech: dict[str, Any]
    """Whether there is speech, by a logistic regression on mean and standard deviation over time of the encoder's vectors: its
    ``weights``, int8 [2 · encoder_size] in base64, channel-major, in units of ``scale``, its ``bias``, and the ``threshold`` of
    its probability below which there is none to judge."""
    distance: dict[str, Any]
    """How far mean and standard deviation over time of the encoder's vectors are from the training speech's: their ``mean``,
    uint8 [2 · encoder_size] in base64, channel-major, in units of ``unit``, and the distance's ``scale``: dev's median is 1."""
    speech_mean: tuple[float, ...]
    """Mean of every bin over the training set's speech frames, in dB, [n_bins]."""
    speech_std: tuple[float, ...]
    """Standard deviation of every bin over the training set's speech frames, in dB, [n_bins]."""
    speech_vector: tuple[float, ...]
    """Mean encoder vector of the training set's speech, [encoder_size], channel-major."""
    ordinary_vector: tuple[float, ...]
    """The same of its neutral speech, or of all where it has none that is labelled so."""
    quantization: dict[str, Any]
    """``scheme`` and the share of weights and of multiply-accumulates that are int8, in per cent."""
    training: dict[str, Any]
    """Preset, corpora with licence and citation, counts, seed, steps."""
    scores: tuple[dict[str, Any], ...]
    """What was measured: corpus, split, protocol, clips, speakers, UA, WA, macro-F1 with 95 % intervals, UA by gender."""
    intended_use: str
    """What the model is for."""
    excluded_use: str
    """What it must not be used for."""
    created_with: dict[str, str]
    """Versions of the software that made the file."""
    graph_sha256: str
    """SHA-256 of the graph, weights included."""

    def __post_init__(self) -> None:
        several(text)("labels", self.labels)
        n = len(self.labels)
        if n < 2 or len(set(self.labels)) != n:
            refuse("labels", list(self.labels), "two or more different names")
        n_bins = self.front_end.n_bins
        for name, expected in (("encoder_size", encoder_size(n_bins)), ("embedding_size", EMBEDDING_SIZE)):
            if getattr(self, name) != expected:
                refuse(name, getattr(self, name), f"{expected}, as a graph of {n_bins} bins has")
        level, value = number(-_MAX_DB, _MAX_DB), number(0, _MAX_VALUE)
        checks: dict[str, Check] = {
            "temperature": _POSITIVE,
            "centres": several(several(number(-_MAX_VALUE, _MAX_VALUE), EMBEDDING_SIZE), n),
            "speech": speech_check(self.encoder_size),
            "distance": distance_check(self.encoder_size),
            "speech_mean": several(level, n_bins),
            "speech_std": several(number(1e-6, _MAX_DB), n_bins),
            **dict.fromkeys(("speech_vector", "ordinary_vector"), several(value, self.encoder_size)),
            "quantization": _QUANTIZATION,
            "training": _TRAINING,
            "scores": several(_SCORE),
            **dict.fromkeys(("intended_use", "excluded_use", "graph_sha256"), text),
            "created_with": each(text, at_least=1),
        }
        for name, check in checks.items():
            check(name, getattr(self, name))
        if self.precision == "int8" and "vector_scale" not in self.quantization:
            raise ModelFileError("manifest: quantization has no vector_scale; export the model again")

    @property
    def precision(self) -> str:
        """Of the graph's weights: ``float32`` or ``int8``."""
        return "float32" if self.quantization["scheme"] == "float32" else "int8"

    @property
    def statistics_step(self) -> float:
        """Unit that statistics of encoder vectors are kept in: 1/256 of an int8 vector's step, else 1/1024."""
        return float(self.quantization["vector_scale"]) / 256 if self.precision == "int8" else FLOAT_STEP

    def to_json(self) -> str:
        """Return the manifest as JSON, keys in a fixed order."""
        table = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(table, ensure_ascii=False, allow_nan=False, separators=(",", ": "))

    @classmethod
    def from_json(cls, content: str) -> Manifest:
        """Parse and check; ModelFileError says what was found and what was expected."""
        found = load_json(content)
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise ModelFileError(f"manifest: format is not {FORMAT!r}; expected a file made by edge-ser export")
        version = found.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ModelFileError(
                f"manifest: format_version is {version!r}; this version of edge-ser reads {FORMAT_VERSION} (upgrade edge-ser?)"
            )
        names = {f.name for f in fields(cls)}
        if found.keys() != names:
            odd = sorted(names ^ found.keys())
            raise ModelFileError(f"manifest: {odd[0]!r} is {'missing' if odd[0] in names else 'unknown'}; the file was edited")
        found["front_end"] = _front_end(found["front_end"])
        for name in ("labels", "centres", "speech_mean", "speech_std", "speech_vector", "ordinary_vector", "scores"):
            found[name] = _tuple(found[name])
        if isinstance(found["centres"], tuple):
            found["centres"] = tuple(_tuple(row) for row in found["centres"])
        return cls(**found)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _front_end(stated: Any) -> FrontEndConfig:
    """Return the front end that a manifest names; ModelFileError unless it states that one's values."""
    name = stated.get("name") if isinstance(stated, dict) else None
    known = FRONT_ENDS.get(name) if isinstance(name, str) else None
    if known is None:
        raise ModelFileError(
            f"manifest: front end {name!a} is unknown to this version of edge-ser; expected one of {', '.join(FRONT_ENDS)} "
            "(upgrade edge-ser?)"
        )
    expected = asdict(known)
    for key in (*expected, *stated):
        if key not in stated or key not in expected:
            fault = "missing" if key in expected else "unknown"
            raise ModelFileError(f"manifest: front end: {fault} field {key!a}; the file was edited")
        if stated[key] != expected[key]:
            refuse(f"front_end.{key}", stated[key], f"{expected[key]!r}, as {known.name!r} has")
    return known


@dataclass(frozen=True)
class ModelFile:
    """A model file whose manifest was read and found in order."""

    path: Path
    manifest: Manifest
    content: bytes
    """The whole file, ready for an engine."""


def shipped_model_path(suffix: str = ".onnx") -> Path:
    """Return the path of the model that comes with the package, as ONNX, TFLite or .eser."""
    return Path(__file__).parent / "files" / f"edge-ser{suffix}"


def _content(path: Path) -> bytes:
    """Return a file's bytes, those of a shipped file also where the package lies in a zip archive."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE + 1)
    except NotADirectoryError:
        packed = pkgutil.get_data(__package__, f"files/{path.name}") if path == shipped_model_path(path.suffix) else None
        if packed is None:
            raise
        return packed


def read_model_file(path: Path) -> ModelFile:
    """Read and check a model file.

    Raises ModelFileError when it is missing, of no known kind, truncated, without a manifest, of an unknown format
    version, or when its graph is not the one the manifest was written for, or none that edge-ser export writes.
    """
    container = CONTAINERS.get(path.suffix)
    if container is None:
        known = " or ".join(CONTAINERS)
        raise ModelFileError(f"{path}: files ending in {path.suffix or 'nothing'!r} are not supported; expected {known}")
    try:
        content = _content(path)
    except OSError as error:
        raise ModelFileError(f"cannot read the model {path}: {error.strerror or error}") from None
    try:
        if len(content) > _MAX_FILE:
            raise ModelFileError(f"it is larger than {_MAX_FILE // 1_000_000} MB; expected a file made by edge-ser export")
        text, found, graph = container(content)
        manifest = Manifest.from_json(text)
        if found != manifest.graph_sha256:
            raise ModelFileError(
                f"its graph has SHA-256 {found[:12]}…, its manifest says {manifest.graph_sha256[:12]}…; "
                "the file was edited or damaged, export it again"
            )
        if path.suffix in GRAPHS:
            require_graph(graph, path.suffix[1:], manifest.precision, manifest.front_end.n_bins, len(manifest.labels))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    return ModelFile(path, manifest, content)
