"""``edge-ser adapt``: a few utterances of one person, with the emotion each has."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_ser.commands._options import backend_option, model_option, require_apart
from edge_ser.errors import AudioError, ConfigError
from edge_ser.files import is_stream, require_writable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge_ser.live.capture import Captured
    from edge_ser.personal.person import Person
    from edge_ser.personal.profile import Profile
    from edge_ser.recognizer import EmotionRecognizer


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
@click.option("--record", is_flag=True, help="Be guided: what to say and how, for every label, or for the LABELs given.")
@click.option("--source", metavar="FILE", help="With --record: a recording, or - for raw samples on standard input, 16 kHz.")
@click.option("--show", is_flag=True, help="List the utterances, and how well they tell each other's labels.")
@click.option("--forget", metavar="N", help="Take utterance N back, as --show counts them; last; all: forget the person.")
@click.option(
    "--merge", type=click.Path(path_type=Path), metavar="OTHER", help="Take over another profile's utterances of this person."
)
@click.option("--only/--beside", "only", default=None, help="Answer with the labels heard alone; beside: with the model's, too.")
@model_option
@backend_option
def command(
    label: str, files: tuple[str, ...], profile: Path, record: bool, source: str | None, show: bool, forget: str | None,
    merge: Path | None, only: bool | None, model: Path | None, backend: str,
) -> None:  # fmt: skip
    """Learn from recordings of one person who sounds LABEL in each FILE.

    Two to four utterances of every emotion serve best, recorded where the device stands, the same sentences for all:

    edge-ser adapt happy a.wav b.wav --profile me.json, the same for the other emotions, then: edge-ser predict --profile
    me.json hello.wav

    LABEL may be a word of one's own, such as tired: answers name it as soon as a second label was heard. Case does not matter.

    edge-ser adapt --record --profile me.json guides through it at the microphone; --show tells how well it went.

    The profile is changed when all FILEs were heard, or not at all; --record keeps every good take. Keep a copy to go back to.
    """
    if forget is not None and forget not in ("last", "all") and not forget.isdecimal():
        raise click.UsageError(f"--forget is {forget!r}; expected a number, as --show counts the utterances, or last, or all")
    if not record and (bool(label) != bool(files) or not (files or forget or merge or show or only is not None)):
        raise click.UsageError("give a LABEL and the FILEs that sound so, or --record, --show, --forget, --merge")
    if source is not None and not record:
        raise click.UsageError("--source goes with --record")
    if is_stream(profile):
        raise click.UsageError(f"{profile} is no regular file; a profile is read and written")
    require_apart([profile], [*(() if record else files), source, merge, model])
    if not (record or files or forget or merge or only is not None):
        _change(label, files, profile, record, source, show, forget, merge, only, model, backend)
        return
    from edge_ser.personal.profile import changing

    require_writable(profile)
    with changing(profile):
        _change(label, files, profile, record, source, show, forget, merge, only, model, backend)


def _change(
    label: str, files: tuple[str, ...], profile: Path, record: bool, source: str | None, show: bool, forget: str | None,
    merge: Path | None, only: bool | None, model: Path | None, backend: str,
) -> None:  # fmt: skip
    from edge_ser.personal.profile import Profile
    from edge_ser.recognizer import EmotionRecognizer

    begins = bool(record or files) and forget is None and merge is None and only is None
    before = Profile.load_or_begin(profile) if begins else Profile.load(profile)
    if merge is not None:
        before = _merged(before, Profile.load(merge).person, merge)
    if forget is not None:
        before = replace(before, person=_without(before.person, forget, profile))
    if only is not None:
        if before.person is None:
            raise ConfigError(f"{profile} knows no person yet; give utterances first, then --only")
        before = replace(before, person=replace(before.person, only=only))
    recognizer = EmotionRecognizer(model, backend=backend, profile=before)
    if record:
        try:
            _record(recognizer, _meant(recognizer, label, *files) if label else list(recognizer.labels), source)
        except BaseException:  # a Ctrl-C, a microphone that is gone: the takes that were good are kept
            if recognizer.profile is not before:
                recognizer.profile.save(profile)
                _tell(recognizer, profile)
            raise
    else:
        _learn(recognizer, files, label)
    if record or files or forget or merge or only is not None:
        recognizer.profile.save(profile)
    if show or record:
        _show(recognizer.profile.person, recognizer)
    _tell(recognizer, profile)


def _tell(recognizer: EmotionRecognizer, profile: Path) -> None:
    person = recognizer.profile.person
    known = ", ".join(f"{n} {name}" for name, n in person.counts.items()) if person else ""
    click.echo(f"utterances of the person in {profile}: {known or 'none'}")


def _learn(recognizer: EmotionRecognizer, files: tuple[str, ...], label: str) -> None:
    from edge_ser.personal.person import MAX_UTTERANCES

    if files:
        (label,) = _meant(recognizer, label)
    known = recognizer.profile.person
    if (n := len(files) + (len(known.utterances) if known else 0)) > MAX_UTTERANCES:
        raise ConfigError(
            f"the profile would hold {n} utterances; expected at most {MAX_UTTERANCES}: give fewer, the clearest ones"
        )
    answers = [(name, recognizer.predict(name)) for name in files]
    for name, answer in answers:
        try:
            recognizer.adapt(answer, label)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from None
        click.echo(f"{name}  {label}; was heard as {answer.label}, {answer.confidence:.0%}")


def _merged(before: Profile, other: Person | None, path: Path) -> Profile:
    if other is None:
        raise ConfigError(f"{path} knows no person; expected a profile that edge-ser adapt wrote")
    return replace(before, person=other if before.person is None else before.person.merge(other))


def _without(person: Person | None, forget: str, profile: Path) -> Person | None:
    if forget == "all" or person is None:
        if forget != "all":
            raise ConfigError(f"{profile} knows no person; there is no utterance to take back")
        return None
    number = len(person.utterances) if forget == "last" else int(forget)
    left = person.forget(number)
    return left if left.utterances else None


def _meant(recognizer: EmotionRecognizer, *labels: str) -> list[str]:
    """Return each label once, as the model, the profile or one before has it, and tell where that is not how it was given."""
    from edge_ser.personal.person import word_meant

    found: list[str] = []
    for label in labels:
        meant = word_meant(recognizer.label_meant(label), found)
        if meant != label.strip():
            click.echo(f"{label} is taken for {meant}, which is there already")
        found += [meant] * (meant not in found)
    return found


def _record(recognizer: EmotionRecognizer, labels: list[str], source: str | None) -> None:
    from edge_ser.live.guide import ENOUGH, SKIP, guide
    from edge_ser.live.keys import Keys
    from edge_ser.terminal import FULL, bar, columns, keyed

    is_live = sys.stderr is not None and sys.stderr.isatty()

    def meter(level_db: float, speaking: bool) -> None:
        if is_live:
            level = bar(min(1.0, max(0.0, 1 + level_db / 60)), 20)
            click.echo(f"\r\x1b[K{'● speech' if speaking else '○ waiting':<10} {level}", nl=False, err=True)

    def clear() -> None:
        if is_live:
            click.echo("\r\x1b[K", nl=False, err=True)

    def say(line: str) -> None:
        clear()
        indent = len(line) - len(line.lstrip())
        for part in keyed([(" " * indent, line.strip())], indent, columns(otherwise=FULL)):
            click.echo(part)

    with contextlib.ExitStack() as opened:
        rate_hz, captured = _open(opened, source)
        opened.callback(clear)
        keys = opened.enter_context(Keys())
        if source is None or is_live:
            how = f"{SKIP} skips one, {ENOUGH} ends it" if keys.are_there else "Ctrl-C ends it"
            say(f"Say each sentence as its label says, then pause; {how}. Good takes are kept.")
        guide(recognizer, labels, captured, rate_hz, say, meter, keys.pressed)


def _open(opened: contextlib.ExitStack, source: str | None) -> tuple[int, Iterable[Captured]]:
    """Return the rate in Hz and the audio of what is listened to."""
    import time

    from edge_ser.frontend.audio import AudioReader
    from edge_ser.live.capture import Captured, Microphone, standard_input

    if source is None:
        microphone = Microphone()
        opened.callback(microphone.close)
        return microphone.rate_hz, microphone
    if source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise AudioError("standard input is no pipe; expected a recording, or raw samples of 16 kHz, signed 16 bit, mono")
        return 16000, standard_input(sys.stdin.buffer, 16000)
    reader = opened.enter_context(AudioReader(source))
    return reader.rate_hz, (Captured(block, time.monotonic()) for block in reader.blocks())


def _show(person: Person | None, recognizer: EmotionRecognizer) -> None:
    if person is None:
        return
    from edge_ser.personal.correction import Learnt, learn

    correction = learn(person, Learnt.of(recognizer.manifest))
    right: dict[str, list[bool]] = {label: [] for label in person.counts}
    for i, heard in enumerate(person.utterances):
        line = f"{i + 1:>4}  {heard.label}"
        if correction is not None:
            p = correction.loo[i].tolist()
            found = correction.labels[p.index(max(p))]
            right[heard.label].append(found == heard.label)
            line = f"{i + 1:>4}  {heard.label:<10} told as {found}, {max(p):.0%}"
        click.echo(line)
    if correction is None:
        click.echo("one label alone teaches nothing: give utterances of another, too")
        return
    shares = {label: sum(of) / len(of) for label, of in right.items()}
    for label, share in shares.items():
        click.echo(f"{label:<10} {len(right[label])} heard, {share:.0%} told right")
    missing = [label for label in correction.labels if label not in shares]
    needy = missing[0] if missing else min(shares, key=lambda label: (shares[label], len(right[label])))
    n_right = sum(map(sum, right.values()))
    click.echo(f"told right by the others: {n_right} of {len(person.utterances)}\nwhat helps most now: more {needy}")
