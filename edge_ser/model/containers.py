"""What a model file holds, by its suffix, read without any engine."""

from __future__ import annotations

from collections.abc import Callable

from edge_ser.model.eser_file import read_eser
from edge_ser.model.graph import Contents
from edge_ser.model.onnx_file import read_onnx
from edge_ser.model.tflite_file import read_tflite

CONTAINERS: dict[str, Callable[[bytes], Contents]] = {".onnx": read_onnx, ".tflite": read_tflite, ".eser": read_eser}
"""By file suffix: a function from a file's bytes to what they hold."""
