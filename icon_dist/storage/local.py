"""Files on a mounted disk, replaced atomically: a temporary file in the same folder, fsync, rename."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedReader
from pathlib import Path

from icon_dist.errors import StorageError

PARTIAL = ".partial"  # suffix of a file that is being written; never listed


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """OSError -> one line; FileNotFoundError stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # explained already, of another place
            raise
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):  # S3 has no folders: they are no files
            raise FileNotFoundError(f"{path}: no such file") from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(f"{path}: disk full ({error.strerror}); free some space or write elsewhere") from error
        raise StorageError(f"{path}: {error.strerror or error}; check the path and its permissions") from error


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BufferedRandom, Path]]:
    """A temporary file beside ``path``, gone afterwards unless it was renamed."""
    if path.is_dir():
        raise StorageError(f"{path}: is a folder; name a file in it")
    try:
        _make_folder(path.parent)
    except (FileExistsError, NotADirectoryError):
        raise StorageError(f"{path.parent}: is a file, not a folder; write elsewhere") from None
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{PARTIAL}"
    try:
        with open(temporary, "x+b") as file:
            yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)


def require_place(path: Path) -> None:
    """StorageError if it is plain already that no file can be written at ``path``."""
    if path.is_dir():
        raise StorageError(f"{path}: is a folder; name a file in it")
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        raise StorageError(f"{folder}: is a file, not a folder; write elsewhere")
    if not os.access(folder, os.W_OK):
        raise StorageError(f"{folder}: Permission denied; check the path and its permissions")


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """A file to write that becomes ``path`` when the block ends without an error."""
    with _explained(path), _temporary(path) as (file, temporary):
        yield file
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)


@contextmanager
def continued(path: Path) -> Iterator[BufferedRandom]:
    """A file at its end, with what an earlier process has left there; no two processes have it at once."""
    with _explained(path):
        _make_folder(path.parent)
        path.touch()
        with open(path, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(f"{path}: another process is downloading to it; wait for its end") from None
            file.seek(0, os.SEEK_END)
            yield file


@contextmanager
def _regular(path: Path) -> Iterator[BufferedReader]:
    """An open file: of a pipe nobody would see the end, and /dev/zero has none."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise StorageError(f"{path}: is not a regular file (a pipe or device); give a file")
        yield file


def copy_into(path: Path, file: BufferedRandom) -> None:
    with _explained(path), _regular(path) as source:
        shutil.copyfileobj(source, file, 1 << 20)


def exists(path: Path) -> bool:
    if path.is_dir():
        return next(path.iterdir(), None) is not None
    return path.is_file()


def size(path: Path) -> int:
    with _explained(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "")
        return path.stat().st_size


def read(path: Path, start: int, size: int | None) -> bytes:
    with _explained(path), _regular(path) as file:
        file.seek(start)
        return file.read(-1 if size is None else size)


def write(path: Path, data: bytes | Path) -> None:
    with replacing(path) as file:
        if isinstance(data, Path):
            copy_into(data, file)
        else:
            file.write(data)


def write_new(path: Path, data: bytes) -> bool:
    with _explained(path), _temporary(path) as (file, temporary):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike rename, fails if the name is taken
        except FileExistsError:
            return False
        _sync_folder(path.parent)
        return True


def sizes(path: Path) -> dict[str, int]:
    found = {}
    with _explained(path):
        for folder, _, names in os.walk(path):
            for name in names:
                file = Path(folder) / name
                with suppress(FileNotFoundError):  # removed while we look
                    if not name.endswith(PARTIAL):
                        found[file.relative_to(path).as_posix()] = file.stat().st_size
    return found


def delete(path: Path, *, tree: bool) -> None:
    try:
        with _explained(path):
            if tree and path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except FileNotFoundError:
        return
