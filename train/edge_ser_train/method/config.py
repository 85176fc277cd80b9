"""The settings of a training run: frozen dataclasses, read from TOML, validated, saved beside every checkpoint."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from edge_ser.errors import ConfigError, did_you_mean
from edge_ser.frontend.features import FRONT_ENDS, FrontEndConfig

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
    """Weighted softmax + center loss (Dai et al., eqs. 2-7)."""

    lambda_center: float = 0.3
    """Weight of the center loss; 0 is plain weighted softmax."""
    alpha: float = 0.5
    """How far a class centre moves towards the batch's class mean after each step, 0 to 1."""
    warmup_steps: int = 20
    """First steps, run with lambda 0 and alpha 1, so that the centres start inside their classes."""
    kind: str = "joint"
    """``joint`` (the paper's), or what it is compared with: ``triplet`` or ``cosine_pairs``, each followed by an SVM."""
    margin: float = 0.2
    """Margin of ``triplet`` (squared distance) and ``cosine_pairs`` (cosine, within -1 to 1)."""
    separation: float = 0.0
    """Weight, inside lambda, of the term that pushes class centres apart (island loss); 0 turns it off."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""
    distillation: float = 0.0
    """Share of the softmax loss that follows the teachers' probabilities instead of the labels."""
    teachers: tuple[str, ...] = ()
    """Folders of finished runs whose mean probabilities are the soft targets."""
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
    speeds: tuple[float, ...] = ()
    """Speed perturbation by resampling the recording: each clip plays at one of these speeds (Ko et al. 2015)."""
    vtlp: float = 0.0
    """Vocal tract length perturbation: frequencies in Hz scaled by a uniform factor within 1 +- this (Jaitly & Hinton 2013)."""
    trim: float = 0.0
    """Probability of a clip losing some of the quiet before and behind the speech: what is kept is uniform from none to all."""
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
    band_scale: float = 0.0
    """Dynamics: standard deviation of a smooth random factor, by band, on how far the decibels lie from the clip's mean there."""
    band_limit: float = 0.0
    """Probability of a narrow channel: nothing above 3.4 to 7 kHz, and half the time nothing below 100 to 300 Hz."""
    speaker_shift: float = 0.0
    """Behind frozen convolutions: how far, at most, a clip's vectors go from its speaker's mean towards another's; 1 is there."""


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
        require(0 <= self.model.dropout < 1, "model.dropout", self.model.dropout, "0 <= p < 1")
        require(self.loss.lambda_center >= 0, "loss.lambda_center", self.loss.lambda_center, "0 or more")
        require(0 <= self.loss.alpha <= 1, "loss.alpha", self.loss.alpha, "0 to 1")
        require(self.loss.warmup_steps >= 0, "loss.warmup_steps", self.loss.warmup_steps, "0 or more")
        kinds = ("joint", "triplet", "cosine_pairs")
        require(self.loss.kind in kinds, "loss.kind", self.loss.kind, "|".join(kinds))
        require(self.loss.separation >= 0, "loss.separation", self.loss.separation, "0 or more")
        for name in ("label_smoothing", "distillation"):
            require(0 <= getattr(self.loss, name) <= 1, f"loss.{name}", getattr(self.loss, name), "0 to 1")
        n_outliers, half = round(self.loss.outliers * self.optimizer.batch_size), self.optimizer.batch_size // 2
        sounds = self.loss.outliers == 0 or 1 <= n_outliers <= half
        require(
            sounds, "loss.outliers", self.loss.outliers, f"0, or a share that makes 1 to {half} clips of optimizer.batch_size"
        )
        teaching = (self.loss.distillation > 0) == bool(self.loss.teachers)
        require(teaching, "loss.teachers", self.loss.teachers, "runs when loss.distillation is above 0, and none otherwise")
        stray = [to for to in self.label_map.values() if to not in self.labels]
        require(not stray, "label_map", self.label_map, f"targets among the labels {', '.join(self.labels)}")
        optimizer = self.optimizer
        require(0 <= optimizer.ema < 1, "optimizer.ema", optimizer.ema, "0 <= decay < 1")
        require(0 < optimizer.lr < math.inf, "optimizer.lr", optimizer.lr, "a positive number")
        require(
            optimizer.schedule in ("constant", "one_cycle"),
            "optimizer.schedule",
            optimizer.schedule,
            "constant|one_cycle",
        )
        require(optimizer.batch_size >= 1, "optimizer.batch_size", optimizer.batch_size, "1 or more")
        require(optimizer.max_steps >= 1, "optimizer.max_steps", optimizer.max_steps, "1 or more")
        require(self.selection.every_steps >= 1, "selection.every_steps", self.selection.every_steps, "1 or more")
        require(
            self.selection.after_step < optimizer.max_steps,
            "selection.after_step",
            self.selection.after_step,
            f"less than optimizer.max_steps ({optimizer.max_steps})",
        )
        free = optimizer.init_file and self.model.batch_norm and not optimizer.frozen
        require(not free, "optimizer.init", optimizer.init, "a run's folder, or optimizer.frozen=true, or model.batch_norm=false")
        shift = self.augment.speaker_shift
        require(optimizer.frozen or not shift, "augment.speaker_shift", shift, "0 unless optimizer.frozen keeps the vectors")
        for name in ("freq_warp", "time_stretch", "vtlp", "band_scale"):
            require(0 <= getattr(self.augment, name) < 0.5, f"augment.{name}", getattr(self.augment, name), "0 <= x < 0.5")
        require(0 <= shift <= 5, "augment.speaker_shift", shift, "0 to 5")
        for name in ("trim", "denoise", "noise", "reverb", "band_limit"):
            require(0 <= getattr(self.augment, name) <= 1, f"augment.{name}", getattr(self.augment, name), "0 to 1")
        speeds = self.augment.speeds
        require(all(0.5 <= s <= 2 for s in speeds), "augment.speeds", speeds, "factors within 0.5 to 2")
        require(0 <= self.augment.equaliser_db <= 40, "augment.equaliser_db", self.augment.equaliser_db, "0 to 40 dB")
        require(-20 <= self.augment.noise_snr_db <= 60, "augment.noise_snr_db", self.augment.noise_snr_db, "-20 to 60 dB")
        require(0 <= self.augment.gain_db <= 100, "augment.gain_db", self.augment.gain_db, "0 to 100 dB")
        for name in ("freq_masks", "freq_mask_bins", "time_masks", "time_mask_frames"):
            require(getattr(self.augment, name) >= 0, f"augment.{name}", getattr(self.augment, name), "0 or more")
        widest = self.front_end_config.n_bins
        require(self.augment.freq_mask_bins <= widest, "augment.freq_mask_bins", self.augment.freq_mask_bins, f"at most {widest}")

    @property
    def front_end_config(self) -> FrontEndConfig:
        """The front end itself."""
        return FRONT_ENDS[self.front_end]

    def to_toml(self) -> str:
        """Return the settings as TOML."""
        import tomli_w

        return tomli_w.dumps(asdict(self))

    def with_settings(self, settings: tuple[str, ...]) -> TrainConfig:
        """Return a copy with ``table.name=value`` settings (TOML values) replaced.

        >>> TrainConfig().with_settings(("loss.lambda_center=0.0", "seed=3")).loss.lambda_center
        0.0
        """
        changed: dict[str, Any] = asdict(self)
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise ConfigError(f"setting {setting!r}; expected name=value, such as loss.lambda_center=0.1")
            try:
                parsed = _toml(f"value = {value}")["value"]
            except ValueError:
                parsed = value  # a bare word is a string
            *tables, key = name.strip().split(".")
            place = changed
            for table in tables:
                place = place.setdefault(table, {})
                if not isinstance(place, dict):
                    raise ConfigError(f"setting {setting!r}: {table!r} holds a value, not a table")
            place[key] = parsed
        return _build(TrainConfig, changed, "")


