"""From clips to batches: the feature cache, the normalisation statistics, length-bucketed batches."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edge_ser.arrays import Float32Array, IndexArray, Int64Array
from edge_ser.errors import RunError
from edge_ser.files import writing
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import FrontEndConfig, extract, extract_blocks
from edge_ser.geometry import ENCODER_FRAMES, ENCODER_STRIDE
from edge_ser.terminal import progress
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.method.augment import augment, stretched_lengths
from edge_ser_train.method.config import TrainConfig
from edge_ser_train.method.outliers import no_speech, outliers, sounds_of

if TYPE_CHECKING:
    from torch import Tensor

_ORDER, _CHANGES = 0, 1  # streams of random numbers: by epoch, and by step; the loop and the outliers have others
_BUCKET_BATCHES = 16  # clips of this many batches are sorted by length together: little padding, still random
_PAD_FRAMES = 32  # batches are padded to multiples of this, so that few different shapes reach the convolutions


def default_cache_dir() -> Path:
    """Return the user's cache folder for features."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-ser" / "features"


def clip_features(clip: Clip, config: FrontEndConfig) -> Float32Array:
    """Return the features [T, n_bins] of a clip, through the very functions the device uses."""
    with AudioReader(clip.path, config.rate_hz) as reader:
        return extract_blocks(reader.blocks(), reader.n_samples, config)


def load_features(clips: Sequence[Clip], config: FrontEndConfig, cache_dir: Path | None) -> list[Float32Array]:
    """Return the features of every clip, computed once and then mapped from ``cache_dir``, whatever list it stands in.

    None: mapped from the user's cache where they lie there, else computed and kept nowhere.

    The cache knows a clip by a hash of its file's path, size and time of change, so a changed recording is computed anew. What
    one call has to compute becomes one file named after the front end and these clips, with an index beside it: written whole,
    never changed, so that processes need not wait for each other.
    """
    keys = [_key(clip) for clip in clips]
    folder, wanted = cache_dir or default_cache_dir(), dict(zip(keys, clips, strict=True))
    try:
        found = _mapped(folder, config, wanted.keys())
        if lacking := {key: clip for key, clip in wanted.items() if key not in found}:
            with contextlib.ExitStack() as stack:
                if cache_dir is None:  # what is mapped outlives its name; Windows keeps the name
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
                _fill(folder, config, lacking)
                found |= _mapped(folder, config, lacking.keys())
    except OSError as error:
        raise RunError(f"cannot use the feature cache {folder}: {error.strerror or error}; choose another --cache") from None
    return [found[key] for key in keys]


def _key(clip: Clip) -> str:
    found = clip.path.stat()
    return _hash([os.path.realpath(clip.path), found.st_size, found.st_mtime_ns])


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def _mapped(folder: Path, config: FrontEndConfig, wanted: Set[str]) -> dict[str, Float32Array]:
    """Return those of the wanted features that lie in ``folder``, by key."""
    found: dict[str, Float32Array] = {}
    for index_file in folder.glob(f"{_hash(asdict(config))}-*.json"):
        data_file = index_file.with_suffix(".f32")
        try:
            lengths: dict[str, int] = json.loads(index_file.read_text())
            n_frames = sum(lengths.values())
            complete = data_file.stat().st_size == n_frames * config.n_bins * np.dtype(np.float32).itemsize
        except (OSError, ValueError, TypeError, AttributeError):
            continue
        if complete and not wanted.isdisjoint(lengths):
            table = np.asarray(np.memmap(data_file, dtype=np.float32, mode="r", shape=(n_frames, config.n_bins)))
            ends = np.cumsum(list(lengths.values())).tolist()
            rows = zip(lengths, [0, *ends], ends, strict=False)
            found.update((key, table[start:end]) for key, start, end in rows if key in wanted)
    return found


