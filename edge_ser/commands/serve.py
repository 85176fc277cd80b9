"""``edge-ser serve``."""

from __future__ import annotations

from pathlib import Path

import click

from edge_ser.commands._options import (
    backend_option,
    min_confidence_option,
    min_speech_option,
    model_option,
    profile_option,
    threads_option,
)
from edge_ser.errors import ConfigError, require_extra


@click.command("serve", short_help="Answer voice assistants over the Wyoming protocol.")
@click.option(
    "--uri", default="tcp://127.0.0.1:10710", show_default=True, help="Where to listen: tcp://HOST:PORT or unix:///PATH."
)
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
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Turn away a client that sends nothing, or in an utterance no audio, for so long.",
)
@click.option(
    "--max-duration",
    "max_duration_s",
    default=600.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Refuse a longer utterance.",
)
def command(
    uri: str,
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
    `emotion` with label, confidence, probabilities, distance, novel, duration_s and embedding, or an error. The protocol
    knows no password: whoever can reach the address can use it.

    Home Assistant takes no such service over Wyoming; for it there is `edge-ser listen --mqtt URL --home-assistant`.
    """
    if learn and profile is None:
        raise click.UsageError("--learn goes with --profile, the file that learns; it is made where there is none")
    require_extra("serve", "wyoming")
    import asyncio
    import signal

    from edge_ser.live.corrections import Corrections
    from edge_ser.personal.profile import Profile
    from edge_ser.recognizer import EmotionRecognizer
    from edge_ser.services.conversation import Limits
    from edge_ser.services.wyoming import parse_uri, serve

    try:
        address = parse_uri(uri)
    except ConfigError as error:
        raise click.BadParameter(str(error), param_hint="--uri") from None
    given = Profile.load_or_begin(profile) if learn and profile is not None else profile
    recognizer = EmotionRecognizer(
        model, backend=backend, threads=threads, min_confidence=min_confidence, min_speech=min_speech, profile=given
    )
    corrections = Corrections(recognizer, profile) if learn and profile is not None else None
    limits = Limits(max_clients, idle_s, max_duration_s)
    ended_by = asyncio.run(serve(recognizer, address, limits, lambda at: click.echo(f"listening at {at}"), corrections))
    if ended_by == signal.SIGINT:
        raise SystemExit(130)
