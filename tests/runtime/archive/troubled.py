"""Recordings that do something to the process that labels them; where this module is imported, `edge-ser label` obeys.

What a recording does stands in its name: ``once`` ends its process the first time, ``always`` each time, ``after`` the first
time when its part is already written, and ``wait`` keeps it waiting until there is a file NAME.go. UNIT_FILES of the
environment is the size of a unit.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ser.archive import plan, pool, units
from edge_ser.archive.dataset import Dataset
from edge_ser.archive.units import Labeller, Outcome, Unit, label_unit


@dataclass(frozen=True)
class Troubled(Labeller):
    """Does what a recording's name says."""

    def rows(self, file: bytes) -> tuple[list[dict[str, Any]], float]:
        path = Path(os.fsdecode(file))
        if "always" in path.name or ("once" in path.name and first_time(path)):
            os.kill(os.getpid(), signal.SIGKILL)
        if "wait" in path.name:
            path.with_suffix(".pid").write_text(str(os.getpid()))
            while not path.with_suffix(".go").exists():
                time.sleep(0.01)
        return super().rows(file)


def first_time(path: Path) -> bool:
    """Return whether nobody asked before."""
    try:
        path.with_suffix(".seen").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def dying_afterwards(labeller: Labeller, unit: Unit, dataset: Dataset) -> Outcome:
    """Label a unit, and end where it holds such a recording."""
    outcome = label_unit(labeller, unit, dataset)
    if any(b"after" in os.path.basename(file) and first_time(Path(os.fsdecode(file))) for file in unit.files):
        os.kill(os.getpid(), signal.SIGKILL)
    return outcome


# In the other processes too: they import this module to unpickle its labeller
vars(pool)["label_unit"] = dying_afterwards
vars(plan)["Labeller"] = Troubled
if "UNIT_FILES" in os.environ:
    units.FEWEST_FILES = units.MOST_FILES = int(os.environ["UNIT_FILES"])
