"""The front end: 16 kHz mono samples to log-Mel or log-STFT frames, the same code in training and on the device.

    samples float32 [n] -> frames [T, 640] -> Hamming window -> DFT 1024 -> power [T, 513] -> Mel [T, 128] -> dB

A frame depends on its own 640 samples and on nothing else, and every row is transformed by itself. So a stream cut anywhere
gives the frames of the whole signal, bit for bit. numpy and scipy only; scipy is imported on first use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided

from edge_ser.arrays import AnyArray, Float32Array, Float64Array, FloatArray
from edge_ser.errors import ConfigError
from edge_ser.frontend.spectral import SparseRows, real_dft, sparse_product
from edge_ser.geometry import ENCODER_FRAMES, ENCODER_STRIDE

Transform: TypeAlias = "Callable[[Float32Array, FrontEndConfig], Float32Array]"
"""Samples [n] to the dB of every frame that fits into them, [T, n_bins]: :func:`transform`, or an engine's own."""

_BLOCK_FRAMES = 64  # shorter blocks pay Python overhead, longer ones leave the caches
_DB_PER_NEPER = np.float32(10.0 / np.log(10.0))  # 10 log10(x) = this * ln(x); numpy vectorises log, not log10


@dataclass(frozen=True)
class FrontEndConfig:
    """Everything that defines the features; it travels inside every model file.

    >>> LOGMEL_V1.frame_samples / LOGMEL_V1.rate_hz, LOGMEL_V1.hop_samples / LOGMEL_V1.rate_hz
    (0.04, 0.01)
    """

    name: str
    """Identifier of this exact definition; a changed definition gets a new name."""
    kind: Literal["logmel", "logstft"]
    """``logmel``: Mel bands; ``logstft``: all DFT bins."""
    rate_hz: int = 16000
    """Sampling rate of the samples, in Hz."""
    frame_samples: int = 640
    """Length of the analysis window (periodic Hamming), in samples."""
    hop_samples: int = 160
    """Distance between the starts of two frames, in samples."""
    n_fft: int = 1024
    """Length of the DFT, in samples; the frame is zero-padded to it."""
    n_mels: int = 128
    """Number of Mel bands (Slaney scale, Slaney area norm); 0 for ``logstft``."""
    f_min_hz: float = 0.0
    """Lower edge of the lowest Mel band, in Hz."""
    f_max_hz: float = 8000.0
    """Upper edge of the highest Mel band, in Hz."""
    floor: float = 1e-10
    """Power floor: ``logmel`` takes max(floor, S), ``logstft`` adds it."""
    centered: bool = False
    """True: the signal is reflect-padded by half a DFT so that frames are centred (offline only)."""
    top_db: float | None = None
    """Clip to this many dB below the loudest value of the utterance (offline only); None: no clipping."""
    max_frames: int = 1400
    """Longest analysed stretch, in frames; of a longer utterance the middle is taken."""

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ConfigError(f"front end {self.name!r}: {problem}")

    def _problem(self) -> str:
        if self.kind not in ("logmel", "logstft"):
            return f"kind is {self.kind!r}; expected 'logmel' or 'logstft'"
        if not 0 < self.hop_samples <= self.frame_samples <= self.n_fft:
            return (
                f"hop_samples {self.hop_samples}, frame_samples {self.frame_samples}, n_fft {self.n_fft}; "
                "expected 0 < hop_samples <= frame_samples <= n_fft"
            )
        if (self.kind == "logmel") != (self.n_mels > 0):
            return f"n_mels is {self.n_mels} for kind {self.kind!r}; expected > 0 for logmel and 0 for logstft"
        if not 0 <= self.f_min_hz < self.f_max_hz <= self.rate_hz / 2:
            return f"Mel range {self.f_min_hz}-{self.f_max_hz} Hz; expected 0 <= f_min_hz < f_max_hz <= rate_hz / 2"
        if not self.floor > 0:
            return f"floor is {self.floor}; expected a positive power"
        if self.max_frames < ENCODER_FRAMES:
            return f"max_frames is {self.max_frames}; expected at least {ENCODER_FRAMES}"
        return ""

    @property
    def n_bins(self) -> int:
        """Number of features in one frame."""
        return self.n_mels if self.kind == "logmel" else self.n_fft // 2 + 1

    @property
    def streamable(self) -> bool:
        """Whether a frame exists as soon as its samples do (no centring, no per-utterance clipping)."""
        return not self.centered and self.top_db is None

    @property
    def min_samples(self) -> int:
        """Samples needed for one encoder vector; shorter audio is padded with silence to this length."""
        return (ENCODER_FRAMES - 1) * self.hop_samples + self.frame_samples


