"""Damage to files, drawn from a seed: flipped bits, lost and swapped pieces, and values that no file should hold."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

DEEP = 100_000
# In JSON and, but for the last, in TOML; each stands where a good value stood.
VALUES = {
    "a huge integer": str(10**400),
    "2^63": str(2**63),
    "2^40": str(2**40),
    "a negative number": "-1",
    "1e308": "1e308",
    "an empty list": "[]",
    "nothing": '""',
    "a long text": '"' + 500_000 * "x" + '"',
    "an escape": '"\\u0000"',
    "true": "true",
    "deep lists": DEEP * "[" + DEEP * "]",
    "an object": '{"a": [1]}',
    "no number": "NaN",
    "an infinity": "-Infinity",
    "null": "null",
    "half a letter": '"\\ud800"',
}
TOML_VALUES = {name: text for name, text in VALUES.items() if name not in ("null", "half a letter", "an object")}
TOML_VALUES |= {"no number": "nan", "an infinity": "-inf", "an object": "{ a = [1] }"}
MARK = "\ufff0"


def damaged(name: str, content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """The content of a file of that name with one thing wrong, and what that is."""
    kinds: list[Callable[[bytes, random.Random], tuple[bytes, str]]] = [_flip, _cut, _swap, _erase, _noise, _empty]
    suffix = name.rpartition(".")[2]
    kinds += {"json": 9 * [_json], "jsonl": 9 * [_json_line], "toml": 9 * [_toml]}.get(suffix, [])
    kinds += {"safetensors": 6 * [_tensor_header] + 2 * [_length], "gguf": 6 * [_number]}.get(suffix, [])
    for kind in rng.sample(kinds, len(kinds)):
        made, what = kind(content, rng)
        if made != content:
            return made, what
    raise ValueError(f"{name} cannot be damaged")


def _flip(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    data, count = bytearray(content), rng.choice((1, 1, 2, 8, 64))
    for _ in range(count if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data), f"{count} bits flipped"


def _cut(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    length = rng.randrange(len(content)) if content else 0
    return content[:length], f"cut off at {length}"


def _pieces(content: bytes, rng: random.Random) -> tuple[int, int, int]:
    """Two places and a length that fits behind both."""
    size = min(rng.choice((1, 16, 512, 4096)), max(1, len(content) // 2))
    first, second = (rng.randrange(max(1, len(content) - size + 1)) for _ in range(2))
    return first, second, size


def _swap(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    first, second, size = _pieces(content, rng)
    data = bytearray(content)
    data[first : first + size], data[second : second + size] = (
        content[second : second + size],
        content[first : first + size],
    )
    return bytes(data), f"{size} bytes at {first} and {second} swapped"


def _erase(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    first, _, size = _pieces(content, rng)
    return content[:first] + bytes(len(content[first : first + size])) + content[first + size :], f"zeros at {first}"


def _noise(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    first, _, size = _pieces(content, rng)
    return content[:first] + rng.randbytes(size) + content[first + size :], f"noise at {first}"


def _empty(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    return b"", "empty"


def _number(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A number of a header, which ends in the first pages, is another."""
    place = rng.randrange(min(len(content), 4096))
    huge = struct.pack("<Q", rng.choice((2**63, 2**40, 2**64 - 1, 2**31)))
    return content[:place] + huge + content[place + 8 :], f"a huge number at {place}"


def _length(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    length = rng.choice((0, 2**63, 2**32, len(content) + 1, 7))
    return struct.pack("<Q", length) + content[8:], f"header length {length}"


def _tensor_header(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header, what = _json(content[8:end], rng)
    return struct.pack("<Q", len(header)) + header + content[end:], f"header: {what}"


def _json(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """One value is another, or gone."""
    value = json.loads(content)
    places = list(_places(value))
    if not places:
        return content, ""
    owner, key = rng.choice(places)
    if rng.random() < 0.1:
        del owner[key]
        return json.dumps(value).encode(), f"{key} gone"
    name = rng.choice(list(VALUES))
    owner[key] = MARK
    return json.dumps(value).replace(json.dumps(MARK), VALUES[name], 1).encode(), f"{key} is {name}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each list or object with each of its keys, of all levels."""
    pending = [value]
    while pending:
        one = pending.pop()
        items = list(one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ())
        yield from ((one, key) for key, _ in items)
        pending += [inner for _, inner in items]


def _json_line(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    lines = content.splitlines()
    number = rng.randrange(len(lines))
    lines[number], what = _json(lines[number], rng)
    return b"\n".join(lines) + b"\n", f"line {number + 1}: {what}"


def _toml(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    lines = content.decode().splitlines()
    number = rng.choice([index for index, line in enumerate(lines) if re.match(r"\w+ = ", line)])
    key, name = lines[number].partition(" =")[0], rng.choice(list(TOML_VALUES))
    lines[number] = f"{key} = {TOML_VALUES[name]}"
    return ("\n".join(lines) + "\n").encode(), f"{key} is {name}"
