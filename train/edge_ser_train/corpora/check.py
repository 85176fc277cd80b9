"""Look a corpus over before it is trained on: what it holds, and what is wrong with it. Problems are collected, none stops it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.errors import AudioError, CorpusError
from edge_ser.frontend.audio import AudioReader, recordings_below
from edge_ser.frontend.features import LOGMEL_V1, frame_count
from edge_ser.terminal import progress
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.corpora.layouts import LAYOUTS, read_layout
from edge_ser_train.corpora.tables import read_table

_QUIET_PEAK, _FULL_SCALE = 0.02, 1 - 2.0**-15  # the latter is the highest positive 16-bit sample
_CLASSES_WIDTH, _MAX_LINES = 66, 10  # of the table's 100 columns; of one kind of finding


@dataclass(frozen=True)
class Sound:
    """What the check keeps of a recording: lengths, peak (full scale is 1), a hash of the decoded samples."""

    duration_s: float
    n_samples: int  # at the front end's rate
    peak: float
    clipped: bool  # three samples in a row at full scale; a single one is what normalising to the peak leaves
    digest: str


@dataclass(frozen=True)
class Finding:
    """Something wrong (``error``: mend it before training) or worth knowing (``warning``)."""

    level: str
    kind: str
    message: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.files) if len(self.files) < 3 else f"{self.files[0]} and {len(self.files) - 1} more"
        return f"{self.level:<8} {self.message}{': ' if shown else ''}{shown}"


def check_corpus(folder: Path) -> dict[str, Any]:
    """Read all of the corpus in ``folder``, audio included, and return what it holds and what was found, as JSON-able values.

    ``ok`` is False when a finding is an error; durations are of the readable clips. Raises CorpusError only without a corpus.
    """
    name = folder.resolve().name
    problems: list[str] = []
    read = read_table if (folder / "labels.csv").is_file() else read_layout
    clips = read(folder, name, problems.append) or []
    if not (clips or problems):
        raise CorpusError(f"no corpus in {folder}: expected labels.csv, or the tree of {', '.join(LAYOUTS)} as published")
    findings = [Finding("error", "table", problem) for problem in problems]
    sounds: dict[Clip, Sound] = {}
    for clip in progress(clips, name):
        try:
            sounds[clip] = listen(clip.path)
        except AudioError as error:
            findings.append(Finding("error", "unreadable", str(error)))
    findings += [*_about_sounds(sounds), *_identical(sounds)]
    listed = {c.path for c in clips}
    found = (p.relative_to(folder) for p in recordings_below(folder) if p not in listed)
    if unlisted := tuple(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts)):
        findings.append(Finding("warning", "unlisted", f"{len(unlisted)} recordings are not part of the corpus", unlisted))
    findings.sort(key=lambda finding: finding.level)  # errors first
    seconds = [sound.duration_s for sound in sounds.values()] or [0.0]
    measures = {"total": sum(seconds), "min": min(seconds), "median": float(np.median(seconds)), "max": max(seconds)}
    return {
        "corpus": name,
        "ok": all(finding.level != "error" for finding in findings),
        "clips": len(clips),
        "speakers": len({c.speaker for c in clips}),
        "duration_s": {measure: round(value, 3) for measure, value in measures.items()},
        "per": {of: _counts(clips, of) for of in ("corpus", "gender", "split", "fold", "session", "speaker")},
        "findings": [asdict(finding) for finding in findings],
    }


def format_check(result: Mapping[str, Any]) -> str:
    """Return the result of :func:`check_corpus` for a terminal of 100 columns, a line a finding."""
    d, findings = result["duration_s"], [Finding(**finding) for finding in result["findings"]]
    lengths = f"{d['min']:.2f} to {d['max']:.2f} s, median {d['median']:.2f} s, {d['total'] / 3600:.2f} h in all"
    head = f"{result['corpus']}: {result['clips']} clips of {result['speakers']} speakers, {lengths}"
    lines = [head, "", *_table(result["per"]), ""]
    for _, same in groupby(findings, lambda finding: (finding.level, finding.kind)):
        found = [str(finding) for finding in same]
        more = f"{'':<8} and {len(found) - _MAX_LINES} more of this kind; --json lists all"
        lines += found if len(found) <= _MAX_LINES else [*found[:_MAX_LINES], more]
    return "\n".join(lines if findings else [*lines, "nothing wrong found"])


def listen(path: Path) -> Sound:
    """Decode a recording at its own rate and measure it; raise AudioError if it cannot be read."""
    with AudioReader(path, LOGMEL_V1.rate_hz) as reader:
        rate_hz, n_samples = reader.source_rate_hz, reader.n_samples
    digest, peak, clipped = hashlib.blake2b(str(rate_hz).encode(), digest_size=16), 0.0, False
    with AudioReader(path, rate_hz) as reader:
        for block in reader.blocks():
            digest.update(block.tobytes())
            magnitude = np.abs(block)
            full = magnitude >= _FULL_SCALE
            peak, clipped = max(peak, float(magnitude.max())), clipped or bool((full[:-2] & full[1:-1] & full[2:]).any())
    return Sound(reader.duration_s, n_samples, peak, clipped, digest.hexdigest())


def _about_sounds(sounds: Mapping[Clip, Sound]) -> Iterator[Finding]:
    c, n_clipped = LOGMEL_V1, sum(s.clipped for s in sounds.values())
    kinds: tuple[tuple[str, str, Callable[[Sound], bool]], ...] = (
        ("silent", "digital silence", lambda s: s.peak == 0),
        ("quiet", f"very quiet (peak below {_QUIET_PEAK})", lambda s: 0 < s.peak < _QUIET_PEAK),
        ("full scale", f"at full scale, {n_clipped or 'none'} of them clipped", lambda s: s.peak >= _FULL_SCALE),
        ("short", f"under {c.min_samples / c.rate_hz:.2f} s, to be padded", lambda s: s.n_samples < c.min_samples),
        ("long", f"over {c.max_frames * c.hop_samples / c.rate_hz:g} s, to be cut",
         lambda s: frame_count(s.n_samples, c) > c.max_frames),
    )  # fmt: skip
    for kind, what, holds in kinds:
        if files := tuple(clip.name for clip, sound in sounds.items() if holds(sound)):
            message = f"{len(files)} of {len(sounds)} clips {what}"
            yield Finding("error" if kind == "silent" else "warning", kind, message, files)


def _identical(sounds: Mapping[Clip, Sound]) -> Iterator[Finding]:
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip, sound in sounds.items():
        groups[sound.digest] += [clip] if sound.peak else []
    for same in groups.values():
        values = {of: dict.fromkeys(getattr(c, of) or "none" for c in same) for of in ("emotion", "speaker", "split")}
        differing = [f"{of} {' / '.join(found)}" for of, found in values.items() if len(found) > 1]
        if len(same) > 1:
            message = f"identical audio{' but ' if differing else ''}{', '.join(differing)}"
            yield Finding("error" if differing else "warning", "identical", message, tuple(c.name for c in same))


def _counts(clips: Sequence[Clip], of: str) -> dict[str, Any]:
    """Return the number of speakers and the clips per class for each known value of an attribute."""
    known = sorted((getattr(c, of), c.emotion, c.speaker) for c in clips if getattr(c, of))
    groups = ((value, list(same)) for value, same in groupby(known, lambda row: row[0]))
    return {
        v: {"speakers": len({row[2] for row in same}), "classes": dict(Counter(row[1] for row in same))} for v, same in groups
    }


def _table(per: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yield the lines of the table: a column a class; speakers with the same counts share a line."""
    classes = [name for whole in per["corpus"].values() for name in whole["classes"]]
    cut = 5 if sum(max(5, len(c)) + 1 for c in classes) > _CLASSES_WIDTH else 99
    widths = {c: max(5, len(c[:cut])) for c in classes}

    def row(label: str, counts: Mapping[str, int], n_speakers: object = "") -> str:
        cells = "".join(f" {counts.get(c) or '-':>{width}}" for c, width in widths.items())
        return f"{label:<18.18}{cells} {sum(counts.values()):>6} {n_speakers:>8}".rstrip()

    yield f"{'':<18}{''.join(f' {c[:width]:>{width}}' for c, width in widths.items())}  clips speakers"
    for of in ("corpus", "gender", "split", "fold", "session"):
        for value, group in per[of].items():
            yield row(f"{of} {value}" if of in ("fold", "session") else value, group["classes"], group["speakers"])
    alike: dict[tuple[tuple[str, int], ...], list[str]] = defaultdict(list)
    for speaker, group in per["speaker"].items():
        alike[tuple(group["classes"].items())].append(speaker)
    for counts, names in sorted(alike.items(), key=lambda item: -len(item[1])):
        yield row(names[0] if len(names) == 1 else f"{len(names)} speakers each", dict(counts))
