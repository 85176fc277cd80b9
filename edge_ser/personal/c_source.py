"""A person as C source, ``eser_person.c`` and ``eser_person.h``, for ``eser_set_person`` of the library in ``edge_ser/csrc``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_ser._version import __version__
from edge_ser.arrays import AnyArray
from edge_ser.errors import ConfigError
from edge_ser.files import writing
from edge_ser.geometry import ENCODER_SIZE, frequency_major
from edge_ser.model.c_source import c_array, c_float, c_string
from edge_ser.model.manifest import Manifest
from edge_ser.personal.correction import Correction
from edge_ser.personal.profile import Profile

PERSON_FORMAT = 2
"""``ESER_PERSON_FORMAT``"""

_HEAD = """/* Written by edge-ser {version}: how one person sounds to one model (weights {sha}).
 * It goes with the eser_model.c of that model alone. */
#include "eser_person.h"
"""

_HEADER = """/* Written by edge-ser {version}: eser_set_person(stream, &eser_default_person) */
#ifndef ESER_PERSON_H
#define ESER_PERSON_H

#include "eser.h"

#ifdef __cplusplus
extern "C" {{
#endif

extern const eser_person eser_default_person;

#ifdef __cplusplus
}}
#endif
#endif
"""


def write_person(profile: Profile, manifest: Manifest, folder: Path) -> int:
    """Write both files into ``folder``, made if it is not there, and return the bytes of the constants.

    ConfigError for a profile of another model, or one whose person changes nothing yet.
    """
    correction = profile.correction(manifest)
    if correction is None:
        raise ConfigError("the profile's person changes nothing yet; give utterances of two labels at least")
    if profile.microphone is not None:
        raise ConfigError("the profile knows a microphone, which the C library does not; adapt a profile without one")
    arrays = _arrays(correction)
    folder.mkdir(parents=True, exist_ok=True)
    head = _HEAD.format(version=__version__, sha=manifest.training["weights_sha256"][:12])
    header = _HEADER.format(version=__version__)
    kinds = {"int16": "int16_t", "int32": "int32_t"}
    parts = [c_array(f"static const {kinds[v.dtype.name]} {name}[{v.size}]", v) for name, v in arrays.items()]
    labels = f"\nstatic const char *const labels[] = {{{', '.join(map(c_string, correction.labels))}}};\n"
    values = [
        f"{PERSON_FORMAT}u", f"{len(correction.labels)}u", f"{len(manifest.labels)}u", "labels", "source", "statistics",
        "embedding", "bias", str(correction.shifts[0]), str(correction.shifts[1]), c_float(correction.temperature),
    ]  # fmt: skip
    body = "\nconst eser_person eser_default_person = {\n    " + ",\n    ".join(values) + ",\n};\n"
    for name, text in (("eser_person.c", head + "".join(parts) + labels + body), ("eser_person.h", header)):
        with writing(folder / name, "the source") as file:
            file.write(text.encode())
    return sum(v.nbytes for v in arrays.values())


def _arrays(correction: Correction) -> dict[str, AnyArray]:
    n = len(correction.labels)
    statistics = frequency_major(correction.statistics.reshape(n, 2, ENCODER_SIZE))
    return {
        "source": np.array(correction.source, dtype=np.int32),
        "statistics": statistics,
        "embedding": correction.embedding,
        "bias": correction.bias,
    }
