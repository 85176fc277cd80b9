"""The recogniser in the protocol's words: the audio of an utterance in, how it sounded out."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event
from wyoming.info import Artifact, Attribution, Info

from edge_ser._version import __version__
from edge_ser.arrays import AnyArray
from edge_ser.errors import AudioError, EdgeSerError
from edge_ser.frontend.samples import MAX_CHANNELS
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.stream import Stream

_DTYPES = {2: "<i2", 4: "<i4"}  # by width in bytes


class Utterance:
    """What one client says, judged as it comes, in a thread: no client waits for another."""

    def __init__(self, recognizer: EmotionRecognizer, max_duration_s: float) -> None:
        self._recognizer, self._max_duration_s = recognizer, max_duration_s
        self._stream: Stream | None = None
        self._format: tuple[int, ...] = ()  # rate, width and channels
        self._refused = False  # it got its error; the rest of it is dropped

    @property
    def is_open(self) -> bool:
        """Whether audio is taken."""
        return self._stream is not None

    async def take(self, event: Event) -> Prediction | None:
        """Take an audio event; return the answer when it is the last one of an utterance.

        EdgeSerError, once for an utterance, where there cannot be an answer.
        """
        try:
            if AudioStart.is_type(event.type):
                await self._start(event)
            elif AudioChunk.is_type(event.type):
                await self._chunk(event)
            else:
                return await self._stop()
        except EdgeSerError:
            self.drop()
            self._refused = not AudioStop.is_type(event.type)
            raise
        return None

    def drop(self) -> None:
        """Forget the utterance so far, and the rest of it."""
        self._stream, self._refused = None, True

    async def _start(self, event: Event) -> None:
        self._stream, self._refused = None, False
        self._format = rate_hz, width, channels = _format(event)
        if type(rate_hz) is not int or not 0 < rate_hz < 2**31:  # which of these it takes is the recogniser's affair
            raise AudioError(f"the audio has a rate of {rate_hz!r}; expected a whole number of Hz")
        if type(width) is not int or width not in _DTYPES:
            raise AudioError(f"the audio has samples of {width!r} bytes; expected 2 or 4 (signed integers, little-endian)")
        if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"the audio has {channels!r} channels; expected 1 to {MAX_CHANNELS}")
        self._stream = await asyncio.to_thread(self._recognizer.stream, rate_hz)

    async def _chunk(self, event: Event) -> None:
        if self._refused:
            return
        if self._stream is None:
            raise AudioError("an audio-chunk came before an audio-start")
        if (given := _format(event)) != self._format:
            raise AudioError(f"an audio-chunk has rate, width, channels {given}; its audio-start has {self._format}")
        rate_hz, width, channels = self._format
        payload = event.payload or b""
        if len(payload) % (width * channels):
            raise AudioError(f"an audio-chunk has {len(payload)} bytes; expected a multiple of {width * channels}")
        samples: AnyArray = np.frombuffer(payload, dtype=_DTYPES[width]).reshape(-1, channels)
        if self._stream.duration_s + len(samples) / rate_hz > self._max_duration_s:
            longest = f"{self._max_duration_s:g} s (serve --max-duration)"
            raise AudioError(f"the utterance is longer than {longest}; send audio-stop before that")
        for start in range(0, len(samples), rate_hz):  # a second at a time, for other clients want the threads, too
            await asyncio.to_thread(self._stream.feed, samples[start : start + rate_hz])

    async def _stop(self) -> Prediction | None:
        refused, stream = self._refused, self._stream
        self._refused, self._stream = False, None
        if refused:
            return None
        if stream is None:
            raise AudioError("an audio-stop came before an audio-start")
        return await asyncio.to_thread(stream.finish)


def duration_s(event: Event) -> float:
    """Return how much audio an audio-chunk holds, in seconds; 0 for one that makes no sense."""
    try:
        rate_hz, width, channels = map(int, _format(event))
        return max(0.0, len(event.payload or b"") / (rate_hz * width * channels))
    except (AudioError, ArithmeticError, TypeError, ValueError):
        return 0.0


def _format(event: Event) -> tuple[Any, ...]:
    """Return rate, width and channels as a client gave them."""
    try:
        return tuple(event.data[key] for key in ("rate", "width", "channels"))
    except (KeyError, TypeError):
        raise AudioError(f"{event.type} lacks its rate, width or channels") from None


def emotion(prediction: Prediction) -> Event:
    """Return the answer as the protocol's event for what it does not define; every figure is the one ``predict`` gives."""
    return emotion_event(
        {
            "label": prediction.label,
            "confidence": prediction.confidence,
            "probabilities": prediction.probabilities,
            "speech": prediction.speech,
            "duration_s": prediction.duration_s,
            "embedding": prediction.embedding.tolist(),
        }
    )


def emotion_event(data: dict[str, Any]) -> Event:
    """Return the event `emotion` with ``data``."""
    return Event("user-event", {"name": "emotion", "data": data})


def announcement(recognizer: EmotionRecognizer) -> Event:
    """Announce the recogniser.

    The protocol has no domain of emotion, and under another one (asr, handle ...) an assistant would take it for what it is
    not. So the lists of the known domains stay empty, and a list of its own, ``emotion``, is built like them; clients that
    do not know it pass over it.
    """
    manifest = recognizer.manifest
    model = Artifact(
        name=recognizer.path.stem,
        attribution=Attribution(name=", ".join(f"{c['name']}: {c['licence']}" for c in manifest.training["corpora"]), url=""),
        installed=True,
        description=f"for {manifest.intended_use}; not for {manifest.excluded_use}",
        version=manifest.graph_sha256[:12],
    )
    program = Artifact(
        name="edge-ser",
        attribution=Attribution(name="edge-ser", url=""),
        installed=True,
        description="Tells how a person sounds, not what they feel",
        version=__version__,
    )
    event = Info().event()
    event.data["emotion"] = [{**program.to_dict(), "models": [{**model.to_dict(), "labels": list(recognizer.labels)}]}]
    return event
