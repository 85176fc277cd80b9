"""What an export needs, gathered once: the network, clips to calibrate with and to verify on, and the facts for the manifest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_ser._version import __version__
from edge_ser.arrays import Float32Array, IndexArray, Int64Array
from edge_ser.engines.clib import load_library
from edge_ser.errors import AudioError, CorpusError, ExportError, RunError, did_you_mean
from edge_ser.files import require_writable
from edge_ser.frontend.audio import AUDIO_SUFFIXES, AudioReader, recordings_below
from edge_ser.frontend.features import extract_blocks
from edge_ser.geometry import EMBEDDING_SIZE, encoder_size
from edge_ser.model.manifest import Manifest
from edge_ser.model.scores import SCORE_FIELDS
from edge_ser_export.c_library import compiler
from edge_ser_export.c_source import require_c
from edge_ser_export.formats import FORMATS, INTEGERS_ONLY
from edge_ser_train.corpora.clips import class_numbers
from edge_ser_train.corpora.splits import load_split, relabel, split_title
from edge_ser_train.corpora.tables import corpus_facts, read_corpus
from edge_ser_train.method.copies import load_copies
from edge_ser_train.method.dataset import load_features
from edge_ser_train.method.run import REPORT, SPLIT, read_json
from edge_ser_train.method.weights import TrainedModel, load_run

N_CALIBRATION, N_VERIFICATION = 128, 600
"""Most clips that ranges are measured on, and most that an int8 file is held against the network on."""

INTENDED_USE = "voice assistants and devices that react to how speech sounds"
EXCLUDED_USE = (
    "judging what a person feels: it infers how speech sounds; emotion inference at work and in education, "
    "which the EU AI Act, Art. 5(1)(f), prohibits"
)


@dataclass(frozen=True)
class Clips:
    """Features to calibrate with and to verify on."""

    calibration: list[Float32Array]
    verification: list[Float32Array]
    y: Int64Array | None
    """Classes of the clips to verify on, where they are known."""
    described: str


@dataclass(frozen=True)
class Material:
    """All that the steps of an export are made of."""

    trained: TrainedModel
    clips: Clips | None
    """None: the files are float32."""
    facts: Manifest
    """The manifest of the float network, without a hash; what a file's own numbers are is put in its place."""


def gather(
    run: Path,
    outputs: Mapping[str, Path],
    say: Callable[[str], None],
    int8: bool = False,
    calibration_data: Path | None = None,
    data: Path | None = None,
) -> Material:
    """Look whether ``outputs``, by format, can be written of the run's best weights, and gather what they need.

    int8 files are calibrated on training clips of the run and verified on its dev clips; ``calibration_data`` is a folder of
    recordings to calibrate on instead (and to verify on, where the run's corpora are gone), ``data`` where the corpora lie if
    they moved. Raises RunError when the run cannot be used, ExportError when the outputs or the clips cannot.
    """
    _check_outputs(outputs, int8)
    trained = load_run(run)
    if any(name in INTEGERS_ONLY for name in outputs):
        require_c(trained.front_end.name, len(trained.labels))
    if trained.config.loss.kind != "joint":
        raise ExportError(f"{run} was trained with loss.kind {trained.config.loss.kind}; only runs of kind joint are exported")
    if not (run / REPORT).is_file():
        raise RunError(f"{run} is not finished and has no temperature and centres yet; run edge-ser train --out {run} --resume")
    say(f"loaded {run}: step {trained.step}, labels {', '.join(trained.labels)}")
    clips = None
    if int8:
        clips = _clips(run, trained, data, calibration_data)
        say(f"calibrating on {len(clips.calibration)} clips, verifying on {len(clips.verification)} ({clips.described})")
    return Material(trained, clips, _facts(run, trained))


def _check_outputs(outputs: Mapping[str, Path], int8: bool) -> None:
    for name, output in outputs.items():
        if name not in FORMATS:
            raise ExportError(f"unknown format {name!r}{did_you_mean(name, FORMATS)}; expected {' or '.join(FORMATS)}")
        suffix = FORMATS[name].suffix
        if suffix and output.suffix != suffix:
            raise ExportError(f"output is {output}; expected a name ending in {suffix}")
        if not suffix and output.exists() and not output.is_dir():
            raise ExportError(f"output is the file {output}; --format {name} writes source files into a folder: give its name")
        if not output.parent.is_dir():
            raise ExportError(f"cannot write {output}: the folder {output.parent} does not exist")
        if suffix:
            require_writable(output, ExportError)
    for name in outputs:
        if name in INTEGERS_ONLY:
            if not int8:
                raise ExportError("the C library computes in integers; add --int8")
            compiler() if name == "c" else load_library()


def _clips(run: Path, trained: TrainedModel, data: Path | None, recordings: Path | None) -> Clips:
    if recordings is None:
        return _clips_of_run(run, trained, data)
    given = _recordings(trained, recordings)
    try:
        own = _clips_of_run(run, trained, data)
    except ExportError:
        return given
    return replace(own, calibration=given.calibration, described=f"calibration {given.described}, verification its own dev clips")


