"""What a parquet file will unpack to, by the headers of its pages: its footer says whatever its writer wants.

A few kilobytes can hold gigabytes, packed pages as well as runs of equal values. Footer and headers are structs of
Thrift's compact protocol, which is read here: pyarrow ends the process where some of their fields are nonsense.
The index of a shard set is read in ``shard_set.py``.
"""

from __future__ import annotations

from typing import Any

MOST_FOOTER = 1 << 20  # bytes; that of an index has some thousand
MOST_COLUMNS = 1000  # an index has 25 elements in its schema
MOST_PAGES = 100_000
DEEPEST = 10  # structs in structs
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, TEXT, LIST, SET, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12

Struct = dict[int, Any]  # by the number of a field; true and false are left out


class BadParquetError(Exception):
    """What is wrong with a file, as the end of a sentence that its name begins."""


def unpacked(raw: bytes) -> tuple[int, int, dict[str, int]]:
    """Rows, the bytes that all pages unpack to, and the values of each column; BadParquetError for nonsense.

    The numbers are those of parquet.thrift.
    """
    if len(raw) < 12 or raw[:4] != b"PAR1" or raw[-4:] != b"PAR1":
        raise BadParquetError("is not a parquet file")
    if (length := int.from_bytes(raw[-8:-4], "little")) > min(MOST_FOOTER, len(raw) - 12):
        raise BadParquetError(f"says that its footer has {length} bytes, an index has at most {MOST_FOOTER}")
    try:
        footer, _ = _struct(raw, len(raw) - 8 - length, 0)
        groups, columns = footer[4], footer[2]
        if len(columns) > MOST_COLUMNS:
            raise BadParquetError(f"has {len(columns)} columns")
        values: dict[str, int] = {}
        size = pages = 0
        for column in (chunk[3] for group in groups for chunk in group[1]):
            name = column[3][0].decode()
            at = min(column[9], column.get(11) or column[9])
            end = at + column[7]
            if not 4 <= at <= end <= len(raw):
                raise BadParquetError("has pages outside the file")
            while at < end:
                header, at = _struct(raw, at, 0)
                pages += 1
                if min(header[2], header[3]) < 0 or pages > MOST_PAGES:
                    raise BadParquetError("has pages that are none")
                size, at = size + header[2], at + header[3]
                values[name] = values.get(name, 0) + (header.get(5) or header.get(8) or {1: 0})[1]
        rows = footer[3]
        if rows < 0 or sum(group[3] for group in groups) != rows:
            raise BadParquetError(f"says that it has {rows} rows, its parts have others")
    except (LookupError, TypeError, AttributeError, UnicodeDecodeError):
        raise BadParquetError("has a footer or pages that are none") from None
    return rows, size, values


def _struct(raw: bytes, at: int, depth: int) -> tuple[Struct, int]:
    """The struct that begins at ``at``, and where it ends."""
    if depth > DEEPEST:
        raise BadParquetError("is nested too deeply")
    found: Struct = {}
    field = 0
    while head := raw[at]:
        kind, step = head & 15, head >> 4
        field, at = (field + step, at + 1) if step else _number(raw, at + 1)
        if kind not in (TRUE, FALSE):
            found[field], at = _value(raw, at, kind, depth)
    return found, at + 1


def _value(raw: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (I16, I32, I64):
        return _number(raw, at)
    if kind in (TRUE, FALSE, BYTE):  # of a list
        return raw[at], at + 1
    if kind == DOUBLE:
        return None, at + 8
    if kind == TEXT:
        length, at = _varint(raw, at)
        return raw[at : at + length], at + length
    if kind == STRUCT:
        return _struct(raw, at, depth + 1)
    if kind not in (LIST, SET):
        raise BadParquetError("has a footer or pages that are none")
    length, of = raw[at] >> 4, raw[at] & 15
    length, at = _varint(raw, at + 1) if length == 15 else (length, at + 1)
    items = []
    for _ in range(length):
        if at >= len(raw):
            raise BadParquetError("has a footer or pages that are none")
        item, at = _value(raw, at, of, depth + 1)
        items.append(item)
    return items, at


def _number(raw: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(raw, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (raw[at + shift // 7] & 127) << shift
        if raw[at + shift // 7] < 128:
            return value, at + shift // 7 + 1
    raise BadParquetError("has a footer or pages that are none")