LOGMEL_V1 = FrontEndConfig(name="logmel-v1", kind="logmel")
LOGSTFT_V1 = FrontEndConfig(name="logstft-v1", kind="logstft", n_mels=0, floor=1e-8)
LOGMEL_PAPER = FrontEndConfig(name="logmel-paper", kind="logmel", centered=True, top_db=80.0)
LOGSTFT_PAPER = FrontEndConfig(name="logstft-paper", kind="logstft", n_mels=0, floor=1e-8, centered=True)

FRONT_ENDS = {config.name: config for config in (LOGMEL_V1, LOGSTFT_V1, LOGMEL_PAPER, LOGSTFT_PAPER)}
"""The named front ends. The two ``-paper`` ones are those of Dai et al. (ICASSP 2019), for reproduction."""


def mel_filterbank(config: FrontEndConfig) -> Float32Array:
    """Return the triangular Mel filters, float32 [n_mels, n_fft // 2 + 1].

    Slaney's Auditory Toolbox scale (linear below 1 kHz, logarithmic above) and area normalisation, the default of
    ``librosa.filters.mel``.

    >>> mel_filterbank(LOGMEL_V1).shape
    (128, 513)
    """
    edges = _mel_edges_hz(config)
    bins = np.arange(config.n_fft // 2 + 1) * (config.rate_hz / config.n_fft)
    slopes = edges[:, None] - bins[None, :]
    widths = np.diff(edges)
    rising = -slopes[:-2] / widths[:-1, None]
    falling = slopes[2:] / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def bin_centres_hz(config: FrontEndConfig) -> Float64Array:
    """Return the centre frequency of every bin, Hz, [n_bins].

    >>> float(bin_centres_hz(LOGSTFT_V1)[1])
    15.625
    """
    if config.kind == "logmel":
        return _mel_edges_hz(config)[1:-1]
    return np.arange(config.n_bins, dtype=np.float64) * (config.rate_hz / config.n_fft)


def _mel_edges_hz(config: FrontEndConfig) -> Float64Array:
    """Return the edges of the Mel bands, Hz, [n_mels + 2]: band i rises from edge i to i + 1 and falls to i + 2."""

    def hz_to_mel(hz: Float64Array) -> Float64Array:
        linear = hz * 3 / 200
        return np.where(hz < 1000, linear, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))

    def mel_to_hz(mel: Float64Array) -> Float64Array:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))

    low, high = hz_to_mel(np.array([config.f_min_hz, config.f_max_hz], dtype=np.float64))
    return mel_to_hz(np.linspace(low, high, config.n_mels + 2))


def frame_count(n_samples: int, config: FrontEndConfig) -> int:
    """Return how many frames ``n_samples`` samples give, after the padding of short audio.

    >>> frame_count(48000, LOGMEL_V1), frame_count(100, LOGMEL_V1)
    (297, 49)
    """
    n_samples = max(n_samples, config.min_samples)
    if config.centered:
        return 1 + n_samples // config.hop_samples
    return 1 + (n_samples - config.frame_samples) // config.hop_samples


def middle_window(n_frames: int, config: FrontEndConfig) -> tuple[int, int]:
    """Return the first and one-past-last frame that are analysed of an utterance of ``n_frames``.

    Everything up to ``max_frames``; of more, the middle. For streamable front ends the start is rounded down to a whole
    encoder stride, so the vectors of a stream are those of the whole utterance.

    >>> middle_window(1400, LOGMEL_V1), middle_window(3001, LOGMEL_V1)
    ((0, 1400), (800, 2200))
    """
    if n_frames <= config.max_frames:
        return 0, n_frames
    start = (n_frames - config.max_frames) // 2
    if config.streamable:
        start -= start % ENCODER_STRIDE
    return start, start + config.max_frames


