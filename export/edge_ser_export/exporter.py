"""From a training run to verified model files: float32 or int8, ONNX or TFLite, or int8 for the C library.

    gather    run -> Material: the network, clips, facts for the manifest               material.py
    quantise  network, clips to calibrate with -> integers                              quantize.py
    build     network or integers -> a graph or constants of a format                   formats.py
    verify    file, network, clips to verify on -> what the manifest says of it         verification.py
    write     file, what was found -> the file under its name

A file appears under its name only after it was loaded through the runtime and held against the network: float files at several
lengths, int8 files on real dev clips as well. Below the stated agreement nothing is left behind but the report.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.engines import Backend
from edge_ser.errors import ExportError
from edge_ser_export.c_library import CModel, require_same_in_chunks
from edge_ser_export.formats import FORMATS, INTEGERS_ONLY, Format, install
from edge_ser_export.material import Clips, Material
from edge_ser_export.quantize import LayerCoverage, QuantizedNet, activation_ranges, coverage, percent, quantize
from edge_ser_export.report import FileReport
from edge_ser_export.verification import Agreement, agree, latencies, verify
from edge_ser_train.method.inference import infer
from edge_ser_train.method.run import write_atomic

LOGIT_TOLERANCE = 1e-4
"""Largest difference of a logit between torch and an exported float file."""
AGREEMENT = 0.985
"""Smallest share of clips on which an int8 file must answer the same label as the float network."""
INTEGER_TOLERANCE = 0.1
"""Largest mean difference of a logit between the C library and ONNX Runtime with the same integers."""


def make_files(
    material: Material, outputs: Mapping[str, Path], say: Callable[[str], None], report: Path | None = None
) -> list[FileReport]:
    """Write what was gathered as verified model files, ``outputs`` by format (a name of FORMATS), atomically.

    ``report`` (JSON) is written also when a file fails. Raises ExportError when a file cannot be written or does not answer as
    the network does; then no model file is left behind.
    """
    net, quantized = material.trained.net, None
    if material.clips is not None:
        quantized = quantize(net, activation_ranges(net, material.clips.calibration))
    reports: list[FileReport] = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for name, output in outputs.items():
                reports.append(_verified(material, quantized, name, Path(scratch, output.name), say))
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


def _verified(
    material: Material, quantized: QuantizedNet | None, name: str, path: Path, say: Callable[[str], None]
) -> FileReport:
    """Write one file, verify it, and write it again with what was found in its manifest."""
    trained, clips, form = material.trained, material.clips, FORMATS[name]
    layers = tuple(coverage(trained.net, form.head_macs_int8)) if quantized else ()
    numbers = _quantization(form, layers, quantized)
    write = form.build(trained.net, quantized)
    write(replace(material.facts, quantization=numbers), path)
    say(f"wrote the {name} {'graph' if form.suffix else 'source'}, verifying it against the network")
    backend = form.open(path)
    engine = f"{form.engine()}, {platform.machine()}"
    verification = verify(trained, backend, LOGIT_TOLERANCE if quantized is None else np.inf)
    found = {"verification": asdict(verification), "engine": engine}
    if isinstance(backend, CModel):
        require_same_in_chunks(backend)
    agreement = against_onnx = None
    if clips is not None:
        agreement = agree(infer(trained.net, clips.verification)[0], backend, clips.verification, clips.y, clips.described)
        found["agreement"] = asdict(agreement)
        if name in INTEGERS_ONLY:
            against_onnx = _against_onnx(material, quantized, backend, clips)
            found["agreement_with_int8_onnx"] = asdict(against_onnx)
    n_bytes = write(replace(material.facts, quantization=numbers | found), path)
    form.open(path)
    state_bytes = backend.state_bytes if isinstance(backend, CModel) else None
    covered = (numbers["scheme"], numbers["weights_int8_percent"], numbers["macs_int8_percent"], layers)
    return FileReport(path.name, name, n_bytes, *covered, verification, agreement, against_onnx, state_bytes, engine)


def _quantization(form: Format, layers: tuple[LayerCoverage, ...], quantized: QuantizedNet | None) -> dict[str, Any]:
    """Return what a manifest says of a file's integers."""
    weights, macs = (round(percent(layers, what), 2) if layers else 0.0 for what in ("weights", "macs_per_s"))
    scales = {"vector_scale": quantized.convs[-1].out.scale} if quantized else {}
    return {
        "scheme": form.int8_scheme if quantized else "float32",
        "weights_int8_percent": weights,
        "macs_int8_percent": macs,
        **scales,
    }


def _against_onnx(material: Material, quantized: QuantizedNet | None, backend: Backend, clips: Clips) -> Agreement:
    """Compare the C library's answers with those of an int8 ONNX file of the same integers."""
    onnx = _onnx(material, quantized)
    expected = np.stack([onnx.run(np.ascontiguousarray(x)).logits for x in clips.verification])
    return agree(expected, backend, clips.verification, clips.y, f"int8 ONNX on {clips.described}")


def _onnx(material: Material, quantized: QuantizedNet | None) -> Backend:
    """Return the network in ONNX Runtime, in float or in integers, for a file of another format to be set against."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.onnx"
        form = FORMATS["onnx"]
        facts = replace(material.facts, quantization=_quantization(form, (), quantized))
        form.build(material.trained.net, quantized)(facts, path)
        return form.open(path)


def time_files(material: Material, outputs: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Return how long the files written take, and the float network in ONNX Runtime, in turn; see :func:`latencies`."""
    backends = {"float ONNX": _onnx(material, None)} | {path.name: FORMATS[name].open(path) for name, path in outputs.items()}
    return latencies(material.trained, backends)


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