_T = TypeVar("_T")


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML; ValueError says what is wrong with it."""
    # Here, since `edge-ser --help` imports this module, and Python 3.10 has no parser of its own.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _build(cls: type[_T], table: dict[str, Any], where: str) -> _T:
    """Build a config dataclass from a TOML table; every mistake is a ConfigError that names the place."""
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        place = f"{where}.{key}" if where else key
        if key not in hints:
            raise ConfigError(f"unknown setting {place!r}{_expected_instead(key, hints, where)}")
        expected = hints[key]
        if is_dataclass(expected) and isinstance(value, dict):
            value = _build(cast(type, expected), value, place)
        elif expected is float and type(value) is int:
            value = float(value)
        elif expected == tuple[str, ...] and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            value = tuple(value)
        elif expected == tuple[float, ...] and isinstance(value, (list, tuple)) and all(type(v) in (int, float) for v in value):
            value = tuple(float(v) for v in value)
        elif expected == dict[str, str] and isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
            pass
        elif is_dataclass(expected):
            raise ConfigError(
                f"setting {place!r} is {value!r}; it is a section: set {place}.{next(iter(get_type_hints(expected)))} …"
            )
        elif type(value) is not expected:
            raise ConfigError(f"setting {place!r} is {value!r}; expected {getattr(expected, '__name__', expected)}")
        values[key] = value
    return cls(**values)


def _expected_instead(key: str, hints: dict[str, Any], where: str) -> str:
    """Return what an unknown setting may have meant, and what there is."""
    sections = {name: get_type_hints(kind) for name, kind in hints.items() if is_dataclass(kind)}
    plain = ", ".join(name for name in hints if name not in sections)
    if where:
        return f"{did_you_mean(key, hints)}; section {where} has {plain}"
    homes = [f"{name}.{key}" for name, section in sections.items() if key in section]
    near = f" (did you mean '{homes[0]}'?)" if homes else did_you_mean(key, hints)
    return f"{near}; expected {plain}, or a name in a section: {', '.join(f'{name}.…' for name in sections)}"


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
        return _build(TrainConfig, table, "")
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def load_config(path: Path) -> TrainConfig:
    """Read a TOML configuration file."""
    try:
        return config_from_toml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None


def load_preset(name: str) -> TrainConfig:
    """Return the preset ``paper`` (as published), ``edge`` (what ships) or ``small`` (behind another run's convolutions).

    >>> load_preset("paper").optimizer.lr
    0.0003
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}{did_you_mean(name, PRESETS)}; known: {', '.join(PRESETS)}")
    text = resources.files("edge_ser_train.method").joinpath("presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return config_from_toml(text, f"preset {name}")
