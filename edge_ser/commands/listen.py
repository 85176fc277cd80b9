"""``edge-ser listen``."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from edge_ser.commands._options import (
    Between,
    backend_option,
    broker_of,
    configured,
    home_assistant_option,
    model_option,
    mqtt_option,
    print_note,
    profile_option,
    threads_option,
)
from edge_ser.errors import AudioError, EdgeSerError

if TYPE_CHECKING:
    from edge_ser.live.capture import Captured, Device
    from edge_ser.live.corrections import Corrections
    from edge_ser.live.keys import Keys
    from edge_ser.live.listener import Event
    from edge_ser.prediction import Prediction
    from edge_ser.recognizer import EmotionRecognizer
    from edge_ser.services.mqtt import Publisher


@click.command("listen", short_help="Listen to a microphone, live.")
@click.argument("source", required=False, metavar="[-]")
@click.option("--realtime", type=click.Path(path_type=Path), metavar="FILE", help="Hear a recording as a microphone would.")
@click.option("--device", metavar="NAME", help="Microphone: its number, or part of its name; default: the system's.")
@click.option("--list-devices", is_flag=True, help="List the microphones and exit.")
@click.option(
    "--rate", "rate_hz", type=click.IntRange(1000, 768_000), metavar="HZ", help="Default: 16000, or the microphone's own."
)
@click.option("--channels", default=1, show_default=True, type=click.IntRange(1, 64), help="They are averaged.")
@click.option("--jsonl", is_flag=True, help="For programs: one event a line, as JSON.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Such as hangover_ms=300; see above.")
@click.option("--speed", default=1.0, type=Between(0.01, 1000), metavar="X", help="With --realtime: X times as fast.")
@mqtt_option
@home_assistant_option
@click.option("--learn", is_flag=True, help="With --profile: a key, or a label at PREFIX/correct, puts the last answer right.")
@model_option
@backend_option
@threads_option
@profile_option
def command(
    source: str | None,
    realtime: Path | None,
    device: str | None,
    list_devices: bool,
    rate_hz: int | None,
    channels: int,
    jsonl: bool,
    settings: tuple[str, ...],
    speed: float,
    mqtt_url: str | None,
    home_assistant: bool,
    learn: bool,
    model: Path | None,
    backend: str,
    threads: int,
    profile: Path | None,
) -> None:
    """Listen to a microphone, or to what comes on standard input (-), and tell how every utterance sounds when it is over.

    \b
    edge-ser listen
    arecord -t raw -f S16_LE -r 16000 | edge-ser listen -
    edge-ser listen --realtime hello.wav --jsonl

    On standard input a recording is known by its header; all else is raw samples, signed 16 bit, of --rate and --channels.
    WAV is heard as it comes, other formats once they have ended.

    With --learn, keys 1, 2, ... say which of the labels, in their order, the last utterance was; the profile learns it at once.

    Ctrl-C ends it, with exit status 130. Settings of --set: threshold, release, min_speech_ms, hangover_ms, pre_roll_ms,
    post_roll_ms, max_s (when an utterance begins and ends); smoothing_s, min_confidence, hysteresis, hold_s (how readily the
    tone changes).
    """
    if source is not None and source != "-":
        option = f"--realtime {shlex.quote(source)}"
        raise click.UsageError(f"a recording is heard with {option}; expected - (standard input), or nothing")
    if sum((source is not None, realtime is not None, device is not None)) > 1:
        raise click.UsageError("-, --realtime and --device exclude one another: listen to one thing at a time")
    if realtime is not None and (rate_hz is not None or channels != 1):
        raise click.UsageError("--rate and --channels are of a microphone or a pipe; a recording says its own")
    if speed != 1 and realtime is None:
        raise click.UsageError("--speed goes with --realtime")
    if learn and profile is None:
        raise click.UsageError("--learn goes with --profile, the file that learns; it is made where there is none")
    broker = broker_of(mqtt_url, home_assistant)
    if list_devices:
        from edge_ser.live.capture import devices

        _list(devices())
        return
    from edge_ser.live.corrections import Corrections
    from edge_ser.live.keys import Keys
    from edge_ser.live.listener import Listener, listen
    from edge_ser.live.screen import Screen
    from edge_ser.live.segmenter import SegmenterConfig
    from edge_ser.live.tone import ToneConfig
    from edge_ser.personal.profile import Profile
    from edge_ser.recognizer import EmotionRecognizer

    segmenter, tone = configured(settings, SegmenterConfig, ToneConfig)
    # A service manager's way to end it, which is no failure.
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.suppress(_Stopped), contextlib.ExitStack() as opened:
        name, found_hz, captured = _open(opened, source, realtime, device, rate_hz, channels, speed)
        given = Profile.load_or_begin(profile) if learn and profile is not None else profile
        recognizer = EmotionRecognizer(model, backend=backend, threads=threads, profile=given, min_confidence=tone.min_confidence)
        listener = Listener(recognizer, found_hz, segmenter, tone)
        show: Callable[[Event], None] = _print_json
        heard, note = _nothing, print_note
        if not jsonl:
            screen = opened.enter_context(Screen(listener, sys.stdout, _can_redraw()))
            show, heard, note = screen.show, screen.heard, screen.note
        correct = None
        if learn and profile is not None:
            corrections, answered = Corrections(recognizer, profile), _Answered()
            keys = opened.enter_context(Keys())

            correct = _correcting(corrections, answered)
            show, heard = answered.noting(show), _with_keys(heard, keys, recognizer, correct, note)
        if broker is None:
            listen(listener, name, captured, show, heard)
            return
        from edge_ser.services.mqtt import Publisher

        publisher = opened.enter_context(
            Publisher(broker, note, (lambda: recognizer.labels) if home_assistant else None, correct)
        )
        listen(listener, name, captured, _published(show, publisher), heard)


class _Answered:
    """Remembers the last answer."""

    last: Prediction | None = None

    def noting(self, show: Callable[[Event], None]) -> Callable[[Event], None]:
        """Return what shows an event, and notes the answer in it."""

        def both(event: Event) -> None:
            self.last = getattr(event, "prediction", None) if event.name == "utterance" else self.last
            show(event)

        return both


def _correcting(corrections: Corrections, answered: _Answered) -> Callable[[str], str]:
    return lambda label: corrections.correct(answered.last, label)


def _with_keys(
    heard: Callable[[], None],
    keys: Keys,
    recognizer: EmotionRecognizer,
    correct: Callable[[str], str],
    note: Callable[[str], None],
) -> Callable[[], None]:
    """Return what is called after every piece of audio: keys 1, 2, ... put the last answer right, in the order of the labels."""

    def also() -> None:
        key = keys.pressed()
        if key.isdecimal() and 0 < int(key) <= len(recognizer.labels):
            try:
                note(correct(recognizer.labels[int(key) - 1]))
            except EdgeSerError as error:
                note(str(error))
        heard()

    return also


class _Stopped(KeyboardInterrupt):
    """The listener was asked to end by SIGTERM."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _published(show: Callable[[Event], None], publisher: Publisher) -> Callable[[Event], None]:
    """Return what shows an event and publishes it, too, if it is one of those a smart home hears of."""
    from edge_ser.services.mqtt import TOPICS

    def both(event: Event) -> None:
        show(event)
        if event.name in TOPICS:
            publisher.publish(event.record())

    return both


