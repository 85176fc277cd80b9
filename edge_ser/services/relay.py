"""One client before a speech-to-text service: everything goes on as it came, and how it was said goes out beside it.

    client                                       relay                              recogniser
    transcribe, audio-start, audio-chunk ...  -> passed on, then judged          -> the same bytes
    the same bytes                            <- passed on at once               <- transcript
    user-event `emotion`                      <- when the audio-stop was judged

A message is passed on before it is judged, and judged in another task: the recogniser hears, and answers, no later than without.
``info`` gets our own list, ``emotion``, beside those of the recogniser. Its faults end the connection with an error event `asr`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info

from edge_ser.errors import AudioError, EdgeSerError, first_line
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.services.connection import Connection, FarewellError, Limits, Reader
from edge_ser.services.utterance import Utterance, announcement, duration_s, emotion, emotion_event
from edge_ser.services.wyoming import Address

MOST_UNJUDGED_BYTES = 2**24
"""Audio that may wait for being judged: 9 minutes of 16 kHz speech. An utterance beyond is passed on, and gets no answer."""

LOST_S = 5.0
"""Whoever begins an utterance so long after one without a transcript, in seconds, may have given that up."""


@dataclass(frozen=True)
class SpeechToText:
    """The recogniser of words behind the relay."""

    uri: str
    address: Address
    is_tagged: bool
    """Whether the tone stands in its transcripts."""

    async def connect(self) -> tuple[Reader, asyncio.StreamWriter]:
        """Return a connection to it; OSError where there is none."""
        loop, reader = asyncio.get_running_loop(), Reader()

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(reader)

        opening: Any = (
            loop.create_connection(protocol, *self.address)
            if isinstance(self.address, tuple)
            else loop.create_unix_connection(protocol, str(self.address))
        )
        transport, made = await opening
        return reader, asyncio.StreamWriter(transport, made, reader, loop)


@dataclass(eq=False)
class _Place:
    """What is known of one utterance until its transcript comes."""

    answer: asyncio.Future[Prediction | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ended: float = math.inf
    """When its audio-stop came, on ``time.monotonic``'s clock."""


