"""A model as C source, ``eser_model.c`` and ``eser_model.h``, for the library in ``edge_ser/csrc``.

From what an ``.eser`` file holds, so that the model that ships goes into firmware without a training run.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_ser._version import __version__
from edge_ser.arrays import AnyArray
from edge_ser.errors import ModelFileError
from edge_ser.files import writing
from edge_ser.geometry import ENCODER_SIZE, frequency_major
from edge_ser.model.eser_file import FORMAT, matrices, parse
from edge_ser.model.manifest import Manifest, read_model_file, shipped_model_path, usual_statistics


@dataclass(frozen=True)
class CSource:
    """The two files, and what they weigh."""

    source: str
    header: str
    flash_bytes: int
    """Of the constants, manifest included; the library's code and tables come on top."""

    def write(self, folder: Path) -> None:
        """Write both files into ``folder``, which is made if it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("eser_model.c", self.source), ("eser_model.h", self.header)):
            with writing(folder / name, "the source") as file:
                file.write(text.encode())


def source_of(path: Path | None = None) -> CSource:
    """Return the source of an ``.eser`` file; None is the model that comes with the package. ModelFileError for any other file.

    >>> source_of().source.count("static const int8_t")
    11
    """
    path = path or shipped_model_path(".eser")
    if path.suffix != ".eser":
        raise ModelFileError(f"{path} is no .eser file; expected one that edge-ser export --format eser wrote")
    file = read_model_file(path)
    try:
        constants = parse(file.content, len(file.manifest.labels))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    return c_source(file.manifest, constants)


def c_source(manifest: Manifest, constants: dict[str, AnyArray]) -> CSource:
    """Return the source of ``constants``, by their names in :mod:`edge_ser.model.eser_file`, and of their manifest."""
    # As numbers: C compilers need not take strings longer than 4095 characters.
    stated = json.dumps(json.loads(manifest.to_json()), separators=(",", ":"))
    text = np.frombuffer(stated.encode("ascii") + b"\0", dtype=np.int8)
    arrays = {name: values for name, values in constants.items() if name != "shift"}
    arrays["speech"] = frequency_major(
        np.frombuffer(base64.b64decode(manifest.speech["weights"]), dtype=np.int8).reshape(2, ENCODER_SIZE)
    )
    usual = usual_statistics(manifest.distance["mean"], manifest.distance["unit"], manifest.statistics_step)
    arrays["usual"] = frequency_major(usual.astype(np.uint16).reshape(2, ENCODER_SIZE))
    parts = [_HEAD.format(version=__version__, sha=manifest.graph_sha256)]
    parts += [c_array(f"static const {_C_TYPES[v.dtype.name]} {name}[{v.size}]", v) for name, v in arrays.items()]
    parts.append(f"\nstatic const char *const labels[] = {{{', '.join(c_string(x) for x in manifest.labels)}}};\n")
    parts.append(c_array(f"const char eser_model_manifest[{text.size}]", text))
    parts.append(_model(constants, manifest))
    flash = sum(v.nbytes for v in (*arrays.values(), text))
    return CSource("".join(parts), _HEADER.format(version=__version__, sha=manifest.graph_sha256), flash)


_C_TYPES = {"int8": "int8_t", "uint16": "uint16_t", "int32": "int32_t", "float32": "float"}

_HEAD = """/* Written by edge-ser {version} (edge-ser export --format c); compiles against the library in edge_ser/csrc.
 * SHA-256 of the numbers: {sha} */
#include "eser_model.h"
"""

_HEADER = """/* Written by edge-ser {version} (edge-ser export --format c). */
#ifndef ESER_MODEL_H
#define ESER_MODEL_H

#include "eser.h"

#ifdef __cplusplus
extern "C" {{
#endif

#define ESER_MODEL_SHA256 "{sha}"

extern const eser_model eser_default_model;

/* What the model says about itself, as JSON: labels, calibration, training corpora and licences, scores, intended use. */
extern const char eser_model_manifest[];

#ifdef __cplusplus
}}
#endif
#endif
"""


def _model(constants: dict[str, AnyArray], manifest: Manifest) -> str:
    """Return the definition of the ``eser_model``."""

    named = matrices(len(manifest.labels))
    shifts = dict(zip(named, constants["shift"].tolist(), strict=True))

    def layer(name: str) -> str:
        size = named[name]
        return f"{{{name}_weight, {name}_bias, {name}_multiplier, {shifts[name]}, {size.n_in}, {size.n_out}}}"

    def several(names: Sequence[str]) -> str:
        return "{\n        " + ",\n        ".join(layer(name) for name in names) + "}"

    values = [
        f"{FORMAT}u",
        f"{len(manifest.labels)}u",
        "labels",
        "feature_gain",
        "feature_offset",
        several([f"conv{i}" for i in range(1, 5)]),
        several(["gru_input_forward", "gru_input_backward"]),
        several(["gru_recurrent_forward", "gru_recurrent_backward"]),
        layer("fc1"),
        layer("fc2"),
        "prelu",
        c_float(manifest.temperature),
        "speech",
        c_float(manifest.speech["scale"] * manifest.statistics_step),
        c_float(manifest.speech["bias"]),
        c_float(manifest.speech["threshold"]),
        "usual",
        c_float(manifest.distance["scale"] * manifest.statistics_step),
        "{NULL, NULL}",
    ]
    return "\nconst eser_model eser_default_model = {\n    " + ",\n    ".join(values) + ",\n};\n"


def c_array(declaration: str, values: AnyArray) -> str:
    """Return the definition of a constant array, in lines of at most 130 characters."""
    flat = values.reshape(-1)
    texts = [c_float(v) for v in flat] if flat.dtype.kind == "f" else [str(v) for v in flat.tolist()]
    lines, line = [], "   "
    for text in texts:
        if len(line) + len(text) + 2 > 130:
            lines.append(line)
            line = "   "
        line += f" {text},"
    return f"\n{declaration} = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def c_float(value: float) -> str:
    """Return a float literal."""
    text = f"{np.float32(value):.9g}"
    return (text if "." in text or "e" in text else f"{text}.0") + "f"


def c_string(text: str) -> str:
    """Return a string literal; bytes other than letters, digits, space, _ and - as octal escapes."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-"
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'
