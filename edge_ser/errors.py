"""Every error edge-ser raises on purpose.

    EdgeSerError
    ├── AudioError          the audio cannot be read or holds nothing to answer about
    ├── ModelFileError      the model file is damaged, unknown, or at odds with its manifest
    ├── BackendError        the inference engine is missing or refused the model
    ├── ConfigError         a setting is unknown or out of range
    ├── CorpusError         a training or evaluation corpus is missing or inconsistent
    ├── RunError            a training run folder cannot be used as asked
    ├── ExportError         an export failed its verification or cannot be written
    ├── StorageError        the object storage does not answer
    └── MissingExtraError   a command needs an optional extra that is not installed

A message says what was given, what was expected and what to do. The command line prints it as one line and exits with 1.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable


class EdgeSerError(Exception):
    """Base of all errors below; catching it catches every mistake of input or setup, and no bug."""


class AudioError(EdgeSerError):
    """The audio cannot be read, or holds nothing an answer could be about."""


class AudioWarning(UserWarning):
    """The audio can be answered, but something is wrong with it that makes the answer worse."""


class ModelFileError(EdgeSerError):
    """The model file is damaged, of an unknown format, or its graph and manifest disagree."""


class BackendError(EdgeSerError):
    """The inference engine is missing, or refused to load or run the model."""


class ConfigError(EdgeSerError):
    """A setting is unknown, of the wrong type or out of range."""


class CorpusError(EdgeSerError):
    """A corpus is missing, incomplete or inconsistent."""


class RunError(EdgeSerError):
    """A training run folder is missing, unfinished, in use by another configuration, or damaged."""


class ExportError(EdgeSerError):
    """An exported file failed its verification, or could not be written."""


class StorageError(EdgeSerError):
    """The object storage does not answer; no recording is to blame."""


class MissingExtraError(EdgeSerError):
    """A command needs an optional extra; the message holds the pip line that installs it."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known name, or an empty string.

    >>> did_you_mean("hop_mss", ["hop_ms", "frame_ms"])
    " (did you mean 'hop_ms'?)"
    """
    import difflib  # for mistakes alone

    near = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind: an engine's C++ side adds pages.

    >>> first_line(ValueError("no such node\\n  at graph.cc:7")), first_line(KeyboardInterrupt())
    ('no such node', 'KeyboardInterrupt')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def require_extra(extra: str, *modules: str) -> None:
    """Raise MissingExtraError, with the pip line that mends it, unless all of ``modules`` can be imported."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing and getattr(sys, "frozen", False):  # made by PyInstaller or its like, where nothing can be installed
        raise MissingExtraError(
            f"this program was packed without {', '.join(missing)}; install edge-ser itself: pip install 'edge-ser[{extra}]'"
        )
    if missing:
        raise MissingExtraError(f"this command needs {', '.join(missing)}; install with: pip install 'edge-ser[{extra}]'")
