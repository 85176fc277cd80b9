"""``edge-ser calibrate``: a minute of speech tells what a microphone does to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edge_ser.commands._options import backend_option, model_option, require_apart
from edge_ser.files import STANDARD_OUTPUT, require_writable

if TYPE_CHECKING:
    from edge_ser.arrays import Float32Array
    from edge_ser.model.manifest import Manifest
    from edge_ser.personal.microphone import Speech, SpeechStatistics

ORDINARY = ((0.0, 1000.0, 8000.0), (-0.4, -4.0, -2.7), (0.95, 0.77, 0.68))
"""Ordinary speech beside that of all emotions, at three frequencies in Hz: its level in dB, and the share of the spread it has.

Measured on the neutral speech of CREMA-D's training actors; straight lines between the three meet every bin within 1.1 dB."""


@click.command(short_help="Measure a microphone on a minute of speech.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Profile to write (JSON).")
@click.option(
    "--speech",
    type=click.Choice(["ordinary", "mixed"]),
    default="ordinary",
    show_default=True,
    help="What is said: everyday talk, or speech of every emotion in like parts.",
)
@click.option("--rate", "rate_hz", default=16000, show_default=True, metavar="HZ", help="Of raw samples on standard input.")
@model_option
@backend_option
def command(
    files: tuple[str, ...], out: Path, speech: Literal["ordinary", "mixed"], rate_hz: int, model: Path | None, backend: str
) -> None:
    """Measure a microphone on a minute of anybody's speech, and write its profile, which fits this model alone.

    It helped another language and people's own phones; in another studio and at home nothing was shown.

    FILE is a recording made with that microphone where it stands, or - for standard input: a recording, too, or raw samples,
    mono and signed 16 bit: arecord -d 60 -t raw -f S16_LE -r 16000 | edge-ser calibrate - -o mic.json

    Talk as one talks there; what is said and by whom does not matter, several people are better than one, and no labels are
    needed. Then: edge-ser predict --profile mic.json hello.wav
    """
    require_apart([out], [*files, model])
    from edge_ser.errors import AudioError, ConfigError
    from edge_ser.frontend.features import FeatureStream
    from edge_ser.personal.microphone import MIN_SPEECH_S, SpeechListener
    from edge_ser.personal.profile import Profile
    from edge_ser.prediction import speech_probability
    from edge_ser.recognizer import EmotionRecognizer

    require_writable(out)
    if out.is_file() and Profile.load(out).person is not None:
        raise ConfigError(f"{out} knows a person, who spoke through the microphone as it was; write to another file")
    recognizer = EmotionRecognizer(model, backend=backend)
    manifest, statistics, rest = recognizer.manifest, recognizer.statistics(), recognizer.statistics()

    def is_speech(piece: SpeechStatistics) -> bool:
        step = manifest.statistics_step
        return speech_probability(piece.over_time(step), manifest.speech, step) >= float(manifest.speech["threshold"])

    n_samples = 0
    for name in files:
        features, listener = FeatureStream(manifest.front_end), SpeechListener(statistics, rest, is_speech)
        for samples in _blocks(name, rate_hz, manifest.front_end.rate_hz):
            listener.push(features.push(samples))
        listener.flush()
        n_samples += features.n_samples
    if rest.n_vectors > 0 and statistics.vector_s < MIN_SPEECH_S:
        raise AudioError(
            f"the model takes {statistics.vector_s:.1f} s for speech and {rest.vector_s:.1f} s for noise, tones or music; "
            f"expected at least {MIN_SPEECH_S:g} s of speech, better a minute: check the microphone and record more"
        )
    Profile(statistics.result(speech)).save(out)
    to_stderr = out == STANDARD_OUTPUT
    click.echo(_report(speech, statistics, rest, manifest, n_samples), err=to_stderr)
    click.echo(f"wrote {'the profile' if to_stderr else out}", err=to_stderr)


def _blocks(name: str, raw_rate_hz: int, rate_hz: int) -> Iterator[Float32Array]:
    """Yield the samples of a recording, or of what is on standard input, at ``rate_hz``."""
    from edge_ser.errors import AudioError
    from edge_ser.frontend.audio import AudioReader, AudioStream
    from edge_ser.frontend.standard_input import sound_of

    if name != "-":
        with AudioReader(name, rate_hz) as reader:
            yield from reader.blocks()
        return
    if sys.stdin is None:
        raise AudioError("standard input is closed; expected a recording, or raw samples")
    stream = AudioStream(raw_rate_hz, rate_hz)
    for chunk in sound_of(sys.stdin.buffer, raw_rate_hz):
        yield stream.push(chunk)
        if sys.stderr.isatty():
            click.echo(f"\rlistening: {stream.duration_s:.0f} s", nl=False, err=True)
    yield stream.flush()
    if sys.stderr.isatty():
        click.echo(err=True)


def _report(speech: Speech, statistics: SpeechStatistics, rest: SpeechStatistics, manifest: Manifest, n_samples: int) -> str:
    """Return what was found, against what the model was trained on, as lines of text."""
    import numpy as np

    from edge_ser.frontend.features import bin_centres_hz

    speech_mean, speech_std = (np.array(v, dtype=np.float32) for v in (manifest.speech_mean, manifest.speech_std))
    hz = bin_centres_hz(manifest.front_end)
    at, level_db, share = ORDINARY if speech == "ordinary" else ((0.0,), (0.0,), (1.0,))
    difference = statistics.mean - speech_mean - np.interp(hz, at, level_db)
    level = float(difference.mean())
    bands = {"below 300 Hz": hz < 300, "300 to 3000 Hz": (hz >= 300) & (hz < 3000), "above 3000 Hz": hz >= 3000}
    spectrum = ", ".join(f"{name} {difference[of].mean() - level:+.1f} dB" for name, of in bands.items())
    spread = float((statistics.std / (speech_std * np.interp(hz, at, share))).mean())
    left_out = f"; {rest.speech_s:.1f} s of noise, tones or music left out" if rest.n_vectors > 0 else ""
    return (
        f"speech    {statistics.speech_s:.1f} s in {n_samples / manifest.front_end.rate_hz:.1f} s of audio{left_out}\n"
        f"level     {level:+.1f} dB against the speech the model was trained on\n"
        f"spectrum  {spectrum}, beside that\n"
        f"spread    {spread:.2f} of its spread; noise and echoes make that small"
    )
