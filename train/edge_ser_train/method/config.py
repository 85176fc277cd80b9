"""The settings of a training run: frozen dataclasses, read from TOML, validated, saved beside every checkpoint."""

from __future__ import annotations

import math
import operator
import sys
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from edge_ser.errors import ConfigError, did_you_mean
from edge_ser.frontend.features import FRONT_ENDS, FrontEndConfig
from edge_ser.settings import build, parse_setting

PRESETS = ("paper", "edge", "small")
SHIPPED = "shipped"
"""``optimizer.init`` for the model in the package."""


@dataclass(frozen=True)
class ModelConfig:
    """What may differ from the published network without changing the exported structure."""

    batch_norm: bool = False
    """Normalise each convolution's output over the batch; folded into the convolution at export."""
    dropout: float = 0.0
    """Probability of dropping a value before the GRU and before FC1."""


@dataclass(frozen=True)
class LossConfig:
    """Weighted softmax + center loss (Dai et al., eqs. 3-7)."""

    lambda_center: float = 0.3
    """Weight of the center loss; 0 is plain weighted softmax."""
    alpha: float = 0.5
    """How far a class centre moves towards the batch's class mean after each step, 0 to 1."""
    warmup_steps: int = 20
    """First steps, run with lambda 0 and alpha 1, so that the centres start inside their classes."""
    kind: str = "joint"
    """``joint`` (the paper's), or a loss it is compared with, see ``edge_ser_train.paper.baselines``."""
    outliers: float = 0.0
    """Share of every batch that is sound without speech, for which no class is right (Hendrycks et al. 2019); also the weight of
    that loss beside the clips'."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its schedule."""

    lr: float = 3e-4
    """Learning rate: constant, or the peak of the one-cycle schedule."""
    schedule: str = "constant"
    """``constant`` or ``one_cycle`` (cosine up over 30 % of the steps, cosine down to almost 0)."""
    batch_size: int = 32
    """Clips in a step."""
    max_steps: int = 3520
    """Steps in the run."""
    ema: float = 0.0
    """Decay a step of the exponential moving average of the weights, which is evaluated and kept; 0: the weights themselves."""
    init: str = ""
    """What to start from, FC2 only where the labels agree: the folder of a run, an .eser file, or ``shipped``, the package's."""
    frozen: bool = False
    """Keep its convolutions and train what follows them; without augmentation, the vectors are computed once."""

    @property
    def init_file(self) -> bool:
        """Whether ``init`` names a model file, in whose convolutions batch normalisation is folded."""
        return self.init == SHIPPED or self.init.endswith(".eser")


@dataclass(frozen=True)
class SelectionConfig:
    """Which weights are kept: those with the best dev UA."""

    every_steps: int = 11
    """Steps between two looks at the dev set."""
    after_step: int = 200
    """Weights of earlier steps are never kept."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training features (dB); zero turns one off."""

    copies: int = 0
    """Copies of every training clip as everyday devices might have heard it, see ``edge_ser_train.method.sounds``."""
    copied: float = 0.0
    """Probability that an epoch takes a copy in place of the clip as recorded."""
    gain_db: float = 0.0
    """Level: a uniform offset within +- this many dB."""
    freq_warp: float = 0.0
    """Frequency axis stretched by a uniform factor within 1 +- this."""
    time_stretch: float = 0.0
    """Time axis stretched by a uniform factor within 1 +- this."""
    freq_masks: int = 0
    """SpecAugment: number of masked bands of bins."""
    freq_mask_bins: int = 18
    """SpecAugment: widest masked band, in bins."""
    time_masks: int = 0
    """SpecAugment: number of masked stretches of frames."""
    time_mask_frames: int = 25
    """SpecAugment: longest masked stretch, in frames."""
    denoise: float = 0.0
    """Probability of a quieter background, by up to 60 dB: a better studio, or a noise suppressor."""
    noise: float = 0.0
    """Probability of adding coloured noise, at ``noise_snr_db``."""
    noise_snr_db: float = 10.0
    """Lowest signal-to-noise ratio of added noise; drawn up to 30 dB above it."""
    reverb: float = 0.0
    """Probability of a room: an exponential tail with a reverberation time of 0.1 to 0.8 s on every band's power."""
    equaliser_db: float = 0.0
    """Channel: standard deviation of a smooth random frequency response."""
    band_limit: float = 0.0
    """Probability of a narrow channel: nothing above 3.4 to 7 kHz, and half the time nothing below 100 to 300 Hz."""
    speaker_shift: float = 0.0
    """Behind frozen convolutions: how far, at most, a clip's vectors go from its speaker's mean towards another's; 1 is there."""


