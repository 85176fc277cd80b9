"""PyInstaller finds the hook in this folder through the entry point ``pyinstaller40``."""

from __future__ import annotations


def get_hook_dirs() -> list[str]:
    """Return the folders with hooks."""
    return __path__
