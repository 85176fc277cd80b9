"""``edge-ser serve``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_ser.commands._options import (
    Between,
    backend_option,
    broker_of,
    home_assistant_option,
    min_confidence_option,
    min_speech_option,
    model_option,
    mqtt_option,
    print_note,
    profile_option,
    threads_option,
)
from edge_ser.errors import ConfigError, require_extra

if TYPE_CHECKING:
    from edge_ser.prediction import Prediction
    from edge_ser.services.mqtt import Broker
    from edge_ser.services.wyoming import Address, Made


@click.command("serve", short_help="Answer voice assistants over the Wyoming protocol.")
@click.option(
    "--uri", default="tcp://127.0.0.1:10710", show_default=True, help="Where to listen: tcp://HOST:PORT or unix:///PATH."
)
@click.option("--asr", metavar="URI", help="Stand before the speech-to-text service there, and pass on audio and transcripts.")
@click.option("--tag", is_flag=True, help="With --asr: put the emotion before each transcript, as [angry].")
@mqtt_option
@home_assistant_option
@model_option
@backend_option
@threads_option
@min_confidence_option
@min_speech_option
@profile_option
@click.option("--learn", is_flag=True, help="With --profile: clients may put their last answer right (user-event correct).")
@click.option(
    "--max-clients",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Connections at a time; if all are taken, a client that sends no audio gives way.",
)
@click.option(
    "--idle",
    "idle_s",
    default=60.0,
    show_default=True,
    type=Between(min=0, min_open=True),
    metavar="SECONDS",
    help="Turn away a client that sends nothing, or in an utterance no audio, for so long.",
)
@click.option(
    "--max-duration",
    "max_duration_s",
    default=600.0,
    show_default=True,
    type=Between(min=0, min_open=True),
    metavar="SECONDS",
    help="Refuse a longer utterance.",
)
def command(
    uri: str,
    asr: str | None,
    tag: bool,
    mqtt_url: str | None,
    home_assistant: bool,
    model: Path | None,
    backend: str,
    threads: int,
    min_confidence: float,
    min_speech: float | None,
    profile: Path | None,
    learn: bool,
    max_clients: int,
    idle_s: float,
    max_duration_s: float,
) -> None:
    """Answer voice assistants over the Wyoming protocol: audio in, how it sounds out.

    A client sends audio-start, audio-chunk (16- or 32-bit PCM of any rate) and audio-stop, and gets a user-event named
    `emotion` with label, confidence, probabilities, speech, duration_s and embedding, or an error. The protocol knows no
    password: whoever can reach the address can use it.

    With --asr it is a speech-to-text service, as Home Assistant expects one: the recogniser's own transcripts come back, and the
    event beside them.
    """
    if learn and profile is None:
        raise click.UsageError("--learn goes with --profile, the file that learns; it is made where there is none")
    if learn and asr is not None:
        raise click.UsageError("--learn goes without --asr: what a client says is for the speech-to-text service then")
    if tag and asr is None:
        raise click.UsageError("--tag goes with --asr")
    require_extra("serve", "wyoming")
    broker = broker_of(mqtt_url, home_assistant)
    import asyncio
    import signal
    from functools import partial

    from edge_ser.live.corrections import Corrections
    from edge_ser.personal.profile import Profile
    from edge_ser.recognizer import EmotionRecognizer
    from edge_ser.services.connection import Limits
    from edge_ser.services.conversation import Conversation
    from edge_ser.services.relay import Relay, SpeechToText
    from edge_ser.services.wyoming import is_same, serve

    address = _address(uri, "--uri")
    behind = None if asr is None else SpeechToText(asr, _address(asr, "--asr"), tag)
    if behind is not None and is_same(behind.address, address):
        raise click.UsageError(f"--uri {uri} and --asr {asr} are one address; the speech-to-text service listens somewhere else")
    given = Profile.load_or_begin(profile) if learn and profile is not None else profile
    recognizer = EmotionRecognizer(
        model, backend=backend, threads=threads, min_confidence=min_confidence, min_speech=min_speech, profile=given
    )
    recognizer.stream()  # a model that cannot stream is refused here
    corrections = Corrections(recognizer, profile) if learn and profile is not None else None
    with contextlib.ExitStack() as opened:
        publish = _publishing(opened, broker, (lambda: recognizer.labels) if home_assistant else None)
        made: Made = (
            partial(Conversation, recognizer, corrections, publish)
            if behind is None
            else partial(Relay, recognizer, behind, publish, print_note)
        )
        limits = Limits(max_clients, idle_s, max_duration_s)
        ended_by = asyncio.run(serve(made, address, limits, lambda at: click.echo(f"listening at {at}")))
    if ended_by == signal.SIGINT:
        raise SystemExit(130)


def _address(uri: str, option: str) -> Address:
    from edge_ser.services.wyoming import parse_uri

    try:
        return parse_uri(uri)
    except ConfigError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def _publishing(
    opened: contextlib.ExitStack, broker: Broker | None, labels: Callable[[], Iterable[str]] | None
) -> Callable[[Prediction], object]:
    """Return what takes every answer; ``opened`` closes it."""
    if broker is None:
        return lambda answer: None
    from edge_ser.services.mqtt import Publisher

    publisher = opened.enter_context(Publisher(broker, print_note, labels, topics=["utterance"]))
    return lambda answer: publisher.publish({"event": "utterance", **answer.record()})
