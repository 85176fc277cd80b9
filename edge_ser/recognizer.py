"""The facade people use."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edge_ser.engines import BACKENDS, TunableBackend, open_backend, shipped_backend
from edge_ser.errors import AudioError, ConfigError
from edge_ser.frontend.audio import AudioReader, AudioSource
from edge_ser.frontend.features import extract_blocks
from edge_ser.model.manifest import Manifest, ModelFile, read_model_file, shipped_model_path
from edge_ser.personal.correction import Correction, heard_of
from edge_ser.personal.microphone import Encoder, SpeechStatistics, silence_db
from edge_ser.personal.person import Person, word_meant
from edge_ser.personal.profile import Profile
from edge_ser.prediction import NO_SPEECH, Prediction, decide
from edge_ser.stream import Stream


class EmotionRecognizer:
    """Tells how a recording of speech sounds; one instance may serve several threads.

    A copy, and one that was pickled for another process, is loaded anew from the same file's content, settings and profile.

    Args:
        model: path of a model file, .onnx, .tflite or .eser; None is the one that comes with the package.
        backend: ``onnx``, ``tflite``, ``native`` (the C library, .eser), or ``auto``: the one that reads the file; for the model
            that comes with the package the one that answers soonest here, see :func:`edge_ser.engines.shipped_backend`.
        threads: CPU threads the engine may use for one answer.
        min_confidence: an answer less confident than this, 0 to 1, gets the label ``uncertain``; 0 turns that off.
        min_speech: sound in which speech is less probable than this, 0 to 1, gets the label ``no_speech``; 0 turns that off, None
            is the model's own threshold.
        provider: what the engine runs on: ``cpu``; for ONNX also ``cuda`` or ``tensorrt``. Where that is missing the CPU
            answers, with a RuntimeWarning.
        profile: a Profile, or the path of one: what is known of the microphone and of the person who speaks.

    Raises ModelFileError or BackendError when the model cannot be used, ConfigError for a setting out of range or a profile
    that is damaged or learnt with another model.

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
        provider: str = "cpu",
        min_confidence: float = 0.0,
        min_speech: float | None = None,
        profile: Profile | str | os.PathLike[str] | None = None,
    ) -> None:
        if not 0 <= min_confidence <= 1:
            raise ConfigError(f"min_confidence is {min_confidence}; expected a probability from 0 (off) to 1")
        if min_speech is not None and not 0 <= min_speech <= 1:
            raise ConfigError(f"min_speech is {min_speech}; expected a probability from 0 (off) to 1, or None")
        if model is None:
            name = shipped_backend(threads, provider) if backend == "auto" else backend
            model = shipped_model_path(BACKENDS.get(name, ".onnx"))
        given = profile if isinstance(profile, Profile) else Profile.load(profile) if profile is not None else Profile()
        self._load(read_model_file(Path(model)), (backend, threads, provider), min_confidence, min_speech, given)

    def _load(
        self, file: ModelFile, engine: tuple[str, int, str], min_confidence: float, min_speech: float | None, profile: Profile
    ) -> None:
        self.path = file.path
        self.manifest: Manifest = file.manifest
        self.min_confidence, self.min_speech = min_confidence, min_speech
        self._file, self._engine = file, engine
        self._adapting = threading.Lock()
        profile.offset(self.manifest)  # says what is wrong with it before the engine is loaded
        self._backend = open_backend(file, *engine)
        self.profile = profile

    def __getstate__(self) -> tuple[ModelFile, tuple[str, int, str], float, float | None, Profile]:
        return self._file, self._engine, self.min_confidence, self.min_speech, self.profile

    def __setstate__(self, state: tuple[ModelFile, tuple[str, int, str], float, float | None, Profile]) -> None:
        self._load(*state)

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions that answers name: the model's in logit order and, behind them, the person's own words."""
        correction = self._tuned[1]
        return self.manifest.labels if correction is None else correction.labels

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model file."""
        return hashlib.sha256(self._file.content).hexdigest()

    @property
    def provider(self) -> str:
        """The ``provider`` that was asked for, or ``cpu`` where that is missing."""
        return self._backend.provider

    @property
    def profile(self) -> Profile:
        """What is known of the microphone and the person; set it, and later answers and streams go by the new one."""
        return self._profile

    @profile.setter
    def profile(self, profile: Profile) -> None:
        # Together, so that an answer under way in another thread goes by one profile.
        self._tuned = self._tune(profile)
        self._profile = profile

    def predict(self, audio: AudioSource) -> Prediction:
        """Answer for one recording: a path, a file's bytes, a binary file object, or ``(samples, rate_hz)``.

        Any rate, up to 64 channels (they are averaged), samples as :mod:`edge_ser.frontend.samples` says. Of more than 14 s the
        middle 14 s are judged, whatever the length, in bounded memory; less than 0.52 s is padded with silence.

        Raises AudioError when the audio cannot be read or is nothing but digital silence; warns with AudioWarning when the
        channels cancel each other.
        """
        front_end = self.manifest.front_end
        with AudioReader(audio, front_end.rate_hz) as reader:
            features = extract_blocks(reader.blocks(), reader.n_samples, front_end, self._backend.transform)
        if features.max() <= silence_db(front_end):
            raise AudioError(f"{reader.name} is silent: the judged part is digital silence; expected some speech")
        backend, correction = self._tuned
        answer = backend.run(features)
        statistics, limits = backend.statistics(answer.encoded), (self.min_confidence, self.min_speech)
        return decide(answer.logits, answer.embedding, statistics, self.manifest, reader.duration_s, *limits, correction)

    def _tune(self, profile: Profile) -> tuple[TunableBackend, Correction | None]:
        """Return the engine and the correction that answer by ``profile``; ConfigError when another model learnt it."""
        offset, correction = profile.offset(self.manifest), profile.correction(self.manifest)
        return self._backend if offset is None else self._backend.shifted(offset), correction

    def stream(self, rate_hz: float = 16000, profile: Profile | None = None) -> Stream:
        """Return a stream for one utterance that arrives in chunks, of samples at ``rate_hz``; see :class:`Stream`.

        ``profile`` is whose voice it is where several people share this recogniser; None is :attr:`profile`.

        Raises AudioError for an impossible rate, ConfigError for a model whose front end needs the whole utterance.
        """
        backend, correction = self._tuned if profile is None else self._tune(profile)
        return Stream(backend, self.manifest, rate_hz, self.min_confidence, self.min_speech, correction)

    def statistics(self) -> SpeechStatistics:
        """Return empty statistics of this model's encoder, to measure a microphone with.

        >>> EmotionRecognizer().statistics().n_vectors
        0
        """
        manifest, backend = self.manifest, self._backend
        encoder = Encoder(manifest.front_end, manifest.training["weights_sha256"], manifest.encoder_size, backend.vectors)
        return SpeechStatistics(encoder)

    def adapt(self, utterance: AudioSource | Prediction, label: str) -> Profile:
        """Learn that this person sounds so when they are ``label``, and return the profile, which can be saved.

        ``utterance`` is a recording as for :meth:`predict`, or an answer of this recogniser that it corrects. A few
        utterances of every emotion serve best. To undo, set :attr:`profile` to what it was before.

        ``label`` is one of the model's, or a word of the person's own; answers name that as soon as a second label was heard.
        It is learnt as :meth:`label_meant` has it.

        Raises ConfigError for what is no word, or a profile that is full; AudioError for a recording that cannot be read, is
        silent or is answered ``no_speech``.

        >>> import numpy as np
        >>> recognizer = EmotionRecognizer(min_speech=0)  # a tone is no speech
        >>> before = recognizer.profile
        >>> tone = 0.1 * np.sin(np.arange(16000, dtype=np.float32))
        >>> recognizer.adapt((tone, 16000), "happy").person.counts
        {'happy': 1}
        >>> recognizer.profile = before
        """
        label = self.label_meant(label)
        answer = utterance if isinstance(utterance, Prediction) else self.predict(utterance)
        if answer.label == NO_SPEECH:
            raise AudioError(
                f"there probably is no speech in it (probability {answer.speech:.2f}); nothing was learnt: expected an utterance"
            )
        heard = heard_of(label, answer.statistics, answer.embedding, answer.logits)
        with self._adapting:
            person = self.profile.person or Person(self.manifest.training["weights_sha256"])
            self.profile = replace(self.profile, person=person.hear(heard))
            return self.profile

    def label_meant(self, label: str) -> str:
        """Return the model's label, or the person's word, that ``label`` differs from by case and surrounding blanks alone.

        A new word is returned without those blanks; ConfigError for what is no word.

        >>> EmotionRecognizer().label_meant("Happy ")
        'happy'
        """
        person = self.profile.person
        return word_meant(label, (*self.manifest.labels, *(person.counts if person else ())))

    def predict_many(self, recordings: Iterable[AudioSource]) -> list[Prediction]:
        """Answer for each recording, in order; the first that cannot be answered raises AudioError."""
        return [self.predict(recording) for recording in recordings]
