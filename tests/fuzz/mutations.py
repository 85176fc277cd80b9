"""Changes of a manifest, of bytes and of numbers, and of an .eser file."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import numpy as np

from edge_ser.model.eser_file import constants

WHOLE = (0, 1, -1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, -(2**63), 2**63 - 1)
FLOATS = (0.0, -0.0, 1e-45, -1.0, 1e30, 3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan"))
_JSON: tuple[Any, ...] = (
    None,
    True,
    "",
    " ",
    "\x1b[2J",
    "\ud800",
    [],
    {},
    [0.5],
    -1,
    0,
    10**400,
    2**63,
    1e308,
    -1e308,
    1e-308,
    float("nan"),
    "x" * 10**5,
)


def mutated_manifest(rng: random.Random, text: str) -> str:
    """Change a value anywhere in the JSON, or its text."""
    if rng.random() < 0.2:
        return changed_bytes(rng, text.encode()).decode(errors="replace")
    table = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 3))):
        holder: Any = table
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = rng.choice(keys)
            if not (isinstance(holder[key], (dict, list)) and holder[key] and rng.random() < 0.8):
                break
            holder = holder[key]
        action = rng.random()
        if action < 0.15:
            del holder[key]
        elif action < 0.25 and isinstance(holder, list):
            holder.append(holder[key])
        elif action < 0.3:
            deep: Any = 0
            for _ in range(rng.choice((3, 20, 900))):
                deep = [deep]
            holder[key] = deep
        elif isinstance(holder[key], (int, float)) and rng.random() < 0.5:
            holder[key] = holder[key] * rng.choice((0.5, 2, 10, 1e3, 1e-3, -1))
        else:
            holder[key] = rng.choice(_JSON)
        if not table:
            break
    return json.dumps(table)


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flip, insert, remove or repeat some bytes."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, n = rng.randrange(len(found)), rng.choice((1, 1, 2, 4, 8, 64))
        action = rng.randrange(4)
        if action == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            found[at : at + n] = rng.randbytes(n)
        elif action == 2:
            found[at:at] = found[at : at + n] if rng.random() < 0.5 else rng.randbytes(n)
        else:
            del found[at : at + n]
        if not found:
            return b"\0"
    return bytes(found)


def changed_numbers(rng: random.Random, data: bytes, dtype: str) -> bytes:
    """Put extreme or random numbers into an array: one, a few, or all of them."""
    kind = np.dtype(dtype)
    values = np.frombuffer(data, kind).copy()
    if len(values) == 0:
        return data
    generator = np.random.default_rng(rng.randrange(2**32))
    if kind.kind == "f":
        pool = np.array(FLOATS + tuple(values[:1]), dtype=kind)
        if rng.random() < 0.7:  # nothing that is refused at once
            pool = pool[np.isfinite(pool)]
    else:
        info = np.iinfo(kind)
        pool = np.array([v for v in (info.min, info.max, 0, 1, -1, 2**30, 62) if info.min <= v <= info.max], dtype=kind)
    n = rng.choice((1, 1, 4, len(values)))
    where = generator.integers(0, len(values), n)
    action = rng.random()
    if action < 0.5:
        values[where] = generator.choice(pool, n)
    elif action < 0.7:
        values[:] = generator.choice(pool)
    elif kind.kind == "f":
        with np.errstate(over="ignore"):
            values *= kind.type(rng.choice((1e-30, 1e-6, 1e3, 1e10, -1)))
    else:
        values[:] = np.frombuffer(generator.bytes(values.nbytes), kind)
    changed: bytes = values.tobytes()
    return changed


def mutated_eser(rng: random.Random, content: bytes) -> bytes:
    """Return an .eser file with its seal."""
    length = int.from_bytes(content[12:16], "little")
    text, numbers = content[16 : 16 + length].decode(), content[16 + length :]
    kind = rng.choice(("manifest", "numbers", "numbers", "bytes"))
    table = json.loads(text)
    sha = table["graph_sha256"]
    if kind == "manifest":
        text = mutated_manifest(rng, text)
    elif kind == "numbers":
        for _ in range(rng.choice((1, 3))):
            name = rng.choice(list(places := _places()))
            at, dtype, n = places[name]
            size = n * np.dtype(dtype).itemsize
            changed = changed_numbers(rng, numbers[at : at + size], dtype)
            if rng.random() < 0.8:  # within what the C library may see
                changed = _within(name, changed, dtype)
            numbers = numbers[:at] + changed + numbers[at + size :]
    else:
        numbers = changed_bytes(rng, numbers)
    data = text.replace(sha, hashlib.sha256(numbers).hexdigest()).encode(errors="surrogatepass")
    data += b" " * (-len(data) % 4)
    whole = content[:12] + len(data).to_bytes(4, "little") + data + numbers
    return changed_bytes(rng, whole[:64]) + whole[64:] if rng.random() < 0.05 else whole


def _places() -> dict[str, tuple[int, str, int]]:
    at, found = 0, {}
    for name, (dtype, n) in constants(4).items():
        found[name] = (at, dtype, n)
        at += n * np.dtype(dtype).itemsize
    return found


def _within(name: str, data: bytes, dtype: str) -> bytes:
    limits = {"weight": (-63, 63), "bias": (-(2**30), 2**30), "multiplier": (0, 2**20), "shift": (1, 62)}
    low, high = limits.get(name.rsplit("_", 1)[-1], (-(2**31), 2**31 - 1))
    values = np.frombuffer(data, dtype)
    return bytes((np.nan_to_num(values) if dtype == "<f4" else values.clip(low, high)).astype(dtype).tobytes())
