"""The facade people use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from edge_ser.audio import AudioReader, AudioSource
from edge_ser.backends import open_backend
from edge_ser.decision import Prediction, decide
from edge_ser.errors import AudioError
from edge_ser.features import extract_blocks
from edge_ser.model_file import Manifest, read_model_file, shipped_model_path


class EmotionRecognizer:
    """Tells how a recording of speech sounds; one instance may serve several threads.

    Args:
        model: path of a model file; None is the one that comes with the package.
        backend: ``auto`` (by the file), or ``onnx``.
        threads: CPU threads the engine may use for one answer.
        spinning: let waiting engine threads spin: a little faster with several threads, and it keeps the cores busy.

    Raises ModelFileError or BackendError when the model cannot be used.

    >>> import numpy as np
    >>> recognizer = EmotionRecognizer()
    >>> recognizer.labels
    ('neutral', 'angry', 'happy', 'sad')
    >>> tone = 0.1 * np.sin(np.arange(16000, dtype=np.float32))
    >>> sorted(recognizer.predict((tone, 16000)).probabilities) == sorted(recognizer.labels)
    True
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        threads: int = 1,
        spinning: bool = False,
    ) -> None:
        file = read_model_file(shipped_model_path() if model is None else Path(model))
        self.path = file.path
        self.manifest: Manifest = file.manifest
        self._backend = open_backend(file, backend, threads, spinning)

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions this model knows, in logit order."""
        return self.manifest.labels

    def predict(self, audio: AudioSource) -> Prediction:
        """Answer for one recording: a path, a file's bytes, a binary file object, or ``(samples, rate_hz)``.

        Any rate, any number of channels (they are averaged), int16, int32, float32 or float64 samples. Of more than 14 s the
        middle 14 s are judged, whatever the length, in bounded memory; less than 0.52 s is padded with silence.

        Raises AudioError when the audio cannot be read or is nothing but digital silence.
        """
        front_end = self.manifest.front_end
        with AudioReader(audio, front_end.rate_hz) as reader:
            features = extract_blocks(reader.blocks(), reader.n_samples, front_end)
        if features.max() <= 10 * math.log10(front_end.floor) + 1e-3:
            raise AudioError(f"{reader.name} is silent: the judged part is digital silence; expected some speech")
        answer = self._backend.run(features)
        return decide(answer.logits, answer.embedding, self.manifest, reader.duration_s)

    def predict_many(self, recordings: Iterable[AudioSource]) -> list[Prediction]:
        """Answer for each recording, in order; the first that cannot be answered raises AudioError."""
        return [self.predict(recording) for recording in recordings]
