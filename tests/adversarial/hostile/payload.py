"""Malicious bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from icon_dist.shards.shard_set import index_schema
from icon_dist.storage import hashed_json


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.canary,)


def code(canary: Path) -> bytes:
    return pickle.dumps(Touch(canary))


def torch_code(canary: Path, *, legacy: bool = False) -> bytes:
    """A .pth whose pickle has code in it."""
    sink = io.BytesIO()
    torch.save(
        {"state_dict": {"w": torch.zeros(2)}, "x": Touch(canary)}, sink, _use_new_zipfile_serialization=not legacy
    )
    return sink.getvalue()


def torch_class(name: str) -> bytes:
    """A .pth of the old format whose pickle asks for a class by name."""
    sink = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(2)}, "x": Fraction(1)}, sink, _use_new_zipfile_serialization=False)
    module, _, kind = name.rpartition(".")
    return sink.getvalue().replace(b"cfractions\nFraction\n", f"c{module}\n{kind}\n".encode())


def torch_bomb() -> bytes:
    """A .pth of a few megabytes with a gigabyte in it."""
    plain = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, plain)
    sink = io.BytesIO()
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for name in source.namelist():
            with target.open(name, "w", force_zip64=True) as member:
                member.write(source.read(name))
                if "/data/" in name:
                    for _ in range(1000):
                        member.write(bytes(1 << 20))
    return sink.getvalue()


def safetensors_header(text: bytes, *, size: int | None = None) -> bytes:
    return (len(text) if size is None else size).to_bytes(8, "little") + text


def gzip_bomb(mebibytes: int) -> bytes:
    return gzip.compress(b" " * (1 << 20), mtime=0) * mebibytes


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def _frame(width: int, height: int) -> bytes:
    body = struct.pack(">BHHB", 8, height, width, 3) + bytes((1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0))
    return b"\xff\xc0" + struct.pack(">H", len(body) + 2) + body


def jpeg_with_frame(good: bytes, width: int, height: int) -> bytes:
    """``good`` with another size in its header."""
    at = good.index(b"\xff\xc0")
    return good[:at] + _frame(width, height) + good[at + 2 + int.from_bytes(good[at + 2 : at + 4], "big") :]


def jpeg_of_two_sizes(good: bytes, width: int, height: int) -> bytes:
    """A stand-alone marker, which has no length: who reads one skips the large frame that a decoder finds."""
    frame = _frame(width, height)
    skipped = frame + b"\xff\xfe" + struct.pack(">H", 0xFFC0 - len(frame) - 2 + 2)
    hole = bytes(0xFFC0 - len(skipped))  # the two bytes after the marker, FF C0, read as a length
    return b"\xff\xd8\xff\x01" + skipped + hole + good[2:]


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for header, data in members:
            header.size = len(data)
            file.addfile(header, io.BytesIO(data))
    return sink.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def index_bomb(rows: int, *, joints: int = 17) -> bytes:
    """Equal rows pack to next to nothing."""
    schema = index_schema(joints)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        columns = []
        part = 1 << 16
        for field in schema:
            if pa.types.is_fixed_size_list(field.type):
                flat = pa.array(np.zeros(part * field.type.list_size), field.type.value_type)
                columns.append(pa.FixedSizeListArray.from_arrays(flat, field.type.list_size))
            elif pa.types.is_string(field.type):
                columns.append(pa.array(["0"] * part))
            else:
                columns.append(pa.array(np.zeros(part), field.type))
        batch = pa.record_batch(columns, schema=schema)
        for _ in range(rows // part):
            writer.write_batch(batch)
    return sink.getvalue()


def vouch(folder: Path, name: str, data: bytes) -> None:
    """A shard set's file replaced, and its manifest says that this is right."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_bytes(hashed_json.sealed(manifest))


# ----------------------------------------------------------------------------------- parquet in Thrift's protocol


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _whole(step: int, kind: int, number: int) -> bytes:
    return bytes([step << 4 | kind]) + _varint((number << 1) ^ (number >> 63))


def _named(step: int, name: bytes) -> bytes:
    return bytes([step << 4 | 8]) + _varint(len(name)) + name


def node(name: bytes, children: int) -> bytes:
    """An element of a schema with others below it."""
    return _whole(3, 5, 0) + _named(1, name) + _whole(1, 5, children) + b"\0"


def leaf(name: bytes) -> bytes:
    return _whole(1, 5, 1) + _whole(2, 5, 0) + _named(1, name) + b"\0"


def parquet(schema: list[bytes], *, rows: int = 0, claim: int | None = None) -> bytes:
    """A file without rows, whose footer says ``rows``, and ``claim`` elements of its schema."""
    count = len(schema) if claim is None else claim
    footer = _whole(1, 5, 1) + b"\x19\xfc" + _varint(count) + b"".join(schema) + _whole(1, 6, rows) + b"\x19\x0c\0"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
