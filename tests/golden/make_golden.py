"""Make the golden files: a short synthetic recording (espeak-ng), and its features by librosa in double precision.

    python tests/golden/make_golden.py            # features.npz from the recording that is there
    python tests/golden/make_golden.py --speech   # the recording too (needs espeak-ng)

synthetic_speech.flac is text-to-speech made for this project; nobody's voice was recorded.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile

from edge_ser.arrays import Float64Array

HERE = Path(__file__).parent
SPEECH = HERE / "synthetic_speech.flac"
TEXT = "What a wonderful surprise! I have been waiting for this all day long."
EVERY = 24  # frames between two stored ones


def make_speech() -> None:
    wav = HERE / "speech.tmp.wav"
    subprocess.run(["espeak-ng", "-v", "en-us+f3", "-s", "165", "-p", "65", "-w", str(wav), TEXT], check=True)
    samples, rate = soundfile.read(wav)
    wav.unlink()
    samples = librosa.resample(samples, orig_sr=rate, target_sr=16000)
    soundfile.write(SPEECH, samples, 16000, subtype="PCM_16")


def reference(samples: Float64Array, mel: bool, paper: bool) -> Float64Array:
    """Return features [T, n_bins] in dB by librosa."""
    # librosa centres the window inside the DFT, so its uncentred frame i starts 192 samples late.
    signal = samples if paper else np.pad(samples, (192, 192))
    spectrum = librosa.stft(
        signal, n_fft=1024, win_length=640, hop_length=160, window="hamming", center=paper, pad_mode="reflect"
    )
    power = np.abs(spectrum) ** 2
    if not mel:
        return np.asarray(10 * np.log10(power.T + 1e-8))
    bands = librosa.feature.melspectrogram(S=power, sr=16000, n_mels=128, fmin=0, fmax=8000)
    return np.asarray(librosa.power_to_db(bands, amin=1e-10, top_db=80.0 if paper else None).T)


def main() -> None:
    if "--speech" in sys.argv:
        make_speech()
    samples, _ = soundfile.read(SPEECH, dtype="float64")
    golden: dict[str, Any] = {
        f"{kind}-{version}": reference(samples, kind == "logmel", version == "paper")[::EVERY].astype(np.float32)
        for kind in ("logmel", "logstft")
        for version in ("v1", "paper")
    }
    np.savez_compressed(HERE / "features.npz", every=np.array(EVERY), **golden)


if __name__ == "__main__":
    main()
