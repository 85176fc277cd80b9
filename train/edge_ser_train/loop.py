"""The training loop: one function a stage, and no hidden state, so that a resumed run is the run.

Order, augmentation and dropout of a step are functions of (seed, epoch or step) alone; weights, Adam's moments, centres and
the best score so far are in the checkpoint. Continuing from any checkpoint therefore repeats the uninterrupted run.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from tqdm import tqdm

from edge_ser.calibration import SpeechStatistics
from edge_ser.errors import RunError
from edge_ser_train import run as runs
from edge_ser_train.augment import augment, stretched_lengths
from edge_ser_train.config import OptimizerConfig, TrainConfig, load_config
from edge_ser_train.corpora import Clip
from edge_ser_train.dataset import (
    audio_digests,
    crop_batch,
    epoch_batches,
    load_features,
    normalisation,
    pad_batch,
)
from edge_ser_train.losses import (
    class_weights,
    cosine_pair_loss,
    moved_centres,
    separation_loss,
    triplet_loss,
    update_centres,
    weighted_center_loss,
    weighted_softmax_loss,
)
from edge_ser_train.metrics import confusion_matrix, fit_temperature, score, unweighted_accuracy
from edge_ser_train.model import EMBEDDING_SIZE, EmotionNet, Output
from edge_ser_train.splits import Split, check_leaks

_ORDER, _CHANGES, _DROPOUT = 0, 1, 2  # streams of random numbers: the first by epoch, the others by step

NOVELTY_QUANTILE = 0.99
"""Share of the dev clips that lie within the novelty distance of a class centre."""


@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint."""

    step: int = 0
    best_ua: float = -1.0
    best_step: int = 0
    loss_sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Sums of L, L_s and L_c since the last look at dev, and ``loss_steps`` of them."""
    loss_steps: int = 0
    seconds: float = 0.0


class _Epoch(NamedTuple):
    """One pass over the training clips."""

    number: int
    variants: npt.NDArray[np.int64]
    """At which of the speeds each clip plays."""
    lengths: npt.NDArray[np.int64]
    """Every clip's length after its time stretch, in frames."""
    batches: list[npt.NDArray[np.intp]]
    """Clip numbers."""


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Return the learning rate of a step (the first is 0).

    ``one_cycle`` is Smith & Topin's policy with cosine arms, as torch's OneCycleLR has it: lr/25 to lr over 30 % of the steps,
    then down to lr/250000.
    """
    if config.schedule == "constant":
        return config.lr
    rise = 0.3 * config.max_steps - 1
    low, high, last = config.lr / 25, config.lr, config.lr / 250_000
    if step <= rise:
        start, stop, share = low, high, step / rise
    else:
        start, stop, share = high, last, (step - rise) / (config.max_steps - 1 - rise)
    return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))


def compute_type(precision: str, device: torch.device) -> torch.dtype:
    """Return what convolutions compute in: bfloat16 where asked for, or where the processor has it (``auto``)."""
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def infer(
    net: EmotionNet, features: Sequence[npt.NDArray[np.float32]], batch_size: int = 32
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return logits [n, n_classes] and embeddings [n, 64] of clips' features, in their order, in float32."""
    net.eval()
    device = net.feature_mean.device
    logits = np.empty((len(features), net.fc2.out_features), dtype=np.float32)
    z = np.empty((len(features), EMBEDDING_SIZE), dtype=np.float32)
    order = np.argsort([len(x) for x in features], kind="stable")
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch, n_frames = pad_batch([features[i] for i in rows])
            out = net(batch.to(device), n_frames)
            logits[rows], z[rows] = out.logits.cpu().numpy(), out.z.cpu().numpy()
    return logits, z