class _Tables(NamedTuple):
    window: FloatArray  # its dtype is the one the spectrum is computed in
    mel: SparseRows | None


@lru_cache(maxsize=8)
def _tables(config: FrontEndConfig) -> _Tables:
    phase = 2 * np.pi * np.arange(config.frame_samples) / config.frame_samples
    window = 0.54 - 0.46 * np.cos(phase)
    if config.kind == "logstft":
        # Its spectral nulls lie below what a float32 DFT of full-scale speech resolves (errors up to 0.02 dB).
        return _Tables(window, None)
    return _Tables(window.astype(np.float32), SparseRows.of(mel_filterbank(config)))


class _Workspaces(threading.local):
    """The memory that blocks are computed in, kept by every thread: fresh pages would cost as much as the arithmetic."""

    def __init__(self) -> None:
        self.of: dict[FrontEndConfig, tuple[AnyArray, ...]] = {}

    def __call__(self, config: FrontEndConfig, dtype: np.dtype[Any]) -> tuple[AnyArray, ...]:
        found = self.of.get(config)
        if found is None:
            n_rows, n_bins = _BLOCK_FRAMES * 3 // 2, config.n_fft // 2 + 1
            found = self.of[config] = (
                np.zeros((n_rows, config.n_fft), dtype=dtype),  # zeros behind the frame stay zeros
                np.empty(n_bins * n_rows, dtype=np.result_type(dtype, np.complex64)),
                np.empty(n_bins * n_rows, dtype=dtype),
                np.empty(config.n_bins * n_rows, dtype=np.float32),
            )
        return found


_workspaces = _Workspaces()


