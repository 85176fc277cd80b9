"""Print what every target computes, as hashes; equal rows mean equal bits. python -m tests.firmware.exactness

Targets whose compiler or emulator is missing are named as such.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_ser.model.c_source import source_of
from tests.firmware.targets import CLIP_S, EXAMPLES, ROOT, TARGETS, Board, Linux, RiscV, execute
from tests.needs import missing

PROGRAM = Path(__file__).with_suffix(".c")
SPEECH = ROOT / "tests" / "golden" / "synthetic_speech.flac"
COLUMNS = ("kernels", "features", "network", "answers")


def clip_source(folder: Path) -> Path:
    """Write the recording as a C array and return the file."""
    path = folder / "clip.c"
    path.write_text(execute([sys.executable, EXAMPLES / "clip.py", SPEECH, str(CLIP_S)]))
    return path


def hashes(target: Board | Linux | RiscV, model: Path, folder: Path) -> list[tuple[str, ...]]:
    """Return a row of COLUMNS for every set of kernels that the target has."""
    settings = [f"MAIN={PROGRAM}", f"PYTHON={sys.executable}"]
    if not isinstance(target, Board):
        settings.append(f"CLIP={clip_source(folder)}")
    rows = [tuple(line.split()) for line in target.run(model, folder, *settings).splitlines()]
    if not rows or any(len(row) != len(COLUMNS) for row in rows):
        raise RuntimeError(f"{target.name}: expected rows of {', '.join(COLUMNS)}; got {rows}")
    return rows


def matrix(model: Path) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Yield every target's name and its rows, none where a tool is missing."""
    for target in TARGETS:
        if missing(*target.tools):
            yield target.name, []
            continue
        with tempfile.TemporaryDirectory() as folder:
            yield target.name, hashes(target, model, Path(folder))


def main() -> int:
    """Print the table of the model that ships; return 1 when two rows differ."""
    print(f"{'target':24}{'':2}" + "".join(f"{column:10}" for column in COLUMNS))
    found = set()
    with tempfile.TemporaryDirectory() as model:
        source_of().write(Path(model))
        for name, rows in matrix(Path(model)):
            for row in rows or [("not installed",)]:
                print(f"{name:24}{'':2}" + "".join(f"{text:10}" for text in row), flush=True)
            found |= {row[1:] for row in rows}
    print("all equal" if len(found) == 1 else f"{len(found)} different results")
    return int(len(found) != 1)


if __name__ == "__main__":
    sys.exit(main())
