"""Write edge_ser/csrc/eser_tables.c: the constants of the front end logmel-v1, from the Python front end, and of tanh.

python tests/golden/make_c_tables.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_ser.frontend.features import LOGMEL_V1, mel_filterbank
from edge_ser.model.c_source import c_array

TABLES = Path(__file__).parents[2] / "edge_ser" / "csrc" / "eser_tables.c"

HEAD = """/* Constants of the front end logmel-v1 and of tanh; written by tests/golden/make_c_tables.py, not by hand. */
#include "eser_parts.h"
"""


def tables() -> str:
    """Return the source file."""
    config = LOGMEL_V1
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(config.frame_samples) / config.frame_samples)
    mel = mel_filterbank(config)
    first = (mel > 0).argmax(axis=1)
    count = (mel > 0).sum(axis=1)
    if (mel[:, [0, -1]] != 0).any():
        raise ValueError("the outermost bins weigh something; eser_frontend.c leaves them out")
    weight = np.concatenate([row[f : f + n] for row, f, n in zip(mel, first, count, strict=True)])
    if not (weight > 0).all():
        raise ValueError("a band has a gap; eser_frontend.c expects runs of bins")
    tanh = np.minimum(np.rint(32768 * np.tanh(np.arange(513) / 64)), 32767).astype(np.int64)
    return HEAD + "".join(
        [
            c_array("const float eser_window[ESER_FRAME]", window),
            c_array("const float eser_cosine[1280]", np.round(np.cos(2 * np.pi * np.arange(1280) / 1024), 12)),
            c_array("const uint16_t eser_mel_first[ESER_N_BINS]", first),
            c_array("const uint8_t eser_mel_count[ESER_N_BINS]", count),
            c_array("const float eser_mel_weight[]", weight),
            c_array("const int16_t eser_tanh_q15[513]", tanh),
        ]
    )


if __name__ == "__main__":
    TABLES.write_text(tables())
