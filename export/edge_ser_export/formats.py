"""The formats a run can be exported to: how each is written, opened again, and what its numbers are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from edge_ser._version import __version__
from edge_ser.arrays import AnyArray
from edge_ser.engines import BACKENDS, Backend, open_backend
from edge_ser.errors import ExportError
from edge_ser.files import writing
from edge_ser.model.manifest import Manifest, read_model_file
from edge_ser.model.tflite_file import seal_tflite
from edge_ser_export.c_library import CModel, compiler_version
from edge_ser_export.c_source import build_c, build_eser, constants_of
from edge_ser_export.onnx_graph import build_graph, graph_sha256, serialise
from edge_ser_export.quantize import QuantizedNet
from edge_ser_export.tflite_graph import build_tflite
from edge_ser_train.method.model import EmotionNet

Write: TypeAlias = "Callable[[Manifest, Path], int]"
"""Writes what was built with a manifest; returns the bytes it takes on the device."""


@dataclass(frozen=True)
class Format:
    """One format of exported models."""

    suffix: str
    """Of the file; empty: a folder of source files."""
    build: Callable[[EmotionNet, QuantizedNet | None], Write]
    """Make the network's graph or constants, in float or in integers."""
    open: Callable[[Path], Backend]
    """Check what was written and load it."""
    engine: Callable[[], str]
    """What it is verified in."""
    int8_scheme: str
    """How its int8 files compute."""
    head_macs_int8: bool
    """Whether GRU and FC multiply integers in int8 files."""


_SCORES_BYTES = 1536  # room in a TFLite file for its own scores: a longer manifest would be written behind all else


def _onnx(net: EmotionNet, quantized: QuantizedNet | None) -> Write:
    graph = build_graph(net, quantized)
    digest = graph_sha256(graph)
    return lambda manifest, path: path.write_bytes(serialise(graph, replace(manifest, graph_sha256=digest)))


def _tflite(net: EmotionNet, quantized: QuantizedNet | None) -> Write:
    graph = build_tflite(net, quantized)
    return lambda manifest, path: path.write_bytes(seal_tflite(graph, manifest.to_json() + " " * _SCORES_BYTES))


def _eser(net: EmotionNet, quantized: QuantizedNet | None) -> Write:
    constants = _constants(net, quantized)
    return lambda manifest, path: path.write_bytes(build_eser(constants, manifest))


def _c(net: EmotionNet, quantized: QuantizedNet | None) -> Write:
    constants = _constants(net, quantized)

    def write(manifest: Manifest, path: Path) -> int:
        source = build_c(constants, manifest)
        source.write(path)
        return source.flash_bytes

    return write


def _constants(net: EmotionNet, quantized: QuantizedNet | None) -> dict[str, AnyArray]:
    if quantized is None:
        raise ValueError("the C library has no float form")
    return constants_of(net, quantized)


def _open_file(path: Path) -> Backend:
    return open_backend(read_model_file(path))


def _version_of(package: str) -> Callable[[], str]:
    def named() -> str:
        from importlib.metadata import version

        return f"{package} {version(package)}"

    return named


def _library_version() -> str:
    return f"edge-ser {__version__}'s C library"


_ALL_INTEGERS = "int8: everything behind the features in integers (uint8 x int8, GRU state int16), the same bits on every target"

FORMATS = {
    "onnx": Format(
        BACKENDS["onnx"],
        _onnx,
        _open_file,
        _version_of("onnxruntime"),
        "int8: convolutions in integers (uint8 x int8), GRU and FC as int8 weights expanded to float when loaded",
        head_macs_int8=False,
    ),
    "tflite": Format(
        BACKENDS["tflite"],
        _tflite,
        _open_file,
        _version_of("ai-edge-litert"),
        "int8: convolutions in integers (int8 x int8), GRU and FC in integers on activations quantised as they come",
        head_macs_int8=True,
    ),
    "c": Format("", _c, CModel.of_sources, compiler_version, _ALL_INTEGERS, head_macs_int8=True),
    "eser": Format(BACKENDS["native"], _eser, _open_file, _library_version, _ALL_INTEGERS, head_macs_int8=True),
}
"""``c`` and ``eser`` hold the same integers: as source for firmware, and as a file for the native backend."""

INTEGERS_ONLY = ("c", "eser")


def install(written: Path, output: Path) -> None:
    """Copy a file, or a folder's files one by one, to where they were asked for."""
    if written.is_dir():
        output.mkdir(exist_ok=True)
        for file in sorted(written.iterdir()):
            install(file, output / file.name)
        return
    with writing(output, "the model", ExportError) as stream:
        stream.write(written.read_bytes())
