"""Options that several verbs share, and NAME=VALUE settings."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_ser.errors import ConfigError, did_you_mean, require_extra
from edge_ser.files import STANDARD_OUTPUT, is_stream
from edge_ser.settings import build, parse_setting

if TYPE_CHECKING:
    from edge_ser.services.mqtt import Broker


class Between(click.FloatRange):
    """A number of a range: NaN, which no comparison refuses, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or fail with what was given and expected."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


model_option = click.option("--model", type=click.Path(path_type=Path), help="Model file; default: the one that ships.")
backend_option = click.option(
    "--backend", default="auto", show_default=True, metavar="NAME", help="auto (by the file or speed), onnx, tflite or native."
)
threads_option = click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="CPU threads for one answer."
)
provider_option = click.option(
    "--provider", default="cpu", show_default=True, metavar="NAME", help="cpu; of ONNX Runtime also cuda, tensorrt."
)
min_confidence_option = click.option(
    "--min-confidence",
    default=0.0,
    type=Between(0, 1),
    metavar="P",
    help="Answer `uncertain` below this confidence, 0 to 1; default: never.",
)
min_speech_option = click.option(
    "--min-speech",
    type=Between(0, 1),
    metavar="P",
    help="Answer `no_speech` below this probability of speech, 0 (never) to 1; default: the model's.",
)
profile_option = click.option(
    "--profile", type=click.Path(path_type=Path), metavar="FILE", help="What calibrate and adapt learnt (JSON)."
)

mqtt_option = click.option(
    "--mqtt",
    "mqtt_url",
    envvar="EDGE_SER_MQTT",
    show_envvar=True,
    metavar="URL",
    help="Publish the answers: mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX], mqtts:// for TLS, or @FILE that holds it.",
)
home_assistant_option = click.option("--home-assistant", is_flag=True, help="With --mqtt: appear in Home Assistant, as sensors.")


def broker_of(url: str | None, home_assistant: bool) -> Broker | None:
    """Return the broker that --mqtt names, if it was given; BadParameter or UsageError where that cannot be."""
    if home_assistant and not url:
        raise click.UsageError("--home-assistant goes with --mqtt")
    if not url:
        return None
    require_extra("mqtt", "paho")
    from edge_ser.services.mqtt import Broker

    try:
        return Broker.from_url(url)
    except ConfigError as error:
        raise click.BadParameter(str(error), param_hint="--mqtt") from None


def print_note(line: str) -> None:
    """Tell something beside the answers, on standard error."""
    click.echo(f"edge-ser: {line}", err=True)


def configured(settings: Iterable[str], *kinds: type[Any]) -> list[Any]:
    """Return one configuration of each of ``kinds``, dataclasses without a name in common, from NAME=VALUE; else BadParameter.

    >>> from edge_ser.live.tone import ToneConfig
    >>> configured(["hold_s=2"], ToneConfig)[0].hold_s
    2.0
    """
    of = {field.name: kind for kind in kinds for field in fields(kind)}
    given: dict[Any, dict[str, Any]] = {kind: {} for kind in kinds}
    try:
        for name, value in map(parse_setting, settings):
            if name not in of:
                raise ConfigError(f"unknown setting {name!r}{did_you_mean(name, of)}; expected {', '.join(of)}")
            given[of[name]][name] = value
        return [build(kind, values) for kind, values in given.items()]
    except ConfigError as error:
        raise click.BadParameter(str(error), param_hint="--set") from None


def require_apart(outputs: Iterable[Path | None], inputs: Iterable[str | Path | None]) -> None:
    """Raise UsageError where a file would be written that is read, or two outputs would be one; None is none."""
    written: list[Path] = []
    for output in filter(None, outputs):
        for other in written:
            may_share = output != STANDARD_OUTPUT and is_stream(output)
            if not may_share and os.path.realpath(output) == os.path.realpath(other):
                raise click.UsageError(f"two outputs are {output}; give each a file of its own")
        written.append(output)
        for source in (name for name in inputs if name is not None):
            with contextlib.suppress(OSError, ValueError):  # one of them is not there
                read = os.fstat(0) if str(source) == "-" else Path(source).stat()
                if output.is_file() and os.path.samestat(output.stat(), read):
                    raise click.UsageError(f"{output} is read, too; write to another file")
