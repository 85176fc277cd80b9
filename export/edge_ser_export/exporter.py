"""From a training run to verified model files: float32 or int8, ONNX or TFLite, or int8 for the C library.

A file appears under its name only after it was loaded through the runtime and held against the network: float files at several
lengths, int8 files on real dev clips as well. Below the stated agreement nothing is left behind but the report.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edge_ser._version import __version__
from edge_ser.arrays import Float32Array
from edge_ser.engines import Backend
from edge_ser.engines.clib import load_library
from edge_ser.errors import AudioError, CorpusError, ExportError, RunError, did_you_mean
from edge_ser.files import require_writable
from edge_ser.frontend.audio import AUDIO_SUFFIXES, AudioReader, recordings_below
from edge_ser.frontend.features import extract_blocks
from edge_ser.geometry import EMBEDDING_SIZE
from edge_ser.model.manifest import Manifest
from edge_ser.model.scores import SCORE_FIELDS
from edge_ser_export.c_library import CModel, compiler, require_same_in_chunks
from edge_ser_export.c_source import require_c
from edge_ser_export.formats import FORMATS, INTEGERS_ONLY, install
from edge_ser_export.onnx_graph import encoder_size
from edge_ser_export.quantize import QuantizedNet, activation_ranges, coverage, percent, quantize
from edge_ser_export.report import FileReport
from edge_ser_export.verification import Agreement, agree, verify
from edge_ser_train.corpora.splits import load_split, relabel, split_title
from edge_ser_train.corpora.tables import corpus_facts, read_corpus
from edge_ser_train.method.dataset import load_features
from edge_ser_train.method.loop import infer
from edge_ser_train.method.run import REPORT, SPLIT, TrainedModel, load_run, read_json, write_atomic

LOGIT_TOLERANCE = 1e-4
"""Largest difference of a logit between torch and an exported float file."""
AGREEMENT = 0.985
"""Smallest share of clips on which an int8 file must answer the same label as the float network."""
INTEGER_TOLERANCE = 0.1
"""Largest mean difference of a logit between the C library and ONNX Runtime with the same integers."""
N_CALIBRATION, N_VERIFICATION = 128, 600
"""Most clips that ranges are measured on, and most that an int8 file is held against the network on."""

INTENDED_USE = "voice assistants and devices that react to how speech sounds"
EXCLUDED_USE = (
    "judging what a person feels: it infers how speech sounds; emotion inference at work and in education, "
    "which the EU AI Act, Art. 5(1)(f), prohibits"
)


@dataclass(frozen=True)
class _Clips:
    """Features to calibrate with and to verify on."""

    calibration: list[Float32Array]
    verification: list[Float32Array]
    y: npt.NDArray[np.int64] | None
    described: str


def export_run(
    run: Path,
    outputs: dict[str, Path],
    say: Callable[[str], None],
    int8: bool = False,
    calibration_data: Path | None = None,
    data: Path | None = None,
    report: Path | None = None,
) -> list[FileReport]:
    """Write the run's best weights as verified model files, ``outputs`` by format (a name of FORMATS), atomically.

    int8 files are calibrated on training clips of the run and verified on its dev clips; ``calibration_data`` is a folder of
    recordings to calibrate on instead (and to verify on, where the run's corpora are gone), ``data`` where the corpora lie if
    they moved. ``report`` (JSON) is written also when a file fails. Raises RunError when the run cannot be used, ExportError
    when a file cannot be written or does not answer as the network does; then no model file is left behind.
    """
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
    integers_only = [name for name in outputs if name in INTEGERS_ONLY]
    if integers_only and not int8:
        raise ExportError("the C library computes in integers; add --int8")
    for name in integers_only:
        compiler() if name == "c" else load_library()
    trained = load_run(run)
    if integers_only:
        require_c(trained.front_end.name, len(trained.labels))
    if trained.config.loss.kind != "joint":
        raise ExportError(
            f"{run} was trained with {trained.config.loss.kind}, which has no classifier; export a run of kind joint"
        )
    if not (run / REPORT).is_file():
        raise RunError(f"{run} is not finished and has no temperature and centres yet; run edge-ser train --out {run} --resume")
    say(f"loaded {run}: step {trained.step}, labels {', '.join(trained.labels)}")
    clips, quantized = None, None
    if int8:
        clips = _clips(run, trained, data, calibration_data)
        say(f"calibrating on {len(clips.calibration)} clips, verifying on {len(clips.verification)} ({clips.described})")
        quantized = quantize(trained.net, activation_ranges(trained.net, clips.calibration))
    reports: list[FileReport] = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for name, output in outputs.items():
                reports.append(_write(run, trained, name, Path(scratch, output.name), quantized, clips, say))
            _gate(reports)
            for output in outputs.values():
                install(Path(scratch, output.name), output)
    except OSError as error:
        raise ExportError(f"cannot write {error.filename or 'the model'}: {error.strerror or error}") from None
    finally:
        if report is not None and reports:
            named = [replace(r, file=outputs[r.format].name) for r in reports]
            write_atomic(report, json.dumps([asdict(r) for r in named], indent=1) + "\n")
    return [replace(r, file=str(outputs[r.format])) for r in reports]


def _clips(run: Path, trained: TrainedModel, data: Path | None, recordings: Path | None) -> _Clips:
    if recordings is None:
        return _clips_of_run(run, trained, data)
    given = _recordings(trained, recordings)
    try:
        own = _clips_of_run(run, trained, data)
    except ExportError:
        return given
    return replace(own, calibration=given.calibration, described=f"calibration {given.described}, verification its own dev clips")


def _clips_of_run(run: Path, trained: TrainedModel, data: Path | None) -> _Clips:
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
    y = np.array([trained.labels.index(c.emotion) for c in split.dev], dtype=np.int64)
    verified = _spread([len(x) for x in dev], N_VERIFICATION)
    chosen = [train[i] for i in _spread([len(x) for x in train], N_CALIBRATION)]
    return _Clips(chosen, [dev[i] for i in verified], y[verified], "its own training and dev clips")


def _recordings(trained: TrainedModel, folder: Path) -> _Clips:
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
    return _Clips([features[i] for i in chosen], [features[i] for i in verified], None, f"recordings below {folder.name}")


def _spread(lengths: Sequence[int], n: int) -> npt.NDArray[np.intp]:
    """Return the numbers of at most n clips, evenly spread over the lengths."""
    order = np.argsort(lengths, kind="stable")
    chosen: npt.NDArray[np.intp] = order[np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).astype(int))]
    return chosen


def _write(
    run: Path,
    trained: TrainedModel,
    name: str,
    path: Path,
    quantized: QuantizedNet | None,
    clips: _Clips | None,
    say: Callable[[str], None],
) -> FileReport:
    """Write one file, verify it, and write it again with what was found in its manifest."""
    form = FORMATS[name]
    layers = tuple(coverage(trained.net, form.head_macs_int8)) if quantized else ()
    scheme = "float32" if quantized is None else form.int8_scheme
    percentages = {f"{what}_int8_percent": round(percent(layers, key), 2) if layers else 0.0 for what, key in _COVERED}
    scales = {} if quantized is None else {"vector_scale": quantized.convs[-1].out.scale}
    manifest = _manifest(run, trained, {"scheme": scheme, **percentages, **scales, "layers": [asdict(x) for x in layers]})
    form.write(trained.net, quantized, manifest, path)
    say(f"wrote the {name} {'graph' if form.suffix else 'source'}, verifying it against the network")
    backend = form.open(path)
    verification = verify(trained, backend, LOGIT_TOLERANCE if quantized is None else np.inf)
    agreement = against_onnx = None
    if clips:
        agreement = agree(infer(trained.net, clips.verification)[0], backend, clips.verification, clips.y, clips.described)
    if isinstance(backend, CModel):
        require_same_in_chunks(backend)
    if name in INTEGERS_ONLY and clips and quantized:
        against_onnx = _against_onnx(trained, quantized, manifest, backend, clips, path.parent)
    verified = {"verification": asdict(verification), "engine": f"{form.engine()}, {platform.machine()}"}
    if agreement:
        verified["agreement"] = asdict(agreement)
    if against_onnx:
        verified["agreement_with_int8_onnx"] = asdict(against_onnx)
    manifest = replace(manifest, quantization={**manifest.quantization, **verified})
    n_bytes = form.write(trained.net, quantized, manifest, path)
    form.open(path)
    weights, macs = percentages.values()
    return FileReport(
        path.name, name, n_bytes, scheme, weights, macs, layers, verification, agreement, against_onnx,
        backend.state_bytes if isinstance(backend, CModel) else None, str(verified["engine"]),
    )  # fmt: skip


_COVERED = (("weights", "weights"), ("macs", "macs_per_s"))


def _against_onnx(
    trained: TrainedModel, quantized: QuantizedNet, manifest: Manifest, backend: Backend, clips: _Clips, folder: Path
) -> Agreement:
    """Compare the C library's answers with those of an int8 ONNX file of the same integers."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "int8.onnx"
        FORMATS["onnx"].write(trained.net, quantized, manifest, path)
        onnx = FORMATS["onnx"].open(path)
    expected = np.stack([onnx.run(np.ascontiguousarray(x)).logits for x in clips.verification])
    return agree(expected, backend, clips.verification, clips.y, f"int8 ONNX on {clips.described}")


def _manifest(run: Path, trained: TrainedModel, quantization: dict[str, Any]) -> Manifest:
    import onnx

    return Manifest(
        front_end=trained.front_end,
        labels=trained.labels,
        encoder_size=encoder_size(trained.net),
        embedding_size=EMBEDDING_SIZE,
        temperature=trained.temperature,
        centres=tuple(_rounded(row) for row in trained.centres),
        novelty_distance=round(trained.novelty_distance, 6),
        speech_mean=_rounded(trained.speech_mean, 2),
        speech_std=_rounded(trained.speech_std.clamp(min=0.01), 2),
        # A step of the integers is twenty times as large.
        speech_vector=_rounded(trained.speech_vector, 3),
        ordinary_vector=_rounded(trained.ordinary_vector, 3),
        quantization=quantization,
        training=_training(trained),
        scores=tuple(_scores(run, trained)),
        intended_use=INTENDED_USE,
        excluded_use=EXCLUDED_USE,
        created_with={"edge_ser": __version__, "torch": torch.__version__, "onnx": onnx.__version__},
        graph_sha256="0" * 64,
    )


_NO_COVERAGE = {"weights_int8_percent": 0.0, "macs_int8_percent": 0.0}


def float_reference(run: Path, folder: Path) -> Path:
    """Write the run's float ONNX file, unverified, into a folder, for timings to be set against; return its path."""
    trained = load_run(run)
    path = folder / "float.onnx"
    manifest = _manifest(run, trained, {"scheme": "float32", **_NO_COVERAGE})
    FORMATS["onnx"].write(trained.net, None, manifest, path)
    return path


def _gate(reports: Sequence[FileReport]) -> None:
    """Raise ExportError for a file that got worse than stated."""
    for r in reports:
        if r.verification.max_streaming_error > 0:
            raise ExportError(
                f"the {r.format} file answers otherwise in parts than as a whole, logits by "
                f"{r.verification.max_streaming_error:.2g}; expected no difference; no model file was written"
            )
        if r.against_onnx is not None and not (error := r.against_onnx.mean_logit_error) <= INTEGER_TOLERANCE:
            raise ExportError(
                f"the {r.format} file differs from ONNX with the same integers, logits by {error:.2g} in the mean; expected at "
                f"most {INTEGER_TOLERANCE}; no model file was written"
            )
        for reference, agreement in (("the network", r.agreement), ("the int8 ONNX file", r.against_onnx)):
            if agreement is not None and agreement.argmax < AGREEMENT:
                raise ExportError(
                    f"the int8 {r.format} file answers the same label as {reference} on {agreement.argmax:.1%} of "
                    f"{agreement.n_clips} clips; expected at least {AGREEMENT:.1%}: calibrate on speech like the training data; "
                    "no model file was written"
                )


def _rounded(values: torch.Tensor, decimals: int = 6) -> tuple[float, ...]:
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
