"""Paths and ``s3://`` are interchangeable: read, write, list, delete. The only package that knows boto3.

A missing file or object is a ``FileNotFoundError``; everything else that goes wrong is a one-line ``StorageError``.
A write is all or nothing: a reader sees the old bytes or the new ones, never a part.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from io import BufferedRandom, BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from icon_dist.errors import ConfigError, StorageError, holds_secret, needed_for, shorten
from icon_dist.storage import local

if TYPE_CHECKING:
    from icon_dist.storage import s3, s3_download  # at run time by is_remote

LONGEST_KEY = 1024  # of S3
Sound = Callable[[bytes], bool]
LOCK = ".lock.json"  # of the process that writes in a folder (lock.py); never listed

# Whoever has asked this process to leave may kill it soon: an outage is then waited out once, not at every call.
leaving = False

Progress = Callable[[int], None]  # called during a download with the number of bytes that have arrived so far


def is_remote(uri: str) -> bool:
    """True for ``s3://``. Its module is imported now: a machine that trains from its disk needs no boto3."""
    if not uri.startswith("s3://"):
        return False
    with needed_for("s3://", "boto3", "tenacity"):
        from icon_dist.storage import s3, s3_download  # noqa: F401  (an import binds a submodule in its package)
    return True


def absolute(uri: str) -> str:
    """The one spelling of a place, independent of the working directory (Ray workers have another).

    >>> absolute("s3://bucket//runs/w48/")
    's3://bucket/runs/w48'
    """
    if not uri or "\0" in uri:
        raise ConfigError(f"path {uri!r}: empty or unusable; give a path or s3://bucket/prefix")
    if holds_secret(uri):
        kind = uri.partition("://")[0]
        raise ConfigError(f"{kind}://***: a URI is stored and shown, so no password may be in it; use AWS_* variables")
    if is_remote(uri):
        bucket, *parts = [part for part in uri.removeprefix("s3://").split("/") if part] or [""]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}", bucket):
            raise ConfigError(f"{uri}: {bucket!r} is not a bucket name; write s3://bucket/prefix")
        if {".", ".."} & set(parts):
            raise ConfigError(f"{uri}: '.' and '..' mean nothing in s3://; write the whole key")
        if len("/".join(parts).encode(errors="surrogateescape")) > LONGEST_KEY or re.search("[\ud800-\udfff]", uri):
            raise ConfigError(f"{shorten(uri)}: a key has {LONGEST_KEY} bytes of UTF-8 at most; write a shorter one")
        return "s3://" + "/".join([bucket, *parts])
    if uri.startswith("file:///"):
        uri = uri.removeprefix("file://")
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", uri):
        raise ConfigError(f"{uri}: {scheme[0]!r} is not supported; use a path (./{uri} if it is a file) or s3://")
    return os.path.abspath(os.path.expanduser(uri))


def join(uri: str, *parts: str) -> str:
    """``uri`` extended by relative ``parts``; it never leaves ``uri``."""
    for part in parts:
        if not part or part.startswith("/") or ".." in PurePosixPath(part).parts or "\0" in part or "://" in part:
            raise ConfigError(f"{uri}: {part!r} is not a relative name inside it")
    return "/".join([uri.rstrip("/"), *parts]) if parts else uri


def exists(uri: str) -> bool:
    """True for a file or object, and for a folder or prefix with something in it."""
    uri = absolute(uri)
    return s3.exists(uri) if is_remote(uri) else local.exists(Path(uri))


def size(uri: str) -> int:
    """Bytes of one file or object."""
    uri = absolute(uri)
    return s3.size(uri) if is_remote(uri) else local.size(Path(uri))


