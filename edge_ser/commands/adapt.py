"""``edge-ser adapt``: a few utterances of one person, with the emotion each has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from edge_ser.commands._options import backend_option, model_option, require_apart
from edge_ser.files import is_stream


@click.command(short_help="Learn how one person sounds.")
@click.argument("label", default="")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option(
    "--profile",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Profile to extend; made where there is none.",
)
@click.option("--forget", is_flag=True, help="First forget the person the profile knows; the microphone stays.")
@model_option
@backend_option
def command(label: str, files: tuple[str, ...], profile: Path, forget: bool, model: Path | None, backend: str) -> None:
    """Learn from recordings of one person who sounds LABEL in each FILE.

    One to four utterances of every emotion serve best, recorded where the device stands:

    edge-ser adapt happy a.wav b.wav --profile me.json, the same for the other emotions, then: edge-ser predict --profile
    me.json hello.wav

    The profile is changed when all files were heard, or not at all. Keep a copy of it to go back to.
    """
    if bool(label) != bool(files) or not (files or forget):
        raise click.UsageError("give a LABEL and the FILEs that sound so, or --forget")
    if is_stream(profile):
        raise click.UsageError(f"{profile} is no regular file; a profile is read and written")
    require_apart([profile], [*files, model])
    from edge_ser.personal.profile import Profile
    from edge_ser.recognizer import EmotionRecognizer

    before = Profile.load(profile) if profile.exists() else Profile()
    recognizer = EmotionRecognizer(model, backend=backend, profile=replace(before, person=None) if forget else before)
    for name in files:
        answer = recognizer.predict(name)
        recognizer.adapt(answer, label)
        click.echo(f"{name}  {label}; was heard as {answer.label}, {answer.confidence:.0%}" + "  novel" * answer.is_novel)
    recognizer.profile.save(profile)
    person = recognizer.profile.person
    known = ", ".join(f"{of.n} {name}" for name, of in person.utterances.items()) if person else "none"
    click.echo(f"utterances of the person in {profile}: {known}")
