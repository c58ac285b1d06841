"""Ways to spoil what a reader expects: values in a tree, text of a file, bytes. All draw from one ``Random``."""

from __future__ import annotations

import copy
import gzip
import json
import random
import re
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 2**31, 2**53, 2**63, 10**30, 10**400, -(10**400)),
    *(float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 1e39, 5e-324),
    *("", " ", "x", "12", "1e-3", "nan", "no", "x" * 3000, "a\nb", "\0", "\ud800", "é", "１２", "../x", "/x", "~"),
    *("s3://b/x", "${oc.env:HOME}", "???", "a" * 300 + "/b", "C:\\x", "%s%n{0}", "\x1b[31m"),
    *([], {}, [[]], [None], {"": 0}, [0] * 2000, {"a": {"b": {"c": []}}}),
)
TOKENS = ("NaN", "-Infinity", "9" * 5000, "1e999", "-", "0x10", "01", "1_000", ".5", '"', "[" * 40, "{}", "\\ud800")
CONTENTS: tuple[bytes, ...] = (
    *(b"", b" \n", b"\0", b"\xff\xfe", b"null", b"3", b'"x"', b"[]", b"{}", b"[[[]]]", b"<!DOCTYPE html><p>404"),
    *(b"[" * 100_000, b'{"a":' * 5_000, b"9" * 5_000, b"PK\x03\x04", b"\x80\x04K\x01.", b"\x1f\x8b", b"- " * 3000),
    *(b"\xef\xbb\xbf{}", b"&a [*a]", b"a: &a [0]\nb: &b [*a, *a]\nc: [*b, *b]\n", b"a: 2026-99-99\n", b"? [1]\n: 2"),
)


def spots(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a tree of dicts and lists."""
    for key in node if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from spots(node[key])


def tree(document: Any, rng: random.Random, *, times: int = 1) -> Any:
    """A copy with so many values dropped, replaced, renamed, doubled, swapped or wrapped."""
    document = copy.deepcopy(document)
    for _ in range(times):
        depths = list(spots(document))
        if not depths:
            return rng.choice(VALUES)
        # half of the time near the top: most spots are numbers in long lists
        node, key = rng.choice([d for d in depths if d[0] is document] if rng.random() < 0.3 else depths)
        value = node[key]
        kind = rng.choice(("replace", "replace", "drop", "double", "swap", "wrap", "rename", "nudge"))
        if kind == "drop":
            del node[key]
        elif kind == "double" and isinstance(node, list):
            node.insert(key, copy.deepcopy(value))
        elif kind == "swap":
            other, place = rng.choice(depths)
            if not isinstance(value, dict | list) and not isinstance(other[place], dict | list):
                node[key], other[place] = other[place], value
        elif kind == "wrap":
            node[key] = rng.choice(([value], {"x": value}, str(value)))
        elif kind == "rename" and isinstance(node, dict):
            node[rng.choice((key + "x", key.upper(), "", key[:-1]))] = node.pop(key)
        elif kind == "nudge" and type(value) in (int, float) and abs(value) < 1e300:
            node[key] = rng.choice((-value, value + 1, value * 1e6, value / 3, float(value)))
        else:
            node[key] = copy.deepcopy(rng.choice(VALUES))
    return document


def text(content: bytes, rng: random.Random) -> bytes:
    """A copy with a token, an encoding or the whole replaced."""
    kind = rng.choice(("token", "token", "cut", "flip", "whole", "encoding", "tail", "line", "gzip"))
    if kind == "token":
        found = list(re.finditer(rb"-?\d+(\.\d+)?|\"[^\"]*\"|[\[\]{}:,]", content))
        if found:
            one = rng.choice(found)
            return content[: one.start()] + rng.choice(TOKENS).encode() + content[one.end() :]
    if kind == "whole":
        return rng.choice(CONTENTS)
    if kind == "encoding":
        decoded = content.decode("utf-8", "replace")
        return rng.choice(
            (decoded.encode("utf-16"), decoded.replace("a", "é").encode("latin-1"), b"\xef\xbb\xbf" + content)
        )
    if kind == "tail":
        return content + rng.choice((b"\0", b"}", b"]", content, b"\n\xff"))
    if kind == "line":
        lines = content.split(b"\n")
        at = rng.randrange(len(lines))
        return b"\n".join([*lines[: at + 1], *lines[at : at + 1], *lines[at + 1 :]])
    if kind == "gzip":
        packed = gzip.compress(content, mtime=0)
        return rng.choice((packed[: rng.randrange(2, len(packed))], data(packed, rng)))
    return data(content, rng)


def data(content: bytes, rng: random.Random) -> bytes:
    """A copy cut, flipped, swapped, overwritten or with something put in; never the same."""
    if not content:
        return b"\0"
    size = len(content)
    at, end = sorted((rng.randrange(size), rng.randrange(size)))
    kind = rng.choice(("cut", "block", "flip", "flip", "zero", "drop", "insert", "swap"))
    if kind == "cut":
        return content[:at]
    if kind == "block" and size > 512:
        return content[: rng.randrange(-(-size // 512)) * 512]
    if kind == "zero" and any(content[at : end + 1]):
        return content[:at] + bytes(end + 1 - at) + content[end + 1 :]
    if kind == "drop":
        return content[:at] + content[min(end, at + 700) + 1 :]
    if kind == "insert":
        return content[:at] + rng.randbytes(rng.choice((1, 7, 512))) + content[at:]
    if kind == "swap" and size > 2048:
        one, other = sorted(rng.sample(range(size // 512), 2))
        blocks = [content[i : i + 512] for i in range(0, size, 512)]
        blocks[one], blocks[other] = blocks[other], blocks[one]
        if b"".join(blocks) != content:
            return b"".join(blocks)
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def dumps(document: Any) -> bytes:
    """JSON, also of what JSON does not know."""
    return json.dumps(document).encode()