_RANGES: dict[tuple[float, float], tuple[str, ...]] = {
    (0, 1): ("loss.alpha", "augment.copied", "augment.denoise", "augment.noise", "augment.reverb", "augment.band_limit"),
    (0, 0.99): ("model.dropout",),
    (0, 0.99999): ("optimizer.ema",),
    (0, 0.5): ("augment.freq_warp", "augment.time_stretch"),
    (0, 5): ("augment.speaker_shift",),
    (0, 40): ("augment.equaliser_db",),
    (0, 100): ("augment.gain_db",),
    (-20, 60): ("augment.noise_snr_db",),
    (1, math.inf): ("optimizer.batch_size", "optimizer.max_steps", "selection.every_steps"),
    (0, math.inf): (
        "loss.lambda_center", "loss.warmup_steps", "augment.copies",
        "augment.freq_masks", "augment.freq_mask_bins", "augment.time_masks", "augment.time_mask_frames",
    ),
}  # fmt: skip
"""Settings that are numbers, by their least and greatest value."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    preset: str = "paper"
    """Name of the preset these settings started from."""
    front_end: str = "logmel-paper"
    """Name of the front end, see ``edge_ser.frontend.features.FRONT_ENDS``."""
    labels: tuple[str, ...] = ("neutral", "angry", "happy", "sad")
    """The classes, in logit order; clips with another emotion are left out."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    label_map: dict[str, str] = field(default_factory=dict)
    """Emotions of the corpora that count as one of the labels, such as excited = "happy"."""
    precision: str = "auto"
    """``float32``, ``bfloat16`` (autocast), or ``auto``: bfloat16 where the processor computes in it; a run says which."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        def require(ok: bool, name: str, value: object, expected: str) -> None:
            if not ok:
                raise ConfigError(f"{name} is {value!r}; expected {expected}")

        require(self.front_end in FRONT_ENDS, "front_end", self.front_end, f"one of {', '.join(FRONT_ENDS)}")
        require(len(set(self.labels)) == len(self.labels) >= 2, "labels", self.labels, "two or more different names")
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2^63 - 1")
        require(self.precision in ("auto", "float32", "bfloat16"), "precision", self.precision, "auto|float32|bfloat16")
        optimizer, schedules = self.optimizer, ("constant", "one_cycle")
        require(optimizer.schedule in schedules, "optimizer.schedule", optimizer.schedule, "|".join(schedules))
        require(0 < optimizer.lr < math.inf, "optimizer.lr", optimizer.lr, "a positive number")
        for (low, high), names in _RANGES.items():
            for name in names:
                value = operator.attrgetter(name)(self)
                require(low <= value <= high, name, value, f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}")
        n_outliers, half = round(self.loss.outliers * optimizer.batch_size), optimizer.batch_size // 2
        sounds = self.loss.outliers == 0 or 1 <= n_outliers <= half
        share = f"0, or a share that makes 1 to {half} clips of optimizer.batch_size"
        require(sounds, "loss.outliers", self.loss.outliers, share)
        stray = [to for to in self.label_map.values() if to not in self.labels]
        require(not stray, "label_map", self.label_map, f"targets among the labels {', '.join(self.labels)}")
        after, n_steps = self.selection.after_step, optimizer.max_steps
        require(after < n_steps, "selection.after_step", after, f"less than optimizer.max_steps ({n_steps})")
        free = optimizer.init_file and self.model.batch_norm and not optimizer.frozen
        require(not free, "optimizer.init", optimizer.init, "a run's folder, or optimizer.frozen=true, or model.batch_norm=false")
        copied = self.augment.copied
        require(bool(self.augment.copies) == bool(copied), "augment.copied", copied, "0 without augment.copies, else more")
        shift, bins, widest = self.augment.speaker_shift, self.augment.freq_mask_bins, self.front_end_config.n_bins
        require(optimizer.frozen or not shift, "augment.speaker_shift", shift, "0 unless optimizer.frozen keeps the vectors")
        require(bins <= widest, "augment.freq_mask_bins", bins, f"at most {widest}")

    @property
    def front_end_config(self) -> FrontEndConfig:
        """The front end itself."""
        return FRONT_ENDS[self.front_end]

    def to_toml(self) -> str:
        """Return the settings as TOML."""
        import tomli_w

        return tomli_w.dumps(asdict(self))

    def with_settings(self, settings: tuple[str, ...]) -> TrainConfig:
        """Return a copy with ``table.name=value`` settings replaced.

        >>> TrainConfig().with_settings(("loss.lambda_center=0.0", "seed=3")).loss.lambda_center
        0.0
        """
        changed: dict[str, Any] = asdict(self)
        for name, value in map(parse_setting, settings):
            *tables, key = name.split(".")
            place = changed
            for table in tables:
                place = place.setdefault(table, {})
                if not isinstance(place, dict):
                    raise ConfigError(f"setting {name!r}: {table!r} holds a value, not a table")
            place[key] = value
        return build(TrainConfig, changed)


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML; ValueError says what is wrong with it."""
    # Here, since `edge-ser --help` imports this module, and Python 3.10 has no parser of its own.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table: dict[str, Any] = tomllib.loads(text)
    return table


def config_from_toml(text: str, source: str) -> TrainConfig:
    """Parse a TOML configuration; ``source`` names it in errors."""
    try:
        table = _toml(text)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None
    return config_from_table(table, source)


def config_from_table(table: dict[str, Any], source: str) -> TrainConfig:
    """Build a configuration from its plain values; what is missing has its default. ``source`` names it in errors."""
    try:
        return build(TrainConfig, table)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def load_config(path: Path) -> TrainConfig:
    """Read a TOML configuration file."""
    try:
        return config_from_toml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None


def load_preset(name: str) -> TrainConfig:
    """Return the preset ``paper`` (Dai et al.), ``edge`` (unseen speakers) or ``small`` (behind another run's convolutions).

    >>> load_preset("paper").optimizer.lr
    0.0003
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}{did_you_mean(name, PRESETS)}; known: {', '.join(PRESETS)}")
    text = resources.files("edge_ser_train.method").joinpath("presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return config_from_toml(text, f"preset {name}")
