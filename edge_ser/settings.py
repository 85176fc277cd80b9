"""Settings by name: NAME=VALUE of a command line, and configuration dataclasses built from plain values."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

from edge_ser.errors import ConfigError, did_you_mean

_T = TypeVar("_T")

_EXPECTED = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


def parse_setting(setting: str) -> tuple[str, Any]:
    """Return name and value of NAME=VALUE, the value as JSON has it or, a bare word, as text; ConfigError without an ``=``.

    >>> parse_setting("loss.alpha=0.5"), parse_setting("precision=float32")
    (('loss.alpha', 0.5), ('precision', 'float32'))
    """
    name, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(f"setting {setting!r}; expected NAME=VALUE")
    try:
        return name.strip(), json.loads(text)
    except ValueError:
        return name.strip(), text


def build(kind: type[_T], table: dict[str, Any], where: str = "") -> _T:
    """Build a configuration dataclass, and those inside it, from plain values; every mistake is a ConfigError naming the place.

    Fields are numbers, booleans, text, tuples of text, mappings of text to text, or such dataclasses.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in table.items():
        place = f"{where}.{key}" if where else key
        if key not in hints:
            raise ConfigError(f"unknown setting {place!r}{_expected_instead(key, hints, where)}")
        expected = hints[key]
        if is_dataclass(expected) and isinstance(value, dict):
            value = build(cast(type, expected), value, place)
        elif expected is float and type(value) is int:
            value = float(value)
        elif expected == tuple[str, ...] and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            value = tuple(value)
        elif expected == dict[str, str] and isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
            pass
        elif is_dataclass(expected):
            raise ConfigError(f"{place} is {value!r}; it is a section: set {place}.{next(iter(get_type_hints(expected)))} …")
        elif type(value) is not expected:
            raise ConfigError(f"{place} is {value!r}; expected {_EXPECTED.get(expected, expected)}")
        values[key] = value
    return kind(**values)


def _expected_instead(key: str, hints: dict[str, Any], where: str) -> str:
    """Return what an unknown setting may have meant, and what there is."""
    sections = {name: get_type_hints(kind) for name, kind in hints.items() if is_dataclass(kind)}
    plain = ", ".join(name for name in hints if name not in sections)
    if where:
        return f"{did_you_mean(key, hints)}; section {where} has {plain}"
    homes = [f"{name}.{key}" for name, section in sections.items() if key in section]
    near = f" (did you mean '{homes[0]}'?)" if homes else did_you_mean(key, hints)
    inside = f", or a name in a section: {', '.join(f'{name}.…' for name in sections)}" if sections else ""
    return f"{near}; expected {plain}{inside}"
