"""Write a model, and a person if their profile is given, as C source for the examples: python model.py [MODEL.eser] [ME.json]

Without a model, it is the one that comes with edge-ser; without a profile, eser_person.c is removed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_ser import EdgeSerError
from edge_ser.model.c_source import source_of
from edge_ser.model.manifest import read_model_file, shipped_model_path
from edge_ser.personal.c_source import write_person
from edge_ser.personal.profile import Profile

if __name__ == "__main__":
    folder = Path(__file__).parent / "model"
    given = [Path(name) for name in sys.argv[1:]]
    profiles = [path for path in given if path.suffix == ".json"]
    path = next((path for path in given if path.suffix != ".json"), None)
    try:
        source = source_of(path)
        source.write(folder)
        if profiles:
            write_person(Profile.load(profiles[0]), read_model_file(path or shipped_model_path(".eser")).manifest, folder)
        else:
            for name in ("eser_person.c", "eser_person.h"):
                (folder / name).unlink(missing_ok=True)
    except EdgeSerError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    print(f"{folder}: {source.flash_bytes / 1000:.0f} KB of constants")