def _nothing() -> None:
    pass


def _print_json(event: Event) -> None:
    click.echo(json.dumps(event.record(), ensure_ascii=False, allow_nan=False))


def _can_redraw() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and "utf" in sys.stdout.encoding.lower()


def _open(
    opened: contextlib.ExitStack,
    source: str | None,
    realtime: Path | None,
    device: str | None,
    rate_hz: int | None,
    channels: int,
    speed: float,
) -> tuple[str, int, Iterable[Captured]]:
    """Return the name of what is listened to, its rate in Hz, and the audio; ``opened`` closes it."""
    from edge_ser.frontend.audio import AudioReader
    from edge_ser.live.capture import Microphone, in_real_time, standard_input

    if realtime is not None:
        reader = opened.enter_context(AudioReader(realtime))
        return reader.name, reader.rate_hz, in_real_time(reader, speed)
    if source is not None:
        if sys.stdin is None:
            raise AudioError("standard input is closed; expected a recording, or raw PCM")
        if sys.stdin.isatty():
            raise click.UsageError("standard input is a terminal; pipe sound in, such as arecord -f S16_LE -r 16000")
        return "standard input", rate_hz or 16000, standard_input(sys.stdin.buffer, rate_hz or 16000, channels)
    microphone = Microphone(int(device) if device and device.isdecimal() else device, rate_hz, channels)
    opened.callback(microphone.close)
    return microphone.name, microphone.rate_hz, microphone


def _list(found: list[Device]) -> None:
    if not found:
        raise AudioError("no microphone was found; plug one in, or pipe audio in: edge-ser listen -")
    for d in found:
        click.echo(f"{d.index:>3}{'*' if d.is_default else ' '} {d.name}  {d.channels} channels, {d.rate_hz} Hz")