class Relay(Connection):
    """One client before a recogniser of words. ``publish`` hears of every answer, ``report`` of the recogniser's faults."""

    def __init__(
        self,
        recognizer: EmotionRecognizer,
        asr: SpeechToText,
        publish: Callable[[Prediction], object],
        report: Callable[[str], None],
        reader: Reader,
        writer: asyncio.StreamWriter,
        limits: Limits,
        task: asyncio.Task[Any],
    ) -> None:
        super().__init__(reader, writer, limits, task)
        self._recognizer, self._asr, self._publish, self._report = recognizer, asr, publish, report
        self._utterance = Utterance(recognizer, limits.max_duration_s)
        self._unjudged: asyncio.Queue[tuple[Event | AudioError, int]] = asyncio.Queue()  # with its bytes
        self._unjudged_bytes = 0
        self._is_dropping = False  # the rest of this utterance is not judged
        self._answer: Prediction | None = None  # to the event that is judged
        self._place: _Place | None = None  # of the utterance that is being said
        self._untold: deque[_Place] = deque()  # utterances without transcript so far; it comes in their order
        self._told = -math.inf  # when the last transcript came
        self._is_sure = True  # whether the next one is that of the first of them
        self._unanswered: deque[_Place] = deque()  # those said to their end, for the judge
        self._infos: deque[float] = deque()  # when each that the recogniser was asked for must be there
        self._is_stuck = False  # whether it does not read
        self._until = time.monotonic() + limits.idle_s  # how long the next message is waited for

    async def _converse(self) -> None:
        try:
            await self._between()
        except FarewellError as error:
            if error.code == "asr":
                self._report(str(error))
            raise
        finally:
            self._utterance.drop()

    async def _between(self) -> None:
        try:
            reader, writer = await asyncio.wait_for(self._asr.connect(), self._limits.idle_s)
        except asyncio.TimeoutError:
            raise self._fault(f"took no connection within {self._limits.idle_s:g} s") from None
        except OSError as error:
            raise self._fault(f"cannot be reached: {_reason(error)}") from None
        judging = asyncio.create_task(self._judge())
        there, back = asyncio.create_task(self._there(writer)), asyncio.create_task(self._back(reader))
        watching = asyncio.create_task(self._watch())
        tasks = [judging, there, back, watching]
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError):  # the client is gone, or does not read
                # It may close its own half and still wait for the transcript.
                while not back.done() and not self.farewell[0]:
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        tasks.remove(task)
                        task.result()
            await self._unjudged.join()  # what was said to its end is answered, whether or not the client waits for it
        except FarewellError:
            await self._unjudged.join()
            raise
        finally:
            for task in (judging, there, back, watching):
                task.cancel()
            await asyncio.gather(judging, there, back, watching, return_exceptions=True)
            writer.transport.abort()

    async def _there(self, writer: asyncio.StreamWriter) -> None:
        """Pass on what the client sends."""
        with contextlib.suppress(OSError):  # gone; what it sent before says whether that is a fault
            while (message := await self._reader.message()) is not None:
                event, content = message
                self._note(event)
                writer.write(content)
                self._is_stuck = True
                await writer.drain()
                self._is_stuck = False
                self._hear(event, len(content))
            writer.write_eof()

    def _note(self, event: Event) -> None:
        """Keep account of what the client does, and what it waits for."""
        now = time.monotonic()
        if AudioStart.is_type(event.type):
            self.is_speaking = True
            if self._place is None or self._place not in self._untold:  # a start over has the same transcript
                self._place = self._new_place()
        elif Describe.is_type(event.type):
            self._infos.append(now + self._limits.idle_s)
        if AudioStop.is_type(event.type):
            self.is_speaking, self.keeps_place_until = False, now + self._limits.idle_s
            place = self._place or self._new_place()
            place.ended = now
            self._unanswered.append(place)
            self._place = None
        # Within an utterance only audio buys time.
        if not self.is_speaking or AudioStart.is_type(event.type):
            self._until = now + self._limits.idle_s
        elif AudioChunk.is_type(event.type):
            self._until += min(duration_s(event), self._limits.idle_s)

    def _new_place(self) -> _Place:
        """Let an utterance wait for its transcript.

        Behind one that may have been given up, the next transcript is that of either. The doubt lasts until as many came as there
        were utterances.
        """
        if not self._untold:
            self._is_sure = True
        elif time.monotonic() - self._untold[0].ended >= LOST_S:
            self._is_sure = False
        self._untold.append(_Place())
        return self._untold[-1]

    @property
    def _owed(self) -> str:
        """Names of what the recogniser was asked for and has not sent."""
        return " and ".join(["info"] * bool(self._infos) + ["transcript"] * bool(self._untold))

    def _hear(self, event: Event, n_bytes: int) -> None:
        """Let an audio event be judged, in its turn."""
        if AudioStart.is_type(event.type):
            self._is_dropping = False
        elif not AudioChunk.is_type(event.type) and not AudioStop.is_type(event.type):
            return
        if not self._is_dropping and self._unjudged_bytes + n_bytes > MOST_UNJUDGED_BYTES:
            self._is_dropping = True
            error = AudioError("the audio comes faster than it can be judged; expected it as it is said")
            self._unjudged.put_nowait((error, 0))
        if not self._is_dropping:
            self._unjudged_bytes += n_bytes
            self._unjudged.put_nowait((event, n_bytes))
        elif AudioStop.is_type(event.type):  # each has its place
            self._unjudged.put_nowait((AudioStop().event(), 0))

    async def _judge(self) -> None:
        """Answer utterances, in order."""
        while True:
            event, n_bytes = await self._unjudged.get()
            self._answer = None
            with contextlib.suppress(OSError, asyncio.TimeoutError):  # the client is gone, or does not read
                await self._judged(event)
            if isinstance(event, Event) and AudioStop.is_type(event.type):
                self._unanswered.popleft().answer.set_result(self._answer)
            self._unjudged_bytes -= n_bytes
            self._unjudged.task_done()

    async def _judged(self, event: Event | AudioError) -> None:
        if isinstance(event, AudioError):
            was_open = self._utterance.is_open
            self._utterance.drop()
            if was_open:
                await self._send(emotion_event({"error": str(event)}))
            return
        try:
            answer = await self._utterance.take(event)
        except EdgeSerError as error:  # no error event: clients would take it for the recogniser's
            await self._send(emotion_event({"error": str(error)}))
            return
        if answer is not None:
            self._answer = answer
            self._publish(answer)
            await self._send(emotion(answer))

    async def _back(self, reader: Reader) -> None:
        """Pass back what the recogniser sends."""
        while (message := await self._next(reader)) is not None:
            event, content = message
            self._until = max(self._until, time.monotonic() + self._limits.idle_s)
            if Error.is_type(event.type):
                self._infos.clear()
            elif Info.is_type(event.type) and self._infos:
                self._infos.popleft()
            try:
                rewritten = await self._rewritten(event)
                await self._send(content if rewritten is None else rewritten)
            except (AttributeError, TypeError, ValueError):  # its data is no object, or no UTF-8
                raise self._fault(f"sent {event.type} with data that cannot be read") from None
        if self._owed and not self._reader.at_eof():
            raise self._fault(f"closed the connection before its {self._owed}")

    async def _next(self, reader: Reader) -> tuple[Event, bytes] | None:
        try:
            return await reader.message()
        except FarewellError as error:
            raise self._fault(f"sent what cannot be read: {error}") from None
        except OSError:
            return None

    async def _rewritten(self, event: Event) -> Event | None:
        """Return what the client gets in place of ``event``; None: its bytes."""
        if Info.is_type(event.type):
            return Event(event.type, {**event.data, "emotion": announcement(self._recognizer).data["emotion"]})
        if self._untold and (Transcript.is_type(event.type) or Error.is_type(event.type)):
            place, self._told = self._untold.popleft(), time.monotonic()
            if self._asr.is_tagged and Transcript.is_type(event.type) and self._is_sure and place is not self._place:
                return _tagged(event, await place.answer)  # one that comes before the audio-stop has no tone
        return None

    async def _watch(self) -> None:
        """End what does not go on: whatever else is sent, what the recogniser owes has its time."""
        while True:
            transcripts = (max(place.ended, self._told) + self._limits.idle_s for place in self._untold)  # one after another
            due = min([*transcripts, *self._infos], default=math.inf)
            left_s = min(due, self._until) - time.monotonic()
            if left_s <= 0:
                break
            await asyncio.sleep(min(left_s, self._limits.idle_s))  # something may be asked for meanwhile
        idle = f"{self._limits.idle_s:g} s"
        if self._is_stuck:
            raise self._fault(f"did not read what it was sent for {idle}")
        if self.is_speaking and due > time.monotonic():
            raise FarewellError("idle", f"the audio has fallen behind by {idle}; connect again")
        if self._owed:
            raise self._fault(f"sent no {self._owed} within {idle} (serve --idle)")
        raise FarewellError("idle", f"no message came within {idle}; connect again")

    def _fault(self, what: str) -> FarewellError:
        return FarewellError("asr", f"the speech-to-text service at {self._asr.uri} {what}")


def _reason(error: OSError) -> str:
    """Return why no connection came about: asyncio speaks of its calls, and of all addresses at once.

    >>> _reason(OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect call failed"))
    'Connection refused'
    """
    number = re.search(r"\[Errno (\d+)\]", str(error))
    return os.strerror(int(number[1])) if number else error.strerror or first_line(error)


def _tagged(event: Event, answer: Prediction | None) -> Event | None:
    """Return a transcript with the emotion before its text; None where no emotion was heard, or no word."""
    text = event.data.get("text")
    if answer is None or answer.label not in answer.probabilities or not isinstance(text, str) or not text:
        return None
    return Event(event.type, {**event.data, "text": f"[{answer.label}] {text}".encode(errors="replace").decode()})
