"""Damage to files, as disks, downloads, editors and attackers do it."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What a number, a name or a list of a JSON file may have become.
NASTY: tuple[Any, ...] = (None, "", "x", "../../outside", "/etc/passwd", -1, 0, 3, 10**30, 1e308, True, [], {}, [[]])


def truncate(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def empty(content: bytes, chance: random.Random) -> bytes:
    return b""


def flip(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def overwrite(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    return content[:start] + chance.randbytes(min(64, len(content) - start)) + content[start + 64 :]


def extend(content: bytes, chance: random.Random) -> bytes:
    return content + chance.randbytes(8)


def nest(content: bytes, chance: random.Random) -> bytes:
    return b"[" * 100_000


def replace_value(content: bytes, chance: random.Random) -> bytes:
    """Another value somewhere in a JSON file."""
    document = json.loads(content)
    holder, name = chance.choice(_places(document))
    holder[name] = chance.choice(NASTY)
    return json.dumps(document).encode()


def remove_value(content: bytes, chance: random.Random) -> bytes:
    document = json.loads(content)
    holder, name = chance.choice(_places(document))
    del holder[name]
    return json.dumps(document).encode()


def not_a_number(content: bytes, chance: random.Random) -> bytes:
    document = json.loads(content)
    holder, name = chance.choice(_places(document))
    holder[name] = float("nan")
    return json.dumps(document).encode()


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every value of a document, as what holds it and under which name."""
    found, rest = [], [document]
    while rest:
        holder = rest.pop()
        names = holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for name in list(names):
            found.append((holder, name))
            rest.append(holder[name])
    return found


OF_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (truncate, empty, flip, overwrite, extend)
OF_JSON = (*OF_BYTES, nest, replace_value, replace_value, remove_value, not_a_number)


def damage(file: Path, kind: Callable[[bytes, random.Random], bytes], chance: random.Random) -> None:
    """Damage a file; a link is replaced by a file, so that what it leads to stays as it is."""
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(kind(content, chance) if content else b"x")
