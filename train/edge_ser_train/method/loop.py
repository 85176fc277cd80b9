"""The training loop: one function a stage, and no hidden state, so that a resumed run is the run.

Order, augmentation and dropout of a step are functions of (seed, epoch or step) alone; weights, Adam's moments, centres and
the best score so far are in the checkpoint. Continuing from any checkpoint therefore repeats the uninterrupted run.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from edge_ser.arrays import Float32Array, IndexArray
from edge_ser.errors import ConfigError, RunError
from edge_ser.geometry import EMBEDDING_SIZE, ENCODER_FRAMES, ENCODER_STRIDE
from edge_ser.prediction import softmax
from edge_ser_train.corpora.clips import NO_CLASS, class_numbers
from edge_ser_train.corpora.splits import Split, check_leaks
from edge_ser_train.method import processes, weights
from edge_ser_train.method import run as runs
from edge_ser_train.method.config import AugmentConfig, OptimizerConfig, TrainConfig
from edge_ser_train.method.copies import load_copies
from edge_ser_train.method.dataset import (
    audio_digests,
    draw_batch,
    draw_epoch,
    load_features,
    normalisation,
    pad_batch,
    speaker_means,
)
from edge_ser_train.method.inference import encode, infer
from edge_ser_train.method.losses import JOINT, Criterion, Losses, class_weights, update_centres
from edge_ser_train.method.model import EmotionNet, Output, compute_type
from edge_ser_train.method.outliers import outliers, with_outliers
from edge_ser_train.method.speech import distances_of, fit_distance, speech_detector, speech_statistics, statistics_of
from edge_ser_train.metrics import confusion_matrix, fit_temperature, score, unweighted_accuracy

_DROPOUT, _SPEAKERS = 2, 3  # streams of random numbers, by step; order and augmentation have the streams 0 and 1


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


class Trainer:
    """One run: built from configuration and data, stepped to its end, resumable at every checkpoint."""

    def __init__(
        self, config: TrainConfig, data: Split, folder: Path, cache_dir: Path, say: Callable[[str], None] = lambda line: None,
        criterion: Criterion = JOINT,
    ) -> None:  # fmt: skip
        if config.loss.kind != criterion.kind:
            raise ConfigError(f"loss.kind is {config.loss.kind!r}; expected {criterion.kind!r}")
        self.config, self.data, self.folder, self.criterion = config, data, folder, criterion
        self.loss = with_outliers(criterion.loss) if config.loss.outliers else criterion.loss
        self.processes = processes.present()
        n_in_batch = min(config.optimizer.batch_size, len(data.train))
        if n_in_batch % self.processes.count:
            raise RunError(
                f"a batch of {n_in_batch} clips cannot be shared by {self.processes.count} processes; "
                "expected optimizer.batch_size to be a multiple of their number"
            )
        self.device = self.processes.device()
        self.dtype = compute_type(config.precision, self.device)
        if self.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing here reads memory before it is written; filling it was 6 % of a step on a CPU.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        front_end, before = config.front_end_config, runs.past(config).speakers
        check_leaks(data, {}, lambda line: None, before)  # what names alone tell, before features cost minutes
        with self.processes.first_goes_first():  # so that the others find the cache filled
            self.train_features = load_features(data.train, front_end, cache_dir)
            self.dev_features = load_features(data.dev, front_end, cache_dir)
            self.copies = load_copies(data.train, self.train_features, config.augment.copies, front_end, cache_dir)
            dev_copies = load_copies(data.dev, self.dev_features, min(1, config.augment.copies), front_end, cache_dir)
            digests = audio_digests(data.train, self.train_features) | audio_digests(data.dev, self.dev_features)
            digests |= audio_digests(data.test, load_features(data.test, front_end, cache_dir))
        self.leaks = [str(leak) for leak in check_leaks(data, digests, say, before)]
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
            weights.initialise(self.net, config)
        if config.optimizer.frozen:
            self.net.freeze_convolutions()
        self.net.to(self.device)
        for convolution in self.net.convs:
            convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.encoded = config.optimizer.frozen
        self.train_inputs: Sequence[Float32Array] = encode(self.net, self.train_features) if self.encoded else self.train_features
        self.dev_inputs: Sequence[Float32Array] = encode(self.net, self.dev_features) if self.encoded else self.dev_features
        heard = [x for of_clip in dev_copies for x in of_clip]
        self.dev_heard: Sequence[Float32Array] = encode(self.net, heard) if self.encoded else heard
        plain = replace(config.augment, speaker_shift=0.0) == AugmentConfig() and not config.loss.outliers
        self.at_hand = self.encoded and plain
        self.means = speaker_means(data.train, self.train_inputs) if config.augment.speaker_shift else None
        self.centres = torch.zeros(len(config.labels), EMBEDDING_SIZE, device=self.device)
        self.optimizer = torch.optim.Adam(self.net.trained_parameters().values(), lr=config.optimizer.lr)
        self.average = copy.deepcopy(self.net) if config.optimizer.ema else None
        self.forward = self.processes.together(self.net)
        self._epoch = draw_epoch(0, self.train_features, self.copies, config)
        self.progress = weights.Progress()
        self.metrics: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[Float32Array, Float32Array]] = {}
        """Logits and z of the kept weights on train and dev, once the run has finished."""

    def batch(self, step: int) -> tuple[Tensor, Tensor, IndexArray]:
        """Return features [B, T, n_bins], or encoder vectors, lengths [B] and clip numbers [B] of a step; always the same."""
        epoch, index = divmod(step, max(1, len(self.data.train) // self.config.optimizer.batch_size))
        if self._epoch.number != epoch:
            self._epoch = draw_epoch(epoch, self.train_features, self.copies, self.config)
        rows = self._epoch.batches[index]
        if self.at_hand:
            x, lengths = pad_batch([self.train_inputs[i] for i in rows])
        else:
            x, lengths = draw_batch(step, self._epoch, rows, self.fill, self.config)
        x = x.to(self.device)
        if self.encoded and not self.at_hand:
            with torch.no_grad():
                x, lengths = self.net.encode(x), (lengths - ENCODER_FRAMES) // ENCODER_STRIDE + 1
        if self.means is not None:
            rng = np.random.default_rng([self.config.seed, _SPEAKERS, step])
            towards = self.means[rng.integers(0, len(self.means), len(rows))] - self.means[rows]
            share = rng.uniform(0, self.config.augment.speaker_shift, (len(rows), 1)).astype(np.float32)
            share[outliers(step, len(rows), self.config)] = 0
            x = x + torch.from_numpy(share * towards).to(self.device)[:, None]
        return x, lengths, rows

    def classes(self, step: int, rows: IndexArray) -> Tensor:
        """Return y [B] of the clips ``rows`` of a step; NO_CLASS where sound without speech has taken a clip's place."""
        y = np.where(outliers(step, len(rows), self.config), NO_CLASS, self.train_y[rows])
        return torch.from_numpy(y).to(self.device)

    def answer(self, step: int, x: Tensor, lengths: Tensor) -> Output:
        """Return logits [B, n_classes] and z [B, 64] of a step's whole batch, with dropout, in float32."""
        torch.manual_seed(int(np.random.SeedSequence([self.config.seed, _DROPOUT, step]).generate_state(1)[0]))
        self.net.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            out = self.forward(x, lengths, self.encoded)
        return Output(out.logits.float(), out.z.float())

    def step(self) -> None:
        """Take one optimiser step on L = L_s + λ L_c (eqs. 5-7), then move the centres (eqs. 3, 4)."""
        config, step = self.config.loss, self.progress.step
        lambda_center, alpha = (0.0, 1.0) if step < config.warmup_steps else (config.lambda_center, config.alpha)
        x, lengths, rows = self.batch(step)
        y = self.classes(step, rows)
        logits, z = self.answer(step, x, lengths)
        losses = self.loss(logits, z, y, self.centres, self.omega, lambda_center)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optimizer, step)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        self.optimizer.step()
        update_centres(self.centres, z, y, alpha)
        self._move_average()
        self._note(losses)

    def _note(self, losses: Losses) -> None:
        """Count the step and its losses; RunError when they are not finite."""
        progress, values = self.progress, [loss.item() for loss in losses]
        if not math.isfinite(values[0]):
            raise RunError(
                f"the loss is {values[0]} at step {progress.step + 1}; expected a finite number: try a lower optimizer.lr"
            )
        progress.loss_sums = [total + value for total, value in zip(progress.loss_sums, values, strict=True)]
        progress.loss_steps += 1
        progress.step += 1

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
        """Measure dev UA, keep the weights if they are the best so far, log one line of metrics; return dev UA.

        With copies, dev UA is the mean of the clips as recorded and of a copy of each.
        """
        progress, config = self.progress, self.config
        uas = []
        for inputs in filter(None, (self.dev_inputs, self.dev_heard)):
            logits, z = infer(self.evaluated, inputs, self.encoded)
            predicted = self.criterion.scores(logits, z, self.centres.cpu().numpy()).argmax(axis=1)
            uas.append(float(unweighted_accuracy(confusion_matrix(self.dev_y, predicted, len(config.labels)))))
        ua = float(np.mean(uas))
        loss, softmax_loss, center_loss = (total / max(1, progress.loss_steps) for total in progress.loss_sums)
        eligible = progress.step > config.selection.after_step or progress.step == config.optimizer.max_steps
        if eligible and ua > progress.best_ua:
            progress.best_ua, progress.best_step = ua, progress.step
            net = self.evaluated
            weights.save_model(self.folder, net.state_dict(), config, progress.step, self.centres, weights.unmeasured(net))
        line = {"step": progress.step, "loss": loss, "softmax_loss": softmax_loss, "center_loss": center_loss, "dev_ua": ua}
        line |= {"dev_ua_recorded": uas[0], "dev_ua_heard": uas[1]} if self.dev_heard else {}
        self.metrics.append(line | {"lr": learning_rate(config.optimizer, max(0, progress.step - 1))})
        progress.loss_sums, progress.loss_steps = [0.0, 0.0, 0.0], 0
        return ua

    def save_checkpoint(self) -> None:
        """Write what :meth:`load_checkpoint` continues from."""
        weights.save_checkpoint(self.folder, self._nets(), self.optimizer, self.centres, self.progress, self.metrics)

    def load_checkpoint(self) -> None:
        """Continue where :meth:`save_checkpoint` left off."""
        self.progress, self.metrics = weights.load_checkpoint(self.folder, self._nets(), self.optimizer, self.centres)

    def _nets(self) -> dict[str, EmotionNet]:
        return {"net": self.net} | ({} if self.average is None else {"ema": self.average})

    def train(self, say: Callable[[str], None]) -> bool:
        """Run to the last step; return False when Ctrl-C ended it first (the checkpoint is then written).

        The first of several processes looks at dev and writes; a Ctrl-C that reaches one of them stops all after the same step.
        """
        config, progress = self.config, self.progress
        n_steps, first = config.optimizer.max_steps, self.processes.rank == 0
        quiet = None if first else True
        started = time.monotonic() - progress.seconds
        with (
            processes.interruptible() as interrupted,
            tqdm(desc="training", unit="step", total=n_steps, initial=progress.step, smoothing=0.05, disable=quiet) as bar,
        ):
            while progress.step < n_steps and not self.processes.any(bool(interrupted), self.device):
                self.step()
                bar.update()
                progress.seconds = time.monotonic() - started
                if first and (progress.step % config.selection.every_steps == 0 or progress.step == n_steps):
                    ua = self.look_at_dev()
                    loss = self.metrics[-1]["loss"]
                    self.save_checkpoint()
                    bar.set_postfix_str(f"loss {loss:.3f}, dev UA {ua:.1%}, best {progress.best_ua:.1%}")
                    if bar.disable:
                        left = progress.seconds / progress.step * (n_steps - progress.step) / 60
                        say(f"step {progress.step}/{n_steps}  loss {loss:.3f}  dev UA {ua:.1%}  {left:.0f} min left")
            if 0 < progress.step < n_steps and first:
                self.save_checkpoint()
        return progress.step == n_steps

    def finish(self) -> dict[str, Any]:
        """Fit the temperature on dev, measure centres and speech over the training set, return the report."""
        net, step, _, _ = weights.load_network(self.folder)
        net.to(self.device)
        vectors = self.train_inputs if self.encoded else encode(net, self.train_features)
        dev_vectors = [x if self.encoded else encode(net, x) for x in filter(None, (self.dev_inputs, self.dev_heard))]
        logits, dev_z = infer(net, dev_vectors[0], encoded=True)
        train_logits, z = infer(net, vectors, encoded=True)
        self.answers = {"train": (train_logits, z), "dev": (logits, dev_z)}
        labels = range(len(self.config.labels))
        centres = torch.from_numpy(np.stack([z[self.train_y == j].mean(axis=0) for j in labels]))
        logits = self.criterion.scores(logits, dev_z, centres.numpy())
        scored, scored_y = logits, self.dev_y
        if self.dev_heard:  # confidence is to mean frequency elsewhere, too
            heard_logits, heard_z = infer(net, dev_vectors[1], encoded=True)
            scored = np.concatenate([logits, self.criterion.scores(heard_logits, heard_z, centres.numpy())])
            scored_y = np.tile(self.dev_y, 2)
        heard = statistics_of([*vectors, *encode(net, [of_clip[0] for of_clip in self.copies if of_clip])])
        dev_statistics = [statistics_of(of) for of in dev_vectors]
        distance = fit_distance(heard, np.concatenate(dev_statistics))
        scaled = scored / distances_of(np.concatenate(dev_statistics), distance)[:, None]
        temperature = fit_temperature(scaled, scored_y)
        detector = speech_detector(net, self.train_features, vectors, heard, dev_statistics, self.config)
        measured = speech_statistics(net, self.data.train, self.train_features, vectors, self.config)
        weights.save_model(self.folder, net.state_dict(), self.config, step, centres, measured, detector, distance, temperature)
        dev = score(softmax(scaled[: len(logits)], temperature), self.dev_y, [c.speaker for c in self.data.dev])
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


def train_run(
    trainer: Trainer, described: dict[str, Any], resume: bool, say: Callable[[str], None] = lambda line: None,
    stated: TrainConfig | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Record what the run is, train it from where it stands to its end, and write and return its report.

    None when Ctrl-C ended it first, or when another of several processes reports. ``stated`` is the configuration that the
    run's folder keeps, where it is not the one that is trained with.
    """
    folder, first = trainer.folder, trainer.processes.rank == 0
    if first and not resume:
        runs.record_run(stated or trainer.config, described, trainer.data, folder)
    if resume and (folder / runs.CHECKPOINT).is_file():
        trainer.load_checkpoint()
        say(f"resuming at step {trainer.progress.step}")
    if not trainer.train(say) or not first:
        return None
    report = trainer.finish()
    runs.write_atomic(folder / runs.REPORT, json.dumps(report, indent=1) + "\n")
    return report
