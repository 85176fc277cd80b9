"""What a manifest's fields may be: small checks that say what was found and what was expected, and JSON that is data alone."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

from edge_ser.errors import ModelFileError

Check: TypeAlias = Callable[[str, Any], None]
"""Raises ModelFileError unless the value (second) of a field (first) is as expected."""

_MAX_TEXT, _MAX_DEPTH, _MAX_WHOLE = 4_000_000, 12, 2**63
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SHOWN = 60


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Raise ModelFileError for a field."""
    shown = ascii(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    raise ModelFileError(f"manifest: {name} is {shown}; expected {expected}")


def text(name: str, value: Any) -> None:
    """Anything but blanks."""
    if not isinstance(value, str) or not value.strip():
        refuse(name, value, "a text")


def whole(name: str, value: Any) -> None:
    """A whole number, 0 or more."""
    if type(value) is not int or not 0 <= value < _MAX_WHOLE:
        refuse(name, value, "a whole number, 0 or more")


def number(low: float, high: float) -> Check:
    """Return a check for numbers within these bounds."""

    def check(name: str, value: Any) -> None:
        if type(value) not in (int, float) or not low <= value <= high:
            refuse(name, value, f"a number from {low:g} to {high:g}")

    return check


def int8s(n: int) -> Check:
    """Return a check for ``n`` bytes in base64."""

    def check(name: str, value: Any) -> None:
        text(name, value)
        try:
            found = len(base64.b64decode(value, validate=True))
        except ValueError:
            found = -1
        if found != n:
            refuse(name, value, f"{n} numbers of 8 bits in base64")

    return check


share = number(0, 1)


def interval(name: str, value: Any) -> None:
    """Two shares, the lower first."""
    several(share)(name, value)
    if len(value) != 2 or value[0] > value[1]:
        refuse(name, value, "two numbers, the lower first")


def several(check: Check, n: int | None = None) -> Check:
    """Return a check for lists, of ``n`` values where that is given."""

    def check_all(name: str, values: Any) -> None:
        if not isinstance(values, (list, tuple)):
            refuse(name, values, "a list")
        if n is not None and len(values) != n:
            refuse(f"the length of {name}", len(values), str(n))
        for i, value in enumerate(values):
            check(f"{name}[{i}]", value)

    return check_all


def table(fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Return a check for tables that have these fields, and maybe the optional ones; others are nobody's concern."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            refuse(name, value, "a table")
        for key, of in fields.items():
            if key not in value:
                raise ModelFileError(f"manifest: {name} has no {key}; the file was edited")
            of(f"{name}.{key}", value[key])
        for key, of in (optional or {}).items():
            if key in value:
                of(f"{name}.{key}", value[key])

    return check


def each(check: Check, at_least: int = 0) -> Check:
    """Return a check for tables of any keys."""

    def check_all(name: str, value: Any) -> None:
        if not isinstance(value, dict) or len(value) < at_least:
            refuse(name, value, f"a table of {at_least} or more")
        for key, item in value.items():
            text(f"a key of {name}", key)
            check(f"{name}.{key}", item)

    return check_all


def load_json(content: str) -> Any:
    """Parse JSON that is finite, of bounded size and depth, without keys that come twice and without control characters."""
    if len(content) > _MAX_TEXT:
        raise ModelFileError(f"manifest: it has {len(content)} characters; expected at most {_MAX_TEXT}")
    try:
        value = json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"manifest: not JSON ({error}); the file was edited or damaged") from None
    _require_plain("", value, 0)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelFileError(f"manifest: {twice!a} comes twice; the file was edited")
    return found


def _require_plain(name: str, value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ModelFileError(f"manifest: {name[:_SHOWN]} is nested more than {_MAX_DEPTH} deep; the file was edited")
    if isinstance(value, str) and _UNPRINTABLE.search(value):
        refuse(name, value, "a text without control characters")
    if isinstance(value, (int, float)) and not abs(value) < _MAX_WHOLE:  # NaN is not below anything
        refuse(name, value, "a finite number below 2^63")
    if isinstance(value, dict):
        for key, item in value.items():
            _require_plain(f"a key of {name}", key, depth + 1)
            _require_plain(f"{name}.{key}" if name else key, item, depth + 1)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _require_plain(f"{name}[{i}]", item, depth + 1)
