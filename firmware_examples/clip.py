"""Write a recording as a C array, for firmware that has no microphone yet: python clip.py RECORDING [SECONDS] > clip.c."""

from __future__ import annotations

import sys


def c_source(path: str, seconds: float) -> str:
    """Return the first ``seconds`` of the recording at ``path`` as C source: ``clip``, int16, and ``clip_samples``."""
    import soundfile

    samples, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
    if rate_hz != 16000 or samples.shape[1] != 1:
        sys.exit(f"{path} has {rate_hz} Hz and {samples.shape[1]} channels; expected 16000 Hz, mono (sox IN -r 16000 -c 1 OUT)")
    values = samples[: round(16000 * seconds), 0].tolist()
    rows = "\n".join("    " + " ".join(f"{v}," for v in values[i : i + 16]) for i in range(0, len(values), 16))
    return f"""#include <stdint.h>

extern const int16_t clip[];
extern const uint32_t clip_samples;

__attribute__((section(".clip"))) const int16_t clip[] = {{
{rows}
}};
const uint32_t clip_samples = sizeof clip / sizeof *clip;
"""


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    sys.stdout.write(c_source(sys.argv[1], float(sys.argv[2]) if len(sys.argv) == 3 else 2.0))
