"""The graphs that edge-ser export writes, as text, and the check that a file holds one of them and nothing else.

A graph is a program. A hostile one reads other files, loops for ever or breaks the engine that loads it. So only the numbers in a
model file are free. All else must be as in one of the texts in ``files/graphs``, or no engine sees the file: operators, their
order, attributes, names, types, shapes, and whole numbers that steer. ``tests/golden/make_graphs.py`` makes the texts.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from edge_ser.errors import ModelFileError

METADATA_KEY = "edge_ser"
"""Under which a file's metadata hold the manifest."""
GRAPHS = (".onnx", ".tflite")
"""Suffixes of the files that hold a graph; .eser files hold numbers alone."""
N_LABELS = "$labels"
"""Stands in the texts for the number of labels."""

_SHOWN = 60


class Contents(NamedTuple):
    """What a model file holds."""

    manifest: str
    """JSON."""
    sha256: str
    """Of the graph."""
    graph: Iterator[str]
    """The graph's description, line by line, read as it is asked for; of .eser files none, they hold numbers alone."""


def numbers(data: memoryview | bytes, dtype: str, shape: Iterable[int], name: str) -> None:
    """Raise ModelFileError unless ``data`` are the finite numbers of a tensor of this shape."""
    n = 1
    for d in shape:
        n *= d
    if n < 0 or len(data) != n * np.dtype(dtype).itemsize:
        raise ModelFileError(f"its tensor {name} holds {len(data)} bytes; expected {n} numbers of {dtype}; it was damaged")
    if dtype == "<f4" and not np.isfinite(np.frombuffer(data, dtype)).all():
        raise ModelFileError(f"its tensor {name} holds numbers that are not finite; the model was damaged, export it again")


def require_graph(found: Iterator[str], form: str, precision: str, n_bins: int, n_labels: int) -> None:
    """Raise ModelFileError unless a description is that of ``form`` (onnx, tflite) in ``precision`` (float32, int8)."""
    for given, wanted in zip_longest(found, expected_graph(form, precision, n_bins, n_labels), fillvalue="nothing more"):
        if given != wanted:
            raise ModelFileError(
                f"graph and manifest disagree: it holds {_around(given, wanted)}, where the {precision} graph of {n_bins} bins "
                f"and {n_labels} labels has {_around(wanted, given)}; expected a file as edge-ser export writes it"
            )


def expected_graph(form: str, precision: str, n_bins: int, n_labels: int) -> list[str]:
    """Return the description of a graph, line by line."""
    text = pkgutil.get_data(__package__, f"files/graphs/{form}-{precision}-{n_bins}.txt")
    assert text is not None
    return text.decode().replace(N_LABELS, str(n_labels)).splitlines()


def _around(line: str, other: str) -> str:
    """Return ``line`` from a little before it differs from ``other``."""
    first = next((i for i, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), 0)
    start = max(0, first - _SHOWN // 2) if len(line) > _SHOWN else 0
    part = line[start : start + _SHOWN].strip()
    return f"{'…' * (start > 0)}{part}{'…' * (start + _SHOWN < len(line))}"


def words(fields: Iterable[tuple[str, Any]]) -> str:
    """Return fields as one line: ``name=value name=value``; what is a text stands in quotes."""
    return " ".join(f"{name}={value!a}" for name, value in fields)