def transform(samples: Float32Array, config: FrontEndConfig) -> Float32Array:
    """Return every frame that fits into ``samples`` [n], as dB, float32 [T, n_bins]; no padding of any kind."""
    n_frames = max(0, 1 + (len(samples) - config.frame_samples) // config.hop_samples)
    out = np.empty((n_frames, config.n_bins), dtype=np.float32)
    if n_frames == 0:
        return out
    window, mel = _tables(config)
    step = samples.strides[0]
    frames = as_strided(samples, (n_frames, config.frame_samples), (config.hop_samples * step, step), writeable=False)
    n_bins = config.n_fft // 2 + 1
    # Bins lie along the first axis from here on: that is how the sparse product reads and writes them.
    padded, spectrum, power, bands = _workspaces(config, window.dtype)
    size = -(-n_frames // max(1, round(n_frames / _BLOCK_FRAMES)))  # even blocks, of 1.5 times the usual at most
    for start in range(0, n_frames, size):
        block, rows = frames[start : start + size], out[start : start + size]
        n = len(block)
        np.multiply(block, window, out=padded[:n, : config.frame_samples])
        X = spectrum[: n_bins * n].reshape(n_bins, n)
        real_dft(padded[:n], X)
        squares = X.view(window.dtype)
        np.square(squares, out=squares)
        S = power[: n_bins * n].reshape(n_bins, n)
        np.add(squares[:, ::2], squares[:, 1::2], out=S)
        if mel is None:
            S += config.floor
            np.multiply(np.log(S, out=S).T, _DB_PER_NEPER, out=rows, casting="same_kind")
        else:
            # A sparse product sums each band's few bins in a fixed order whatever the block's size; a dense one does not.
            M = bands[: config.n_bins * n].reshape(config.n_bins, n)
            sparse_product(mel, S, M)
            np.maximum(M, np.float32(config.floor), out=M)
            np.multiply(np.log(M, out=M).T, _DB_PER_NEPER, out=rows)
    return out


def _pad_short(samples: Float32Array, config: FrontEndConfig) -> Float32Array:
    if len(samples) >= config.min_samples:
        return samples
    padded = np.zeros(config.min_samples, dtype=np.float32)
    padded[: len(samples)] = samples
    return padded


def extract(samples: Float32Array, config: FrontEndConfig = LOGMEL_V1) -> Float32Array:
    """Return the features of a whole utterance: float32 [T, n_bins] in dB.

    ``samples`` is float32 [n] at ``config.rate_hz``, full scale 1.0. Audio shorter than 49 frames is padded with silence;
    of more than ``config.max_frames`` frames the middle is taken (see :func:`middle_window`).

    >>> extract(np.zeros(16000, dtype=np.float32)).shape
    (97, 128)
    """
    return extract_blocks([samples], len(samples), config)


def extract_blocks(
    blocks: Iterable[Float32Array], n_samples: int, config: FrontEndConfig, transform: Transform = transform
) -> Float32Array:
    """Return the features of an utterance that comes in ``blocks`` of altogether ``n_samples`` samples.

    Like :func:`extract`, but holds no more than ``max_frames`` frames' samples in memory: a recording of hours costs
    what 14 s cost. (A front end that is not streamable looks at the whole utterance and holds all of it.)
    """
    n_frames = frame_count(n_samples, config)
    start, stop = middle_window(n_frames, config)
    if config.streamable:
        first_sample = start * config.hop_samples
        last_sample = (stop - 1) * config.hop_samples + config.frame_samples
        samples = _pad_short(_slice_blocks(blocks, first_sample, last_sample), config)
        return transform(samples, config)
    samples = _pad_short(_slice_blocks(blocks, 0, n_samples), config)
    half = config.n_fft // 2 if config.centered else 0
    # The analysis window sits in the middle of the DFT; the frames of a transform start at its first sample.
    inset = (config.n_fft - config.frame_samples) // 2 if config.centered else 0
    padded = np.pad(samples, half, mode="reflect")
    frames = transform(padded[inset : len(padded) - inset], config)
    if config.top_db is not None:
        np.maximum(frames, frames.max() - np.float32(config.top_db), out=frames)
    return frames[start:stop]


def _slice_blocks(blocks: Iterable[Float32Array], start: int, stop: int) -> Float32Array:
    """Return samples [start, stop) of the concatenated blocks, reading on to the end so that late errors surface."""
    kept: list[Float32Array] = []
    position = 0
    for block in blocks:
        part = block[max(0, start - position) : max(0, stop - position)]
        if len(part):
            kept.append(part)
        position += len(block)
    if len(kept) == 1:
        return kept[0]
    return np.concatenate(kept) if kept else np.empty(0, dtype=np.float32)


class FeatureStream:
    """Features of a signal that arrives in chunks of any length: the frames of the whole signal, bit for bit.

    It knows no end in advance, so it gives every frame; :func:`extract` gives the middle ``max_frames`` of them.

    >>> stream = FeatureStream(LOGMEL_V1)
    >>> [len(stream.push(np.zeros(n, dtype=np.float32))) for n in (639, 1, 160, 1600)]
    [0, 1, 1, 10]
    """

    def __init__(self, config: FrontEndConfig = LOGMEL_V1, transform: Transform = transform) -> None:
        if not config.streamable:
            raise ConfigError(
                f"front end {config.name!r} needs the whole utterance (centring or top_db) and cannot stream; "
                "use logmel-v1 or logstft-v1"
            )
        self.config = config
        self._transform = transform
        self.n_samples = 0
        self._rest = np.empty(0, dtype=np.float32)

    def push(self, samples: Float32Array, last: bool = False) -> Float32Array:
        """Take the next samples (float32 [n], any n) and return the frames they complete, float32 [k, n_bins].

        ``last``: the signal ends with them; silence makes 49 frames of one that is shorter.
        """
        missing = max(0, self.config.min_samples - self.n_samples - len(samples)) if last else 0
        self.n_samples += len(samples) + missing
        pending = np.concatenate([self._rest, samples, np.zeros(missing, dtype=np.float32)])
        frames = self._transform(pending, self.config)
        # Copied, or the rest would keep the whole chunk alive.
        self._rest = pending[len(frames) * self.config.hop_samples :].copy()
        return frames
