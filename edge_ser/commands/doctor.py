"""``edge-ser doctor``."""

from __future__ import annotations

import sys

import click


@click.command(short_help="Say whether edge-ser works here, and what stands in its way.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def command(as_json: bool) -> None:
    """Look at the machine and what is installed, let every engine and provider answer, and say what should be mended.

    The screen is meant to be pasted into a bug report; it holds no names, addresses or recordings. Exit status 1: edge-ser does
    not work here as it should.
    """
    from edge_ser.diagnose.doctor import diagnose, format_diagnosis

    found = diagnose()
    click.echo(found.to_json() if as_json else format_diagnosis(found))
    if not found.healthy:
        sys.exit(1)
