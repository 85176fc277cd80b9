"""A voice assistant that hears how it is spoken to: python main.py; without a microphone, python main.py RECORDING.

wake word -> command, as it is said -> how it sounded, and with --service what was said -> how to reply -> spoken, or printed
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from ears import Ears, Heard, Here
from service import Service

from edge_ser import EdgeSerError
from edge_ser.frontend.audio import AudioStream
from edge_ser.live.capture import heard
from edge_ser.live.segmenter import Segmenter, SpeechAudio, SpeechEnd, SpeechStart

STYLES = {
    "neutral": "Sure.",
    "happy": "Gladly!",
    "sad": "I'm here. Let me take care of that.",
    "angry": "Sorry for the trouble. Right away.",
}
PLAIN = "Okay."
FRAME, WAKE_SCORE = 1280, 0.5  # samples of 16 kHz: what openWakeWord takes at a time; what it must answer


def reply_style(command: Heard) -> str:
    """Return how to begin the reply.

    An assistant that consoles somebody who is fine is worse than one that has heard nothing: what is uncertain, or no
    speech, gets the plain reply.
    """
    return STYLES.get(command.label, PLAIN)


class FirstSound:
    """Stands for ``openwakeword.model.Model`` and is asked like it: fires at the first sound above -40 dBFS."""

    def predict(self, frame: npt.NDArray[np.int16]) -> dict[str, float]:
        """Return by wake word, 0 to 1, whether it ends in these 80 ms."""
        return {"first sound": float(np.sqrt(np.mean(np.square(frame / 32768.0))) > 10 ** (-40 / 20))}

    def reset(self) -> None:
        """Forget what was heard."""


def wake_word(name: str | None) -> Any:
    """Return openWakeWord's model of that name, such as hey_jarvis, or a stub; ImportError without openWakeWord."""
    if name is None:
        return FirstSound()
    from openwakeword.model import Model

    return Model(wakeword_models=[name], inference_framework="onnx")


class Assistant:
    """Waits for the wake word, hears one command, calls ``reply`` with how it sounded, and waits again."""

    def __init__(self, ears: Ears, rate_hz: float, reply: Callable[[Heard], None], wake: Any = None) -> None:
        self.ears, self.reply, self.wake = ears, reply, wake or FirstSound()
        self.audio = AudioStream(rate_hz)  # to 16 kHz, whatever the microphone's rate
        self.waiting: npt.NDArray[np.float32] = np.zeros(0, np.float32)
        self.segmenter: Segmenter | None = None  # None: asleep

    def feed(self, chunk: npt.NDArray[Any]) -> None:
        """Take the microphone's next samples."""
        self.waiting = np.concatenate([self.waiting, self.audio.push(chunk)])
        while len(self.waiting) >= FRAME:
            frame, self.waiting = self.waiting[:FRAME], self.waiting[FRAME:]
            if self.segmenter is None and max(self.wake.predict(int16(frame)).values()) >= WAKE_SCORE:
                self.segmenter = Segmenter()
            if self.segmenter is not None:
                self._follow(self.segmenter.feed(frame))

    def finish(self) -> None:
        """End the audio, and with it what is being said."""
        if self.segmenter is not None:
            self._follow(self.segmenter.finish())

    def _follow(self, events: Iterable[object]) -> None:
        for event in events:
            if isinstance(event, SpeechStart):
                self.ears.start()
            elif isinstance(event, SpeechAudio):
                self.ears.feed(int16(event.samples))
            elif isinstance(event, SpeechEnd):
                self.reply(self.ears.finish())
                self.segmenter = None
                self.wake.reset()
                return


def int16(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Return samples of -1 to 1 as wake words and services take them."""
    return np.round(np.clip(samples, -1, 32767 / 32768) * 32768).astype(np.int16)


def say(command: Heard, voice: str | None = None) -> None:
    """Print the reply, and speak it where there is a voice. A product hands the emotion to its dialogue and its voice, too."""
    said = f' "{command.text}"' if command.text is not None else ""
    print(f"[{command.label}, {command.confidence:.0%}, {command.duration_s:.1f} s]{said} {reply_style(command)}", flush=True)
    if voice is not None:
        subprocess.run(voice, shell=True, input=reply_style(command), text=True, check=False, capture_output=True)


def arguments() -> argparse.Namespace:
    """Return what was asked for on the command line."""
    parser = argparse.ArgumentParser(description="An assistant that hears how it is spoken to.")
    parser.add_argument("recording", nargs="?", help="in place of the microphone")
    parser.add_argument("--wake-word", metavar="NAME", help="of openWakeWord, such as hey_jarvis; default: the first sound")
    parser.add_argument("--service", metavar="URI", help="ask edge-ser serve there, such as tcp://127.0.0.1:10710")
    parser.add_argument(
        "--mqtt", metavar="URL", help="without --service: publish for Home Assistant, such as mqtt://broker.local"
    )
    there = next((f"{program} --stdin" for program in ("espeak-ng", "espeak") if shutil.which(program)), None)
    parser.add_argument("--voice", default=there, metavar="COMMAND", help="speaks its standard input; default: espeak, if there")
    return parser.parse_args()


def main() -> None:
    """Assist whoever speaks into the microphone, or on the recording."""
    given = arguments()
    with contextlib.ExitStack() as opened:
        ears: Ears = Service(given.service) if given.service else Here(given.mqtt)
        opened.callback(ears.close)
        rate_hz, captured = opened.enter_context(heard(given.recording))
        assistant = Assistant(ears, rate_hz, partial(say, voice=given.voice), wake_word(given.wake_word))
        for piece in captured:
            assistant.feed(piece.chunk)
        assistant.finish()


if __name__ == "__main__":
    try:
        main()
    except (EdgeSerError, ImportError, OSError) as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
