"""The training loop: one function a stage, and no hidden state, so that a resumed run is the run.

Order, augmentation and dropout of a step are functions of (seed, epoch or step) alone; weights, Adam's moments, centres and
the best score so far are in the checkpoint. Continuing from any checkpoint therefore repeats the uninterrupted run.
"""

from __future__ import annotations

import contextlib
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
from torch import Tensor
from tqdm import tqdm

from edge_ser.errors import RunError
from edge_ser_train import run as runs
from edge_ser_train.augment import augment, stretched_lengths
from edge_ser_train.config import OptimizerConfig, TrainConfig, load_config
from edge_ser_train.corpora import Clip, TrainingData
from edge_ser_train.dataset import (
    crop_batch,
    epoch_batches,
    load_features,
    normalisation,
    pad_batch,
)
from edge_ser_train.losses import class_weights, update_centres, weighted_center_loss, weighted_softmax_loss
from edge_ser_train.metrics import confusion_matrix, fit_temperature, score, unweighted_accuracy
from edge_ser_train.model import EMBEDDING_SIZE, EmotionNet

_ORDER, _CHANGES, _DROPOUT = 0, 1, 2  # streams of random numbers: the first by epoch, the others by step


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

    def __init__(self, config: TrainConfig, data: TrainingData, folder: Path, cache_dir: Path) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = compute_type(config.precision, self.device)
        if self.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        front_end = config.front_end_config
        self.train_features = load_features(data.train, front_end, cache_dir)
        self.dev_features = load_features(data.dev, front_end, cache_dir)
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
        self.net.to(self.device)
        for convolution in self.net.convs:
            convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.centres = torch.zeros(len(config.labels), EMBEDDING_SIZE, device=self.device)
        self.trained = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.Adam(self.trained.values(), lr=config.optimizer.lr)
        self.progress = Progress()
        self.metrics: list[dict[str, Any]] = []
        self._epoch = _Epoch(-1, np.empty(0, dtype=np.int64), [])

    # One step ---------------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return features [B, T, n_bins], lengths [B] and classes [B] of a step; the same for the same step, always."""
        config, seed = self.config, self.config.seed
        per_epoch = max(1, len(self.data.train) // config.optimizer.batch_size)
        epoch, index = divmod(step, per_epoch)
        if self._epoch.number != epoch:
            rng = np.random.default_rng([seed, _ORDER, epoch])
            lengths = stretched_lengths(np.array([len(x) for x in self.train_features]), config.augment, rng)
            self._epoch = _Epoch(epoch, lengths, epoch_batches(lengths, config.optimizer.batch_size, rng))
        rows, lengths = self._epoch.batches[index], self._epoch.lengths
        rng = np.random.default_rng([seed, _CHANGES, step])
        clips = [augment(self.train_features[i], int(lengths[i]), self.fill, config.augment, rng) for i in rows]
        # Batch statistics must not see padding; without them the published way, padding, changes nothing.
        x, n_frames = crop_batch(clips, rng) if config.model.batch_norm else pad_batch(clips)
        return x.to(self.device), n_frames, torch.from_numpy(self.train_y[rows]).to(self.device)

    def step(self) -> None:
        """Take one optimiser step on L = L_s + lambda L_c, then move the centres."""
        config, progress = self.config, self.progress
        warm = progress.step < config.loss.warmup_steps
        lambda_center, alpha = (0.0, 1.0) if warm else (config.loss.lambda_center, config.loss.alpha)
        x, n_frames, y = self.batch(progress.step)
        torch.manual_seed(int(np.random.SeedSequence([config.seed, _DROPOUT, progress.step]).generate_state(1)[0]))
        self.net.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, progress.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits, z = self.net(x, n_frames)
        logits, z = logits.float(), z.float()
        softmax_loss = weighted_softmax_loss(logits, y, self.omega)
        center_loss = weighted_center_loss(z, y, self.centres, self.omega)
        loss = softmax_loss + lambda_center * center_loss if lambda_center else softmax_loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        update_centres(self.centres, z, y, alpha)
        values = (loss.item(), softmax_loss.item(), center_loss.item())
        if not math.isfinite(values[0]):
            raise RunError(
                f"the loss is {values[0]} at step {progress.step + 1}; expected a finite number: try a lower optimizer.lr"
            )
        progress.loss_sums = [total + value for total, value in zip(progress.loss_sums, values, strict=True)]
        progress.loss_steps += 1
        progress.step += 1

    def look_at_dev(self) -> float:
        """Measure dev UA, keep the weights if they are the best so far, log one line of metrics; return dev UA."""
        progress, config = self.progress, self.config
        logits, _ = infer(self.net, self.dev_features)
        ua = float(unweighted_accuracy(confusion_matrix(self.dev_y, logits.argmax(axis=1), len(config.labels))))
        loss, softmax_loss, center_loss = (total / max(1, progress.loss_steps) for total in progress.loss_sums)
        eligible = progress.step > config.selection.after_step or progress.step == config.optimizer.max_steps
        if eligible and ua > progress.best_ua:
            progress.best_ua, progress.best_step = ua, progress.step
            runs.save_model(self.folder, self.net.state_dict(), self.centres, config, 1.0, progress.step)
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
        runs.save_tensors(self.folder / runs.CHECKPOINT, tensors, asdict(self.progress))

    def load_checkpoint(self) -> None:
        """Continue where :meth:`save_checkpoint` left off."""
        tensors, progress = runs.load_tensors(self.folder / runs.CHECKPOINT)
        try:
            self.progress = Progress(**progress)
            self.net.load_state_dict({n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")})
            self.centres.copy_(tensors["centres"])
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
        """Run to the last step; return False when Ctrl-C ended it first (the checkpoint is then written)."""
        config, progress = self.config, self.progress
        n_steps = config.optimizer.max_steps
        started = time.monotonic() - progress.seconds
        with (
            _interruptible() as interrupted,
            tqdm(total=n_steps, initial=progress.step, desc="training", unit="step", disable=None, smoothing=0.05) as bar,
        ):
            while progress.step < n_steps and not interrupted:
                self.step()
                bar.update()
                progress.seconds = time.monotonic() - started
                if progress.step % config.selection.every_steps == 0 or progress.step == n_steps:
                    ua = self.look_at_dev()
                    loss = self.metrics[-1]["loss"]
                    self.save_checkpoint()
                    bar.set_postfix_str(f"loss {loss:.3f}, dev UA {ua:.1%}, best {progress.best_ua:.1%}")
                    if bar.disable:
                        left = progress.seconds / progress.step * (n_steps - progress.step) / 60
                        say(f"step {progress.step}/{n_steps}  loss {loss:.3f}  dev UA {ua:.1%}  {left:.0f} min left")
            if progress.step < n_steps:
                if progress.step > 0:
                    self.save_checkpoint()
                return False
        return True

    def finish(self) -> dict[str, Any]:
        """Fit the temperature on dev, recompute the class centres over the training set, return the report."""
        best = runs.load_run(self.folder)
        best.net.to(self.device)
        logits, _ = infer(best.net, self.dev_features)
        temperature = fit_temperature(logits, self.dev_y)
        _, z = infer(best.net, self.train_features)
        labels = range(len(self.config.labels))
        centres = torch.from_numpy(np.stack([z[self.train_y == j].mean(axis=0) for j in labels]))
        runs.save_model(self.folder, best.net.state_dict(), centres, self.config, temperature, best.step)
        dev = score(logits, self.dev_y, [c.speaker for c in self.data.dev], temperature)
        return {
            "steps": self.progress.step,
            "best_step": self.progress.best_step,
            "seconds": round(self.progress.seconds, 1),
            "device": str(self.device),
            "precision": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "temperature": temperature,
            "labels": list(self.config.labels),
            "dev": asdict(dev),
        }


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


def describe_data(data: TrainingData, data_dir: Path, corpora: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Return the content of data.json."""

    def count(clips: Sequence[Clip]) -> dict[str, Any]:
        return {
            "clips": len(clips),
            "speakers": len({(c.corpus, c.speaker) for c in clips}),
            "per_label": {label: sum(c.emotion == label for c in clips) for label in labels},
            "per_corpus": dict(Counter(c.corpus for c in clips)),
        }

    listing = [
        [c.corpus, str(c.path.relative_to(data_dir / c.corpus)), c.speaker, c.emotion, part]
        for part in ("train", "dev")
        for c in getattr(data, part)
    ]
    return {
        "data": str(data_dir.resolve()),
        "corpora": list(corpora),
        "label_map": {label: label for label in labels},
        "left_out": data.left_out,
        "train": count(data.train),
        "dev": count(data.dev),
        "clips_sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
    }


def open_run(config: TrainConfig, described: dict[str, Any], folder: Path, resume: bool) -> None:
    """Prepare the run's folder, or check that the one there is this run's; RunError says what differs."""
    if not resume:
        if (folder / runs.CONFIG).exists():
            raise RunError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {folder}: {error.strerror or error}") from None
        runs.write_atomic(folder / runs.DATA, json.dumps(described, indent=1) + "\n")
        runs.write_atomic(folder / runs.CONFIG, config.to_toml())
        return
    if load_config(folder / runs.CONFIG) != config:
        raise RunError(
            f"{folder / runs.CONFIG} differs from the settings given; resume without settings, or choose another --out"
        )
    if runs.read_data(folder)["clips_sha256"] != described["clips_sha256"]:
        raise RunError(f"{folder} was started on other clips than --data and --corpus give now; expected the same list")
