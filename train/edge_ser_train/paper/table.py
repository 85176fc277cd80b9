"""What the cells measured: OUT/cells/CELL.json as each is done, gathered into one table, OUT/cells.csv, a row a cell.

``python -m edge_ser_train.paper.table OUT`` gathers. In the table text stands as it is and all else as JSON; clips, compactness
and configuration have a column for each of their values.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_ser.errors import RunError
from edge_ser_train.method.run import read_json, write_atomic

Result = dict[str, Any]

_NEEDED = ("corpus", "labels", "protocol", "experiment", "fold", "seed", "clips", "split_sha256", "test_confusion_per_speaker")
_SPREAD = ("clips", "compactness", "config")


def cell_name(corpus: str, n_classes: int, protocol: str, experiment: str, fold: str, seed: int) -> str:
    """Return a cell's path below OUT/runs and OUT/cells; its first part is the place that results are compared within.

    >>> cell_name("iemocap", 4, "paper", "setting-1", "repeat 1 fold 2", 0)
    'iemocap-4-paper/setting-1/repeat-1-fold-2-seed0'
    """
    return f"{corpus}-{n_classes}-{protocol}/{experiment}/{fold.replace(' ', '-') or 'all'}-seed{seed}"


def write_result(out: Path, name: str, result: Result) -> None:
    """Write the results of the cell ``name``."""
    path = out / "cells" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(result, separators=(",", ":")) + "\n")


def has_result(out: Path, name: str) -> bool:
    """Return whether the cell ``name`` has a file of its own in OUT."""
    return (out / "cells" / f"{name}.json").is_file()


def read_results(out: Path) -> dict[str, Result]:
    """Return the results of every cell in OUT by its name, sorted; a cell's own file counts before its row in the table.

    Raises RunError for a damaged file.
    """
    rows = [(str(out / f"cells.csv, row {i}"), row) for i, row in enumerate(_read_table(out / "cells.csv"), start=1)]
    files = [(str(path), read_json(path)) for path in sorted((out / "cells").glob("*/*/*.json"))]
    found = {}
    for where, result in (*rows, *files):
        if missing := [key for key in _NEEDED if key not in result]:
            raise RunError(f"{where} has no {missing[0]!r}; expected the results of a cell as edge-ser reproduce writes them")
        corpus, labels, *rest = (result[key] for key in ("corpus", "labels", "protocol", "experiment", "fold", "seed"))
        found[cell_name(corpus, len(labels), *rest)] = result
    return {name: found[name] for name in sorted(found, key=lambda name: name.split("/"))}


def gather(out: Path) -> int:
    """Move the cells' own files into the table and return how many cells it holds."""
    results, files = read_results(out), sorted((out / "cells").glob("*/*/*.json"))
    rows = [dict(_columns(result)) for result in results.values()]
    names = sorted(dict.fromkeys(name for row in rows for name in row), key=lambda name: name.startswith("config."))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(out / "cells.csv", text.getvalue())
    for file in files:
        file.unlink()
    return len(rows)


def _columns(result: Result, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in result.items():
        if isinstance(value, dict) and value and (prefix or key in _SPREAD):
            yield from _columns(value, f"{prefix}{key}.")
        else:
            is_text = isinstance(value, str) and _value(value) == value
            yield prefix + key, value if is_text else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _value(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell or None


def _read_table(path: Path) -> Iterator[Result]:
    if not path.is_file():
        return
    csv.field_size_limit(sys.maxsize)  # a corpus' points in a picture are longer than the standard one
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                result: Result = {}
                for column, cell in row.items():
                    if cell:
                        *tables, key = column.split(".")
                        place = result
                        for table in tables:
                            place = place.setdefault(table, {})
                        place[key] = _value(cell)
                yield result
    except (OSError, UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise RunError(f"cannot read {path}: {error}") from None


if __name__ == "__main__":
    print(f"{gather(Path(sys.argv[1]))} cells in {sys.argv[1]}/cells.csv")
