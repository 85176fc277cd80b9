"""The model file: one graph and, inside it, a manifest that says everything needed to use and to judge it.

ONNX and TFLite files carry the manifest as JSON in their metadata, .eser files in front of their numbers (see
:mod:`edge_ser.model.containers`). Every statement in it that
can be checked is checked before the graph runs. Data only: nothing in a model file is ever executed but the graph.
"""

from __future__ import annotations

import json
import math
import pkgutil
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.errors import ConfigError, ModelFileError
from edge_ser.frontend.features import FRONT_ENDS, FrontEndConfig
from edge_ser.model.containers import CONTAINERS

FORMAT = "edge-ser-model"
FORMAT_VERSION = 4

_NUMBER = (int, float)
_TRAINING_KEYS: dict[str, Any] = {
    **dict.fromkeys(("train_clips", "train_speakers", "dev_speakers", "seed", "steps", "best_step"), int),
    "preset": str,
    "corpora": list,
    "lambda_center": _NUMBER,
    "speech": str,
    "weights_sha256": str,
}
_QUANTIZATION_KEYS: dict[str, Any] = {"scheme": str, "weights_int8_percent": _NUMBER, "macs_int8_percent": _NUMBER}
_SCORE_KEYS: dict[str, Any] = {
    **dict.fromkeys(("corpus", "split", "protocol"), str),
    **dict.fromkeys(("n_clips", "n_speakers"), int),
    **dict.fromkeys(("ua", "wa", "macro_f1", "ece"), _NUMBER),
    **dict.fromkeys(("ua_95", "wa_95", "macro_f1_95"), list),
    "by_gender": dict,
}
"""What the model card prints, and of which type it must be."""
_GENDER_KEYS: dict[str, Any] = {"n_clips": int, "ua": _NUMBER}

