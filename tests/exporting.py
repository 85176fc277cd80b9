"""An export in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_ser_export.exporter import make_files
from edge_ser_export.material import gather
from edge_ser_export.report import FileReport


def export_run(run: Path, outputs: Mapping[str, Path], report: Path | None = None, **of: Any) -> list[FileReport]:
    """Write the run as model files; ``of`` are the options of :func:`gather`."""
    material = gather(run, outputs, lambda line: None, **of)
    return make_files(material, outputs, lambda line: None, report)
