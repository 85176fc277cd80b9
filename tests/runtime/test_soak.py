from __future__ import annotations

import tracemalloc
from pathlib import Path

import soundfile

from edge_ser import EmotionRecognizer
from edge_ser.stream import EXACT_S
from tests.soak import soak


def test_a_stream_without_end_neither_grows_nor_drifts(real_clips: list[Path]) -> None:
    clips = [soundfile.read(path, dtype="int16")[0] for path in real_clips]
    late_mb = []
    tracemalloc.start()
    try:
        for point in soak(EmotionRecognizer(), clips, audio_s=2 * EXACT_S + 60, every_s=60):
            assert point.exact
            if point.audio_s > EXACT_S + 60:
                late_mb.append(tracemalloc.get_traced_memory()[0] / 1e6)
    finally:
        tracemalloc.stop()
    # Half of what it would keep if it forgot nothing: ten minutes of vectors are 7 MB, of samples or frames far more.
    assert max(late_mb) < late_mb[0] + 3.5, late_mb