def read(
    uri: str,
    start: int = 0,
    size: int | None = None,
    *,
    most: int | None = None,
    sound: Sound | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Bytes ``[start, start + size)``, fewer where the file ends earlier; all of it by default.

    TooLargeError, before anything is read, for a file of which without ``size`` more than ``most`` bytes would be.
    Bytes from S3 that are not ``sound`` are read once more, because they may be spoilt on the way; what is returned is
    for the caller to check.
    """
    assert start >= 0
    assert size is None or size >= 0
    uri = absolute(uri)
    if is_remote(uri):
        for _ in range(2):
            sink = BytesIO()
            s3_download.download(uri, sink, start=start, size=size, most=most, progress=progress)
            if sound is None or sound(sink.getvalue()):
                break
        return sink.getvalue()
    return local.read(Path(uri), start, size, most=most)


def require_place(uri: str) -> None:
    """Before long work: StorageError if nothing can be written at ``uri``. What S3 allows shows when it is written."""
    uri = absolute(uri)
    if not is_remote(uri):
        local.require_place(Path(uri))


def require_new(option: str, *uris: str, force: bool) -> None:
    """Before long work: ConfigError about ``option`` if one of ``uris`` exists already, unless ``force`` replaces it.

    StorageError if nothing can be written at one of them.
    """
    for uri in uris:
        require_place(uri)
    there = [] if force else [uri for uri in uris if exists(uri)]
    if there:
        exist = f"and {len(there) - 1} more exist" if len(there) > 1 else "exists"
        raise ConfigError(
            f"{option}: {there[0]} {exist} already; give another name, or --force to replace what is there"
        )


def read_resumed(uri: str, part: Path, *, sha256: str, progress: Progress | None = None) -> bytes:
    """All bytes of one object, by way of the file ``part``: an interrupted download goes on from it the next time.

    Where ``sha256`` does not hold, ``part`` held the beginning of another object, or bytes were spoilt on the way: all
    of it is read again. Whether it holds in the end is for the caller to see.
    """
    uri = absolute(uri)
    if not is_remote(uri):
        return local.read(Path(uri), 0, None)
    with local.continued(part) as file:
        _download_twice(uri, file, sha256=sha256, progress=progress)
        file.seek(0)
        data = file.read()
        part.unlink()
    return data


def _download_twice(uri: str, file: BufferedRandom, *, sha256: str | None, progress: Progress | None) -> str:
    """All of an S3 object into ``file``, once more where it is not what it should be. Returns its sha256 if asked."""
    s3_download.download(uri, file, progress=progress)
    if sha256 is None or _sha256(file) == sha256:
        return sha256 or ""
    file.seek(0)
    file.truncate()
    s3_download.download(uri, file, progress=progress)
    return _sha256(file)


def _sha256(file: BufferedRandom) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def write(uri: str, data: bytes | Path) -> None:
    """Create or replace ``uri`` with these bytes, or with the contents of a local file."""
    uri = absolute(uri)
    if is_remote(uri):
        s3.write(uri, data)
    else:
        local.write(Path(uri), data)


def write_new(uri: str, data: bytes) -> bool:
    """Create ``uri`` only if it is absent: of several writers exactly one gets True."""
    uri = absolute(uri)
    return s3.write_new(uri, data) if is_remote(uri) else local.write_new(Path(uri), data)


def has_conditions(uri: str, data: bytes) -> bool:
    """Whether of several writers with ``write_new`` one alone gets True. ``data`` are what lies at ``uri``."""
    uri = absolute(uri)
    return s3.has_conditions(uri, data) if is_remote(uri) else True


def sizes(uri: str) -> dict[str, int]:
    """Bytes of every file below ``uri`` by its name relative to it, sorted; {} when there is nothing."""
    uri = absolute(uri)
    found = s3.sizes(uri) if is_remote(uri) else local.sizes(Path(uri))
    return {name: found[name] for name in sorted(found) if name.rpartition("/")[2] != LOCK}


def listing(uri: str) -> list[str]:
    """Sorted names of all files below ``uri``, relative to it; [] when there is nothing."""
    return list(sizes(uri))


def delete(uri: str, *, tree: bool = False) -> None:
    """Remove one file, or with ``tree`` everything below ``uri``. Nothing there is no error."""
    uri = absolute(uri)
    if is_remote(uri):
        s3.delete(uri, tree=tree)
    else:
        local.delete(Path(uri), tree=tree)


def copy_to(uri: str, path: Path, *, expect_sha256: str | None = None, progress: Progress | None = None) -> None:
    """Copy one file or object to a local ``path``, which appears whole and verified or not at all."""
    uri = absolute(uri)
    with local.replacing(path) as file:
        if is_remote(uri):
            found = _download_twice(uri, file, sha256=expect_sha256, progress=progress)
        else:
            local.copy_into(Path(uri), file)
            found = "" if expect_sha256 is None else _sha256(file)
        if expect_sha256 is not None and found != expect_sha256:
            raise StorageError(f"{uri}: sha256 is {found}, expected {expect_sha256}; the file is damaged")
