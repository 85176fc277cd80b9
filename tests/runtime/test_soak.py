from __future__ import annotations

from pathlib import Path

import soundfile

from edge_ser import EmotionRecognizer
from edge_ser.stream import EXACT_S
from tests.soak import soak


def test_a_stream_without_end_neither_grows_nor_drifts(real_clips: list[Path]) -> None:
    clips = [soundfile.read(path, dtype="int16")[0] for path in real_clips]
    points = list(soak(EmotionRecognizer(), clips, audio_s=2 * EXACT_S + 60, every_s=60))
    assert all(point.exact for point in points)
    # Half of what it would keep if it forgot nothing: ten minutes of vectors are 7 MB, of samples or frames far more.
    late_mb = [point.rss_mb for point in points if point.audio_s > EXACT_S + 60]
    assert max(late_mb) - min(late_mb) < 3.5, late_mb
