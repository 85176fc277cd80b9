"""Write a model as C source for the examples: python model.py [MODEL.eser]; without one, the model that comes with edge-ser."""

from __future__ import annotations

import sys
from pathlib import Path

from edge_ser import EdgeSerError
from edge_ser.model.c_source import source_of

if __name__ == "__main__":
    folder = Path(__file__).parent / "model"
    try:
        source = source_of(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except EdgeSerError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    source.write(folder)
    print(f"{folder}: {source.flash_bytes / 1000:.0f} KB of constants")
