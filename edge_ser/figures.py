"""Where every picture begins: a figure of matplotlib, which is kept from writing into the user's home."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**settings: Any) -> Figure:
    """Return an empty figure; ``settings`` are those of matplotlib.figure.Figure. Needs matplotlib.

    matplotlib makes a folder and a list of the fonts in the home when it is first imported, and complains at length where it
    cannot. Here both lie in a folder that is gone at once; the price is a look at the fonts each time. A caller who imported
    matplotlib before, or chose MPLCONFIGDIR, keeps it.
    """
    if "matplotlib" not in sys.modules and "MPLCONFIGDIR" not in os.environ:
        before = dict(os.environ)
        with tempfile.TemporaryDirectory() as folder:
            # fc-list, which matplotlib runs, has a cache of its own.
            os.environ |= {"MPLCONFIGDIR": folder, "XDG_CACHE_HOME": folder}
            try:
                import matplotlib.font_manager  # noqa: F401
            finally:
                os.environ.clear()
                os.environ.update(before)
    from matplotlib.figure import Figure

    return Figure(**settings)
