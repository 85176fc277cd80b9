"""The voice in the room as the colour of an LED: python main.py; without a microphone, python main.py RECORDING."""

from __future__ import annotations

import signal
import sys

from gpiozero import RGBLED

from edge_ser import EdgeSerError, EmotionRecognizer
from edge_ser.live.capture import heard
from edge_ser.live.listener import Event, Listener, SpeechStarted, ToneChanged, UtteranceAnswered

PINS = (17, 27, 22)  # red, green, blue, as GPIO numbers
COLOURS = {"neutral": (1.0, 1.0, 1.0), "angry": (1.0, 0.0, 0.0), "happy": (1.0, 0.7, 0.0), "sad": (0.0, 0.0, 1.0)}
HEARD = (0.05, 0.05, 0.05)  # somebody speaks, and how they sound is not known yet, or uncertain


def show(event: Event, led: RGBLED) -> None:
    """Let the LED follow the voice: the surer the tone, the brighter its colour."""
    if isinstance(event, SpeechStarted) and not led.is_lit:
        led.color = HEARD
    elif isinstance(event, UtteranceAnswered):
        p = event.prediction
        print(f"{event.start_s:.1f}-{event.stop_s:.1f} s: {p.label} {p.confidence:.0%}", flush=True)
    elif isinstance(event, ToneChanged):
        led.color = tuple(event.confidence * x for x in COLOURS[event.label]) if event.label in COLOURS else HEARD
        print(f"LED: {event.label} ({', '.join(f'{x:.2f}' for x in led.color)})", flush=True)


def main(recording: str | None = None) -> None:
    """Listen to the microphone, or to a recording as if it were one, and let the LED go out at the end."""
    with heard(recording) as (rate_hz, captured), RGBLED(*PINS) as led:
        recognizer = EmotionRecognizer()
        print("listening", flush=True)
        listener = Listener(recognizer, rate_hz)
        for piece in captured:
            for event in listener.feed(piece.chunk, piece.arrived, piece.overruns):
                show(event, led)
        for event in listener.finish():
            show(event, led)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))  # systemctl stop: the LED goes out, too
    try:
        main(*sys.argv[1:2])
    except EdgeSerError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
