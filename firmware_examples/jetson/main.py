"""Emotions of recordings on a Jetson's GPU, on the CPU where there is none: python main.py RECORDING..."""

from __future__ import annotations

import sys
import time

from edge_ser import EdgeSerError, EmotionRecognizer


def main(recordings: list[str], provider: str = "tensorrt") -> None:
    """Answer for each recording, and say what on and how long it took."""
    # TensorRT takes the nodes it can, CUDA the rest. Where neither is installed, a RuntimeWarning says what is missing.
    recognizer = EmotionRecognizer(provider=provider)
    print(f"running on {recognizer.provider}")
    recognizer.predict(recordings[0])  # the first answer builds the engine, which takes TensorRT a while
    for recording in recordings:
        started = time.perf_counter()
        answer = recognizer.predict(recording)
        took_ms = 1000 * (time.perf_counter() - started)
        print(f"{recording}: {answer.label} {answer.confidence:.0%} ({took_ms:.1f} ms)")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1:])
    except EdgeSerError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
