"""The ``edge-ser`` command: its verbs are the modules of ``edge_ser.commands``; other packages' join by entry points."""

from __future__ import annotations

import errno
import importlib
import io
import os
import pkgutil
import sys
import warnings
from typing import TYPE_CHECKING

import click

from edge_ser import commands
from edge_ser._version import __version__
from edge_ser.errors import EdgeSerError
from edge_ser.terminal import complain

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

_OWN = frozenset(module.name for module in pkgutil.iter_modules(commands.__path__) if not module.name.startswith("_"))


def _announced() -> EntryPoints:
    from importlib.metadata import entry_points  # slower to import than all the rest here, and the own verbs need none

    return entry_points(group="edge_ser.commands")


class _Commands(click.Group):
    """The verbs of ``edge_ser.commands`` and those that installed packages announce; imported on use or for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_OWN, *(point.name for point in _announced())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OWN:
            own: click.Command = importlib.import_module(f"edge_ser.commands.{cmd_name}").command
            return own
        for point in _announced().select(name=cmd_name):
            command: click.Command = point.load()
            return command
        return None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Tell how a person sounds: speech emotion recognition on the device, offline.

    It infers how speech sounds, not what a person feels.
    """


def main() -> None:
    """Run the command line; every EdgeSerError becomes one line on standard error and exit status 1, Ctrl-C status 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if sys.platform == "win32" and not stream.isatty() and "PYTHONIOENCODING" not in os.environ:
                stream.reconfigure(encoding="utf-8")  # who reads JSON or CSV does not expect the system's code page
            stream.reconfigure(errors="backslashreplace")  # a terminal without our characters is no reason to stop
    warnings.formatwarning = lambda message, *_, **__: f"edge-ser: warning: {message}\n"
    try:
        sys.exit(cli.main(prog_name="edge-ser", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except EdgeSerError as error:
        complain(error)
        sys.exit(1)
    except OSError as error:
        # Files, sockets and devices are named where they are used: an error without a name is of what was printed.
        is_printing = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        complain(EdgeSerError(f"cannot write standard output: {error.strerror}") if is_printing else error)
        sys.exit(1)