_MAX_DB, _MAX_VALUE = 1000.0, 1e6  # beyond them a level is no level, and float32 soon at its end


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
    """Divides the logits before the softmax, so that confidence means frequency; fitted on dev speakers."""
    centres: tuple[tuple[float, ...], ...]
    """Mean embedding of each class over the training clips, [n_labels][embedding_size]."""
    novelty_distance: float
    """Euclidean distance of z to the nearest class centre that 99 % of the dev clips stay within."""
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
        n = len(self.labels)
        if n < 2 or not all(isinstance(x, str) and x for x in self.labels) or len(set(self.labels)) != n:
            raise ModelFileError(f"manifest: labels are {list(self.labels)}; expected two or more different names")
        for name in ("encoder_size", "embedding_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ModelFileError(f"manifest: {name} is {value!r}; expected a positive whole number")
        for name in ("temperature", "novelty_distance"):
            value = getattr(self, name)
            if type(value) not in _NUMBER or not (math.isfinite(value) and value > 0):
                raise ModelFileError(f"manifest: {name} is {value!r}; expected a positive number")
        if len(self.centres) != n or any(len(c) != self.embedding_size for c in self.centres):
            raise ModelFileError(f"manifest: centres are not {n} vectors of {self.embedding_size} numbers")
        n_bins = self.front_end.n_bins
        for name in ("speech_mean", "speech_std"):
            levels = getattr(self, name)
            if len(levels) != n_bins or not all(-_MAX_DB <= v <= _MAX_DB for v in levels):
                raise ModelFileError(f"manifest: {name} is not {n_bins} levels in dB, as {self.front_end.name} has bins")
        if not all(v > 0 for v in self.speech_std):
            raise ModelFileError("manifest: speech_std is not positive in every bin; expected standard deviations in dB")
        for name in ("speech_vector", "ordinary_vector"):
            values = getattr(self, name)
            if len(values) != self.encoder_size or not all(0 <= v <= _MAX_VALUE for v in values):
                raise ModelFileError(f"manifest: {name} is no encoder vector of {self.encoder_size} numbers")
        card = {"training": _TRAINING_KEYS, "quantization": _QUANTIZATION_KEYS}
        tables = [(name, getattr(self, name), keys) for name, keys in card.items()]
        tables += [("scores", score, _SCORE_KEYS) for score in self.scores]
        tables += [
            (f"scores by_gender {gender}", of if isinstance(of, dict) else {}, _GENDER_KEYS)
            for score in self.scores
            if isinstance(score.get("by_gender"), dict)
            for gender, of in score["by_gender"].items()
        ]
        for name, table, keys in tables:
            for key, kind in keys.items():
                if not isinstance(table.get(key), kind):
                    raise ModelFileError(f"manifest: {name} has {key} = {table.get(key)!r}; the file was edited")
        for corpus in self.training["corpora"]:
            if not (isinstance(corpus, dict) and {"name", "train_clips", "licence", "citation"} <= corpus.keys()):
                raise ModelFileError("manifest: a training corpus lacks its name, clips, licence or citation")
        known = FRONT_ENDS.get(self.front_end.name)
        if known is None:
            raise ModelFileError(
                f"manifest: front end {self.front_end.name!r} is unknown to this version of edge-ser; "
                f"expected one of {', '.join(FRONT_ENDS)} (upgrade edge-ser?)"
            )
        if known != self.front_end:
            raise ModelFileError(
                f"manifest: its front end is called {known.name!r} but its values are not those of {known.name!r}"
            )

    @cached_property
    def centre_points(self) -> npt.NDArray[np.float64]:
        """The class centres, [n_labels, embedding_size]."""
        return np.array(self.centres)

    def to_json(self) -> str:
        """Return the manifest as JSON, keys in a fixed order."""
        table = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(table, ensure_ascii=False, allow_nan=False, separators=(",", ": "))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse and check; ModelFileError says what was found and what was expected."""
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"manifest: not JSON ({error}); the file was edited or damaged") from None
        if not isinstance(table, dict) or table.pop("format", None) != FORMAT:
            raise ModelFileError(f"manifest: format is not {FORMAT!r}; expected a file made by edge-ser export")
        version = table.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ModelFileError(
                f"manifest: format_version is {version!r}; this version of edge-ser reads {FORMAT_VERSION} (upgrade edge-ser?)"
            )
        names = {f.name for f in fields(cls)}
        if table.keys() != names:
            odd = sorted(names ^ table.keys())
            raise ModelFileError(f"manifest: {odd[0]!r} is {'missing' if odd[0] in names else 'unknown'}; the file was edited")
        dicts = ("front_end", "quantization", "training", "created_with")
        lists = ("labels", "centres", "speech_mean", "speech_std", "speech_vector", "ordinary_vector", "scores")
        for name in dicts + lists:
            if not isinstance(table[name], dict if name in dicts else list):
                raise ModelFileError(f"manifest: {name} is {type(table[name]).__name__}; the file was edited")
        if not all(isinstance(c, list) and all(isinstance(v, (int, float)) for v in c) for c in table["centres"]):
            raise ModelFileError("manifest: centres are not lists of numbers; the file was edited")
        for name in ("speech_mean", "speech_std", "speech_vector", "ordinary_vector"):
            if not all(type(v) in _NUMBER for v in table[name]):
                raise ModelFileError(f"manifest: {name} is not a list of numbers; the file was edited")
            table[name] = tuple(table[name])
        texts = ("graph_sha256", "intended_use", "excluded_use")
        if not all(isinstance(table[name], str) for name in texts) or not all(isinstance(s, dict) for s in table["scores"]):
            raise ModelFileError("manifest: a text or the scores have the wrong type; the file was edited")
        try:
            table["front_end"] = FrontEndConfig.from_dict(table["front_end"])
        except (ConfigError, TypeError) as error:
            raise ModelFileError(f"manifest: {error}") from None
        table["centres"] = tuple(tuple(c) for c in table["centres"])
        try:
            return cls(**{**table, "labels": tuple(table["labels"]), "scores": tuple(table["scores"])})
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelFileError(f"manifest: a value makes no sense ({error}); the file was edited") from None


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
        return path.read_bytes()
    except NotADirectoryError:
        packed = pkgutil.get_data(__package__, f"files/{path.name}") if path == shipped_model_path(path.suffix) else None
        if packed is None:
            raise
        return packed


def read_model_file(path: Path) -> ModelFile:
    """Read and check a model file.

    Raises ModelFileError when it is missing, of no known kind, truncated, without a manifest, of an unknown format
    version, or when its graph is not the one the manifest was written for.
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
        text, found = container(content)
        manifest = Manifest.from_json(text)
        if found != manifest.graph_sha256:
            raise ModelFileError(
                f"its graph has SHA-256 {found[:12]}…, its manifest says {manifest.graph_sha256[:12]}…; "
                "the file was edited or damaged, export it again"
            )
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    return ModelFile(path, manifest, content)