def _fill(folder: Path, config: FrontEndConfig, clips: Mapping[str, Clip]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{_hash(asdict(config))}-{_hash(list(clips))}"
    lengths: dict[str, int] = {}
    with writing(folder / f"{stem}.f32", error=RunError) as file:
        for key, clip in progress(list(clips.items()), "features"):
            features = clip_features(clip, config)
            lengths[key] = len(features)
            file.write(features.tobytes())
    with writing(folder / f"{stem}.json", error=RunError) as file:  # last: its presence says that the data is complete
        file.write(json.dumps(lengths).encode())


def audio_digests(clips: Sequence[Clip], features: Sequence[Float32Array]) -> dict[str, str]:
    """Return a hash of every clip's features by its key: equal audio has equal features, whatever the file looks like."""
    return {c.key: hashlib.blake2b(x.tobytes(), digest_size=16).hexdigest() for c, x in zip(clips, features, strict=True)}


def normalisation(features: Sequence[Float32Array]) -> tuple[Float32Array, Float32Array]:
    """Return mean and standard deviation per bin, float32 [n_bins] each, over all frames."""
    n = sum(len(x) for x in features)
    mean = sum(x.sum(axis=0, dtype=np.float64) for x in features) / n
    variance = sum(np.square(x - mean).sum(axis=0) for x in features) / n
    return np.asarray(mean, dtype=np.float32), np.maximum(np.sqrt(variance), 1e-3).astype(np.float32)


def speaker_means(clips: Sequence[Clip], vectors: Sequence[Float32Array]) -> Float32Array:
    """Return for every clip the mean of its speaker's ``vectors``, one [N, size] a clip, over all clips: [n_clips, size]."""
    of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, clip in enumerate(clips):
        of[clip.corpus, clip.speaker].append(i)
    means = np.empty((len(clips), vectors[0].shape[1]), dtype=np.float32)
    for rows in of.values():
        means[rows] = np.concatenate([vectors[i] for i in rows]).mean(axis=0, dtype=np.float64)
    return means


def epoch_batches(lengths: Int64Array, batch_size: int, rng: np.random.Generator) -> list[IndexArray]:
    """Return one epoch as batches of clip numbers, each of clips of similar length; a last partial batch is dropped.

    Fewer clips than a batch make one batch of them all.
    """
    order = rng.permutation(len(lengths))
    if len(order) <= batch_size:
        return [order]
    order = order[: len(order) // batch_size * batch_size]
    batches: list[IndexArray] = []
    for start in range(0, len(order), batch_size * _BUCKET_BATCHES):
        bucket = order[start : start + batch_size * _BUCKET_BATCHES]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += np.split(bucket, len(bucket) // batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def pad_batch(features: Sequence[Float32Array]) -> tuple[Tensor, Tensor]:
    """Return [B, T, n_bins] padded at the end, and the real lengths [B]; the network never looks at the padding."""
    import torch  # here, so that a model file's features need no PyTorch

    lengths = torch.tensor([len(x) for x in features])
    n_frames = -(-int(lengths.max()) // _PAD_FRAMES) * _PAD_FRAMES
    batch = torch.zeros(len(features), n_frames, features[0].shape[1])
    for row, x in zip(batch, features, strict=True):
        row[: len(x)] = torch.from_numpy(np.array(x))
    return batch, lengths


def crop_batch(features: Sequence[Float32Array], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return [B, T, n_bins] and lengths [B], each clip cut at a random place to the shortest's whole encoder strides.

    Without padding, batch normalisation sees speech alone; buckets of similar length keep the cuts short.
    """
    import torch

    shortest = min(len(x) for x in features)
    n_frames = shortest - (shortest - ENCODER_FRAMES) % ENCODER_STRIDE
    starts = [int(rng.integers(0, len(x) - n_frames + 1)) for x in features]
    cut = [x[start : start + n_frames] for x, start in zip(features, starts, strict=True)]
    return torch.from_numpy(np.stack(cut)), torch.full((len(features),), n_frames)


class Epoch(NamedTuple):
    """One pass over the training clips."""

    number: int
    features: list[Float32Array]
    """Every clip as recorded, or one of its copies."""
    lengths: Int64Array
    """Every clip's length after its time stretch, in frames."""
    batches: list[IndexArray]
    """Clip numbers."""


def draw_epoch(
    number: int, features: Sequence[Float32Array], copies: Sequence[Sequence[Float32Array]], config: TrainConfig
) -> Epoch:
    """Draw an epoch of clips with these features, and with these of their copies; the same for the same number, always."""
    rng = np.random.default_rng([config.seed, _ORDER, number])
    drawn = list(features)
    if config.augment.copies:
        for i in np.flatnonzero(rng.random(len(drawn)) < config.augment.copied).tolist():
            drawn[i] = copies[i][int(rng.integers(config.augment.copies))]
    lengths = stretched_lengths(np.array([len(x) for x in drawn]), config.augment, rng)
    # Vectors at hand cost little to pad, and in a small corpus what is equally long is the same sentence.
    alike = np.zeros_like(lengths) if config.optimizer.frozen else lengths
    return Epoch(number, drawn, lengths, epoch_batches(alike, config.optimizer.batch_size, rng))


def draw_batch(step: int, epoch: Epoch, rows: IndexArray, fill: Float32Array, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Return features [B, T, n_bins] and lengths [B] of the clips ``rows``, augmented; the same for the same step, always.

    ``fill`` [n_bins] is the training mean. Sound without speech stands where :func:`outliers` says.
    """
    front_end, sounds = config.front_end_config, sounds_of(step, config)
    rng = np.random.default_rng([config.seed, _CHANGES, step])
    clips = [augment(epoch.features[i], int(epoch.lengths[i]), fill, config.augment, rng, front_end) for i in rows]
    for i in np.flatnonzero(outliers(step, len(rows), config)):
        n_samples = (len(clips[i]) - 1) * front_end.hop_samples + front_end.frame_samples
        clips[i] = extract(no_speech(n_samples, front_end.rate_hz, sounds), front_end)
    # Batch statistics must not see padding; without them the published way, padding, changes nothing.
    return crop_batch(clips, rng) if config.model.batch_norm and not config.optimizer.frozen else pad_batch(clips)