def _clips_of_run(run: Path, trained: TrainedModel, data: Path | None) -> Clips:
    """Return training clips of many lengths to calibrate with and dev clips to verify on; the test set stays untouched."""
    data = data or Path(trained.data["data"])
    hint = "give --data, where the corpora of the run lie now, or --calibration-data, a folder of recordings"
    if not (run / SPLIT).is_file():
        raise ExportError(f"{run} has no {SPLIT} and so no list of its clips; give --calibration-data, a folder of recordings")
    try:
        found = [c for name in trained.data["corpora"] for c in read_corpus(data, name)]
        clips, left_out = relabel(found, trained.config.label_map, trained.labels)
        split = load_split(run / SPLIT, clips, left_out)
    except CorpusError as error:
        raise ExportError(f"{error}; {hint}") from None
    train = load_features(split.train, trained.front_end, None)
    dev = load_features(split.dev, trained.front_end, None)
    y = class_numbers(split.dev, trained.labels)
    verified = _spread([len(x) for x in dev], N_VERIFICATION)
    chosen = _spread([len(x) for x in train], N_CALIBRATION)
    calibration = [train[i] for i in chosen]
    if trained.config.augment.copies:  # ranges hold what devices hear, too
        of = chosen[::2]
        with tempfile.TemporaryDirectory() as scratch:
            copies = load_copies([split.train[i] for i in of], [train[i] for i in of], 1, trained.front_end, Path(scratch))
        calibration[::2] = [copy for (copy,) in copies]
    return Clips(calibration, [dev[i] for i in verified], y[verified], "its own training and dev clips")


def _recordings(trained: TrainedModel, folder: Path) -> Clips:
    """Return the features of the recordings below a folder."""
    paths = recordings_below(folder)
    if not paths:
        raise ExportError(
            f"{folder} holds no recordings; expected speech of several lengths in files ending in {', '.join(AUDIO_SUFFIXES)}"
        )
    features = []
    for path in paths:
        try:
            with AudioReader(path, trained.front_end.rate_hz) as reader:
                features.append(extract_blocks(reader.blocks(), reader.n_samples, trained.front_end))
        except AudioError as error:
            raise ExportError(f"calibration data: {error}; remove the file, or calibrate with other recordings") from None
    lengths = [len(x) for x in features]
    chosen, verified = _spread(lengths, N_CALIBRATION), _spread(lengths, N_VERIFICATION)
    return Clips([features[i] for i in chosen], [features[i] for i in verified], None, f"recordings below {folder.name}")


def _spread(lengths: Sequence[int], n: int) -> IndexArray:
    """Return the numbers of at most n clips, evenly spread over the lengths."""
    order = np.argsort(lengths, kind="stable")
    chosen: IndexArray = order[np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).astype(int))]
    return chosen


def _facts(run: Path, trained: TrainedModel) -> Manifest:
    import onnx

    return Manifest(
        front_end=trained.front_end,
        labels=trained.labels,
        encoder_size=encoder_size(trained.front_end.n_bins),
        embedding_size=EMBEDDING_SIZE,
        temperature=trained.temperature,
        centres=tuple(_rounded(row, 4) for row in trained.centres),
        speech=trained.speech,
        distance=trained.distance,
        speech_mean=_rounded(trained.speech_mean, 2),
        speech_std=_rounded(trained.speech_std.clamp(min=0.01), 2),
        # A step of the integers is some times as large.
        speech_vector=_rounded(trained.speech_vector, 2),
        ordinary_vector=_rounded(trained.ordinary_vector, 2),
        quantization={"scheme": "float32", "weights_int8_percent": 0.0, "macs_int8_percent": 0.0},
        training=_training(trained),
        scores=tuple(_scores(run, trained)),
        intended_use=INTENDED_USE,
        excluded_use=EXCLUDED_USE,
        created_with={"edge_ser": __version__, "torch": torch.__version__, "onnx": onnx.__version__},
        graph_sha256="0" * 64,
    )


def _rounded(values: torch.Tensor, decimals: int) -> tuple[float, ...]:
    return tuple(round(float(v), decimals) for v in values)


def _training(trained: TrainedModel) -> dict[str, Any]:
    data = trained.data
    corpora: list[dict[str, Any]] = []
    speech: set[str] = set()
    before = data.get("corpora_before", {})
    for name in (*data["corpora"], *before):
        facts = corpus_facts(name)
        speech.add(facts.speech)
        n_clips = before.get(name, data["train"]["per_corpus"].get(name, 0))
        earlier = {"earlier": True} if name in before else {}  # what the run started or learnt from was trained on it
        corpora.append({"name": name, "licence": facts.licence, "citation": facts.citation, "train_clips": n_clips, **earlier})
    return {
        "preset": trained.config.preset,
        "corpora": corpora,
        "split": split_title(data.get("protocol", "fixed"), data.get("fold", "")),
        "train_clips": data["train"]["clips"],
        "train_speakers": data["train"]["speakers"],
        "dev_clips": data["dev"]["clips"],
        "dev_speakers": data["dev"]["speakers"],
        "seed": trained.config.seed,
        "steps": trained.config.optimizer.max_steps,
        "best_step": trained.step,
        "lambda_center": trained.config.loss.lambda_center,
        "alpha": trained.config.loss.alpha,
        "weights_sha256": trained.weights_sha256,
        "speech": "; ".join(sorted(speech)),
    }


def _scores(run: Path, trained: TrainedModel) -> list[dict[str, Any]]:
    """Return what ``edge-ser evaluate`` measured on these very weights."""
    scores = []
    for path in sorted(run.glob("evaluation-*.json")):
        try:
            evaluation = read_json(path)
        except RunError as error:
            raise ExportError(f"{error}; delete it or run edge-ser evaluate again") from None
        if evaluation.get("weights_sha256") == trained.weights_sha256:
            scores.append({key: evaluation[key] for key in SCORE_FIELDS if key in evaluation})
    return scores