def class_numbers(clips: Sequence[Clip], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return each clip's class, int64 [n]."""
    return np.array([labels.index(c.emotion) for c in clips], dtype=np.int64)


class Trainer:
    """One run: built from configuration and data, stepped to its end, resumable at every checkpoint."""

    def __init__(
        self, config: TrainConfig, data: Split, folder: Path, cache_dir: Path, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        n_in_batch = min(config.optimizer.batch_size, len(data.train))
        if n_in_batch % self.world:
            raise RunError(
                f"a batch of {n_in_batch} clips cannot be shared by {self.world} processes; "
                "expected optimizer.batch_size to be a multiple of their number"
            )
        self.device = torch.device(f"cuda:{self.rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu")
        self.dtype = compute_type(config.precision, self.device)
        if self.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        front_end = config.front_end_config
        with self._first_process_first():  # so that the others find the cache filled
            self.train_features = load_features(data.train, front_end, cache_dir)
            self.dev_features = load_features(data.dev, front_end, cache_dir)
            speeds = config.augment.speeds or (1.0,)
            self.variants = [load_features(data.train, front_end, cache_dir, speed) for speed in speeds]
            digests = audio_digests(data.train, self.train_features) | audio_digests(data.dev, self.dev_features)
            digests |= audio_digests(data.test, load_features(data.test, front_end, cache_dir))
        self.leaks = [str(leak) for leak in check_leaks(data, digests, say)]
        self.train_y = class_numbers(data.train, config.labels)
        self.dev_y = class_numbers(data.dev, config.labels)
        counts = np.bincount(self.train_y, minlength=len(config.labels)).tolist()
        self.omega = class_weights(counts).to(self.device)

        torch.manual_seed(config.seed)
        self.net = EmotionNet(front_end.n_bins, len(config.labels), config.model)
        mean, std = normalisation(self.train_features)
        self.net.feature_mean.copy_(torch.from_numpy(mean))
        self.net.feature_std.copy_(torch.from_numpy(std))
        self.fill = mean
        if config.optimizer.init:
            _initialise_from(self.net, runs.load_run(Path(config.optimizer.init)), config.labels)
        self.net.to(self.device)
        for convolution in self.net.convs:
            convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.centres = torch.zeros(len(config.labels), EMBEDDING_SIZE, device=self.device)
        self.trained = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.Adam(self.trained.values(), lr=config.optimizer.lr)
        self.average = copy.deepcopy(self.net) if config.optimizer.ema else None
        self.forward: Callable[[Tensor, Tensor], Output] = self.net
        if self.world > 1:
            self.forward = torch.nn.parallel.DistributedDataParallel(self.net)
        self.soft = self._teach() if config.loss.teachers else None
        self.progress = Progress()
        self.metrics: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = {}
        """Logits and z of the kept weights on train and dev, once the run has finished."""
        nothing = np.empty(0, dtype=np.int64)
        self._epoch = _Epoch(-1, nothing, nothing, [])

    @contextlib.contextmanager
    def _first_process_first(self) -> Iterator[None]:
        """Let the first process through the block before the others."""
        if self.rank > 0:
            dist.barrier()
        yield
        if self.rank == 0 and self.world > 1:
            dist.barrier()

    def _teach(self) -> Tensor:
        """Return the teachers' mean probabilities of every training clip, [n, n_classes]."""
        total = torch.zeros(len(self.data.train), len(self.config.labels))
        for folder in self.config.loss.teachers:
            teacher = runs.load_run(Path(folder))
            if teacher.labels != self.config.labels or teacher.front_end != self.config.front_end_config:
                raise RunError(f"teacher {folder} has other labels or another front end than this run; expected the same")
            teacher.net.to(self.device)
            total += torch.from_numpy(infer(teacher.net, self.train_features)[0]).softmax(dim=1)
        return (total / len(self.config.loss.teachers)).to(self.device)

    # One step ---------------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> tuple[Tensor, Tensor, npt.NDArray[np.intp]]:
        """Return features [B, T, n_bins], lengths [B] and clip numbers [B] of a step; the same for the same step, always."""
        config, seed = self.config, self.config.seed
        per_epoch = max(1, len(self.data.train) // config.optimizer.batch_size)
        epoch, index = divmod(step, per_epoch)
        if self._epoch.number != epoch:
            rng = np.random.default_rng([seed, _ORDER, epoch])
            n_variants, n_clips = len(self.variants), len(self.train_features)
            variants = rng.integers(0, n_variants, n_clips) if n_variants > 1 else np.zeros(n_clips, dtype=np.int64)
            n_frames_of = np.array([len(self.variants[v][i]) for i, v in enumerate(variants)])
            lengths = stretched_lengths(n_frames_of, config.augment, rng)
            self._epoch = _Epoch(epoch, variants, lengths, epoch_batches(lengths, config.optimizer.batch_size, rng))
        rows, lengths, variants = self._epoch.batches[index], self._epoch.lengths, self._epoch.variants
        rng = np.random.default_rng([seed, _CHANGES, step])
        front_end = config.front_end_config
        clips = [augment(self.variants[variants[i]][i], int(lengths[i]), self.fill, config.augment, rng, front_end) for i in rows]
        # Batch statistics must not see padding; without them the published way, padding, changes nothing.
        x, n_frames = crop_batch(clips, rng) if config.model.batch_norm else pad_batch(clips)
        return x.to(self.device), n_frames, rows

    def step(self) -> None:
        """Take one optimiser step on L = L_s + lambda L_c, then move the centres.

        With several processes each runs its share of the batch; logits and z are gathered, gradients flowing back, so that
        loss, class weights and centres are those of the whole batch everywhere.
        """
        config, progress = self.config, self.progress
        warm = progress.step < config.loss.warmup_steps
        lambda_center, alpha = (0.0, 1.0) if warm else (config.loss.lambda_center, config.loss.alpha)
        x, n_frames, rows = self.batch(progress.step)
        y = torch.from_numpy(self.train_y[rows]).to(self.device)
        share = slice(self.rank * len(y) // self.world, (self.rank + 1) * len(y) // self.world)
        torch.manual_seed(int(np.random.SeedSequence([config.seed, _DROPOUT, progress.step]).generate_state(1)[0]))
        self.net.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, progress.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            out = self.forward(x[share], n_frames[share])
        logits, z = self._gather(out.logits.float()), self._gather(out.z.float())
        soft = self.soft[rows] if self.soft is not None else None
        settings = config.loss
        softmax_loss = weighted_softmax_loss(logits, y, self.omega, settings.label_smoothing, soft, settings.distillation)
        center_loss = weighted_center_loss(z, y, self.centres, self.omega)
        if settings.kind == "triplet":
            loss = triplet_loss(z, y, settings.margin) + 0 * logits.sum()  # FC2 learns nothing, but has its gradient: 0
        elif settings.kind == "cosine_pairs":
            loss = cosine_pair_loss(z, y, settings.margin) + 0 * logits.sum()
        else:
            pull = center_loss
            if settings.separation and lambda_center:
                pull = pull + settings.separation * separation_loss(moved_centres(self.centres, z, y, alpha))
            loss = softmax_loss + lambda_center * pull if lambda_center else softmax_loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        update_centres(self.centres, z, y, alpha)
        self._move_average()
        values = (loss.item(), softmax_loss.item(), center_loss.item())
        if not math.isfinite(values[0]):
            raise RunError(
                f"the loss is {values[0]} at step {progress.step + 1}; expected a finite number: try a lower optimizer.lr"
            )
        progress.loss_sums = [total + value for total, value in zip(progress.loss_sums, values, strict=True)]
        progress.loss_steps += 1
        progress.step += 1

    def _gather(self, x: Tensor) -> Tensor:
        """Return every process' rows of x, in order; gradients flow back to their owners."""
        return torch.cat(all_gather(x)) if self.world > 1 else x

    @torch.no_grad()
    def _move_average(self) -> None:
        """Move the averaged weights and statistics towards the present ones; a young average moves faster."""
        if self.average is None:
            return
        decay = min(self.config.optimizer.ema, (1 + self.progress.step) / (10 + self.progress.step))
        for mean, value in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    @property
    def evaluated(self) -> EmotionNet:
        """The weights that are looked at and kept: the moving average where there is one."""
        return self.net if self.average is None else self.average

    def look_at_dev(self) -> float:
        """Measure dev UA, keep the weights if they are the best so far, log one line of metrics; return dev UA."""
        progress, config = self.progress, self.config
        logits, z = infer(self.evaluated, self.dev_features)
        if config.loss.kind != "joint":
            logits = centre_logits(z, self.centres.cpu().numpy())
        ua = float(unweighted_accuracy(confusion_matrix(self.dev_y, logits.argmax(axis=1), len(config.labels))))
        loss, softmax_loss, center_loss = (total / max(1, progress.loss_steps) for total in progress.loss_sums)
        eligible = progress.step > config.selection.after_step or progress.step == config.optimizer.max_steps
        if eligible and ua > progress.best_ua:
            progress.best_ua, progress.best_step = ua, progress.step
            net = self.evaluated
            runs.save_model(
                self.folder,
                net.state_dict(),
                config,
                progress.step,
                self.centres,
                net.feature_mean.clone(),
                net.feature_std.clone(),
            )
        lr = learning_rate(config.optimizer, max(0, progress.step - 1))
        line = {"step": progress.step, "loss": loss, "softmax_loss": softmax_loss, "center_loss": center_loss}
        self.metrics.append({**line, "dev_ua": ua, "lr": lr})
        progress.loss_sums, progress.loss_steps = [0.0, 0.0, 0.0], 0
        return ua

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Write metrics and checkpoint; the checkpoint last, since it is what a resumed run believes."""
        runs.write_atomic(self.folder / runs.METRICS, "".join(json.dumps(line) + "\n" for line in self.metrics))
        tensors = {f"net.{name}": t for name, t in self.net.state_dict().items()}
        for name, parameter in self.trained.items():
            for moment, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{moment}.{name}"] = value
        tensors["centres"] = self.centres
        if self.average is not None:
            tensors |= {f"ema.{name}": t for name, t in self.average.state_dict().items()}
        runs.save_tensors(self.folder / runs.CHECKPOINT, tensors, asdict(self.progress))

    def load_checkpoint(self) -> None:
        """Continue where :meth:`save_checkpoint` left off."""
        tensors, progress = runs.load_tensors(self.folder / runs.CHECKPOINT)
        try:
            self.progress = Progress(**progress)
            self.net.load_state_dict({n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")})
            self.centres.copy_(tensors["centres"])
            if self.average is not None:
                self.average.load_state_dict({n.removeprefix("ema."): t for n, t in tensors.items() if n.startswith("ema.")})
            for name, parameter in self.trained.items():
                moments = ("step", "exp_avg", "exp_avg_sq")
                state = {m: tensors[f"adam.{m}.{name}"] for m in moments}
                self.optimizer.state[parameter] = {
                    m: t if m == "step" else t.to(self.device).contiguous(memory_format=_format_of(parameter))
                    for m, t in state.items()
                }
        except (KeyError, TypeError, RuntimeError) as error:
            raise RunError(f"{self.folder / runs.CHECKPOINT} does not fit this run: {error}") from None
        try:
            lines = (self.folder / runs.METRICS).read_text(encoding="utf-8").splitlines()
            self.metrics = [m for m in map(json.loads, lines) if m["step"] <= self.progress.step]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"cannot read {self.folder / runs.METRICS}: {error}") from None

    # The run ----------------------------------------------------------------------------------------------------------

    def train(self, say: Callable[[str], None]) -> bool:
        """Run to the last step; return False when Ctrl-C ended it first (the checkpoint is then written).

        The first of several processes looks at dev and writes; a Ctrl-C that reaches one of them stops all after the same step.
        """
        config, progress = self.config, self.progress
        n_steps = config.optimizer.max_steps
        started = time.monotonic() - progress.seconds
        with (
            _interruptible() as interrupted,
            tqdm(
                total=n_steps,
                initial=progress.step,
                desc="training",
                unit="step",
                disable=None if self.rank == 0 else True,
                smoothing=0.05,
            ) as bar,
        ):
            while progress.step < n_steps and not self._any(bool(interrupted)):
                self.step()
                bar.update()
                progress.seconds = time.monotonic() - started
                if self.rank == 0 and (progress.step % config.selection.every_steps == 0 or progress.step == n_steps):
                    ua = self.look_at_dev()
                    loss = self.metrics[-1]["loss"]
                    self.save_checkpoint()
                    bar.set_postfix_str(f"loss {loss:.3f}, dev UA {ua:.1%}, best {progress.best_ua:.1%}")
                    if bar.disable:
                        left = progress.seconds / progress.step * (n_steps - progress.step) / 60
                        say(f"step {progress.step}/{n_steps}  loss {loss:.3f}  dev UA {ua:.1%}  {left:.0f} min left")
            if progress.step < n_steps:
                if progress.step > 0 and self.rank == 0:
                    self.save_checkpoint()
                return False
        return True

    def _any(self, flag: bool) -> bool:
        """Return whether any process raises the flag."""
        if self.world == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def finish(self) -> dict[str, Any]:
        """Fit temperature and novelty distance on dev, measure centres and speech over the training set, return the report."""
        best = runs.load_run(self.folder, complete=False)
        best.net.to(self.device)
        logits, dev_z = infer(best.net, self.dev_features)
        train_logits, z = infer(best.net, self.train_features)
        self.answers = {"train": (train_logits, z), "dev": (logits, dev_z)}
        labels = range(len(self.config.labels))
        centres = torch.from_numpy(np.stack([z[self.train_y == j].mean(axis=0) for j in labels]))
        if self.config.loss.kind != "joint":
            logits = centre_logits(dev_z, centres.numpy())
        temperature = fit_temperature(logits, self.dev_y)
        distances = np.linalg.norm(dev_z[:, None] - centres.numpy(), axis=2).min(axis=1)
        novelty_distance = float(np.quantile(distances, NOVELTY_QUANTILE))
        speech = SpeechStatistics(self.config.front_end_config)
        for x in self.train_features:
            speech.add(x)
        runs.save_model(
            self.folder,
            best.net.state_dict(),
            self.config,
            best.step,
            centres,
            torch.from_numpy(speech.mean),
            torch.from_numpy(np.maximum(speech.std, 1e-3)),
            temperature,
            novelty_distance,
        )
        dev = score(logits, self.dev_y, [c.speaker for c in self.data.dev], temperature)
        return {
            "steps": self.progress.step,
            "best_step": self.progress.best_step,
            "seconds": round(self.progress.seconds, 1),
            "device": str(self.device),
            "precision": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "temperature": temperature,
            "novelty_distance": novelty_distance,
            "labels": list(self.config.labels),
            "dev": asdict(dev),
        }


def centre_logits(z: npt.NDArray[np.float32], centres: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return minus the squared distances [n, n_classes] of unit-length z [n, 64] and centres [n_classes, 64].

    The scores of networks without a softmax, whose losses look at directions.
    """

    def unit(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        length: npt.NDArray[np.float32] = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return x / length

    scores: npt.NDArray[np.float32] = 2 * unit(z) @ unit(centres).T - 2
    return scores


def _initialise_from(net: EmotionNet, source: runs.TrainedModel, labels: Sequence[str]) -> None:
    """Start from another run's weights; the classifier only where the labels agree."""
    if source.net.n_bins != net.n_bins or any(type(a) is not type(b) for a, b in zip(source.net.norms, net.norms, strict=True)):
        raise RunError("optimizer.init: that run has another input or batch normalisation; expected the same network")
    state = {name: value for name, value in source.net.state_dict().items() if not name.startswith("feature_")}
    if source.labels != tuple(labels):
        state = {name: value for name, value in state.items() if not name.startswith("fc2")}
    net.load_state_dict(state, strict=False)


def _format_of(parameter: Tensor) -> torch.memory_format:
    return torch.channels_last if parameter.dim() == 4 else torch.contiguous_format


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collect Ctrl-C in the list that is yielded, so that a step is never cut in half; a second one acts at once."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        previous = signal.signal(signal.SIGINT, receive)
    except ValueError:  # not the main thread: whoever runs us handles signals
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, previous)


def describe_data(data: Split, data_dir: Path, corpora: Sequence[str], config: TrainConfig) -> dict[str, Any]:
    """Return the content of data.json."""
    labels = config.labels

    def count(clips: Sequence[Clip]) -> dict[str, Any]:
        return {
            "clips": len(clips),
            "speakers": len({(c.corpus, c.speaker) for c in clips}),
            "per_label": {label: sum(c.emotion == label for c in clips) for label in labels},
            "per_corpus": dict(Counter(c.corpus for c in clips)),
        }

    listing = [[c.corpus, c.name, c.speaker, c.emotion, part] for part in ("train", "dev") for c in getattr(data, part)]
    return {
        "data": str(data_dir.resolve()),
        "corpora": list(corpora),
        "protocol": data.protocol,
        "fold": data.fold,
        "speaker_dependent": data.speaker_dependent,
        "label_map": {label: label for label in labels} | config.label_map,
        "left_out": dict(data.left_out),
        "train": count(data.train),
        "dev": count(data.dev),
        "clips_sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
    }


def open_run(config: TrainConfig, described: dict[str, Any], split: Split, folder: Path, resume: bool) -> None:
    """Prepare the run's folder, or check that the one there is this run's; RunError says what differs."""
    if not resume:
        if (folder / runs.CONFIG).exists():
            raise RunError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {folder}: {error.strerror or error}") from None
        runs.write_atomic(folder / runs.DATA, json.dumps(described, indent=1) + "\n")
        runs.write_atomic(folder / runs.SPLIT, split.to_json())
        runs.write_atomic(folder / runs.CONFIG, config.to_toml())
        return
    if load_config(folder / runs.CONFIG) != config:
        raise RunError(
            f"{folder / runs.CONFIG} differs from the settings given; resume without settings, or choose another --out"
        )
    if runs.read_data(folder)["clips_sha256"] != described["clips_sha256"]:
        raise RunError(f"{folder} was started on other clips than --data and --corpus give now; expected the same list")
