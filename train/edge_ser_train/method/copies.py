"""Copies of clips as everyday devices might have heard them, made once before training and kept beside the features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edge_ser.arrays import Float32Array
from edge_ser.errors import RunError
from edge_ser.files import writing
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import FrontEndConfig, extract
from edge_ser.terminal import progress
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.method import sounds


def load_copies(
    clips: Sequence[Clip], features: Sequence[Float32Array], n_copies: int, config: FrontEndConfig, cache_dir: Path
) -> list[list[Float32Array]]:
    """Return features [T, n_bins] of ``n_copies`` copies of every clip, whose own ``features`` are given.

    Made once and then mapped from ``cache_dir``: the file's name is a hash of the clips' features, of the front end and of the
    module that makes the copies. A copy is a function of its clip, of its number and of the clips whose voices it may hold.
    """
    if not n_copies or not clips:
        return [[] for _ in clips]
    digest = hashlib.sha256(json.dumps([asdict(config), n_copies]).encode())
    digest.update(Path(sounds.__file__).read_bytes())
    for clip, x in zip(clips, features, strict=True):
        digest.update(clip.key.encode())
        digest.update(hashlib.blake2b(x.tobytes()).digest())
    file = cache_dir / f"{digest.hexdigest()[:24]}.copies"
    try:
        if not file.is_file():
            cache_dir.mkdir(parents=True, exist_ok=True)
            _fill(file, clips, features, n_copies, config)
        with file.open("rb") as stored:
            lengths = np.load(stored)
            offset = stored.tell()
        table = np.memmap(file, dtype=np.float32, mode="r", offset=offset, shape=(int(lengths.sum()), config.n_bins))
    except OSError as error:
        raise RunError(f"cannot use the feature cache {cache_dir}: {error.strerror or error}; choose another --cache") from None
    parts = [np.asarray(part) for part in np.split(table, np.cumsum(lengths)[:-1])]
    return [parts[i : i + n_copies] for i in range(0, len(parts), n_copies)]


def _fill(file: Path, clips: Sequence[Clip], features: Sequence[Float32Array], n_copies: int, config: FrontEndConfig) -> None:
    recorded = []
    for clip in clips:
        with AudioReader(clip.path, config.rate_hz) as reader:
            recorded.append(reader.samples())
    copies = []
    for i, (clip, samples) in enumerate(zip(progress(clips, "copies"), recorded, strict=True)):
        span = sounds.speech_span(features[i], config)
        for number in range(n_copies):
            rng = np.random.default_rng([number, int(hashlib.sha256(clip.key.encode()).hexdigest()[:8], 16)])
            copies.append(extract(sounds.heard_elsewhere(samples, span, recorded, rng), config))
    with writing(file, error=RunError) as out:
        np.save(out, np.array([len(x) for x in copies], dtype=np.int64))
        for x in copies:
            out.write(x.tobytes())
