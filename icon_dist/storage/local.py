"""Files on a mounted disk, replaced atomically: a temporary file in the same folder, fsync, rename."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from icon_dist.errors import StorageError, TooLargeError

PARTIAL = ".partial"  # suffix of a file that is being written; never listed
FIXES = {
    errno.ELOOP: "a link is in the way, or points to itself; remove it",
    errno.ENAMETOOLONG: "a name may have 255 bytes, a path 4096; shorten it",
    errno.EROFS: "write elsewhere, or mount it for writing",
    errno.EIO: "the disk or its connection fails; check it",
    errno.ESTALE: "the network disk has lost it; mount it again",
}


@contextmanager
def _explained(path: Path, *, writing: bool = False) -> Iterator[None]:
    """OSError -> one line; FileNotFoundError stays what it is, unless a file was to be made."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # explained already, of another place
            raise
        if writing and error.errno == errno.ENOENT:
            raise StorageError(f"{path}: no file can be made there; write elsewhere") from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):  # S3 has no folders: they are no files
            raise FileNotFoundError(f"{path}: no such file") from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(f"{path}: disk full ({error.strerror}); free some space or write elsewhere") from error
        fix = FIXES.get(error.errno, "check the path and its permissions")
        raise StorageError(f"{path}: {error.strerror or error}; {fix}") from error


def require_regular(path: Path) -> None:
    """FileNotFoundError for nothing or a folder; StorageError for a pipe, socket or device, which may never end."""
    with _explained(path):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "")
        _refuse_special(path, mode)


def _refuse_special(path: Path, mode: int) -> None:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a disk device"}
    if kind := kinds.get(stat.S_IFMT(mode)):
        raise StorageError(f"{path}: is {kind}, not a file; give a file")


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
def alone_in(folder: Path) -> Iterator[None]:
    """No two processes are in such a block of one folder at once, where its file system has locks."""
    with _explained(folder):
        _make_place(folder)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def partials(folder: Path, *, before: float = math.inf, tree: bool = False) -> Iterator[Path]:
    """What writers have begun in ``folder``, or below it, and not written to since ``before``."""
    for place, below, names in os.walk(folder):
        if not tree:
            below.clear()
        for path in (Path(place, name) for name in names if re.fullmatch(rf"\..+\.[0-9a-f]{{8}}{PARTIAL}", name)):
            with suppress(FileNotFoundError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_mtime < before:
                    yield path


def _make_place(folder: Path) -> None:
    try:
        _make_folder(folder)
    except (FileExistsError, NotADirectoryError):
        raise StorageError(f"{folder}: is a file, not a folder; write elsewhere") from None


def _unused_name(path: Path) -> Path:
    """A place beside ``path``, as :func:`partials` finds it; a name has 255 bytes at most."""
    return path.parent / f".{path.name[:32]}.{secrets.token_hex(4)}{PARTIAL}"


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BufferedRandom, Path]]:
    """A temporary file beside ``path``, gone afterwards unless it was renamed."""
    _require_target(path)
    _make_place(path.parent)
    temporary = _unused_name(path)
    try:
        with open(temporary, "x+b") as file:
            yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)


def _require_target(path: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise StorageError(f"{path}: is a folder; name a file in it")
        _refuse_special(path, mode)


def require_place(path: Path) -> None:
    """StorageError if it is plain already that no file can be written at ``path``."""
    with _explained(path):
        _require_target(path)
        folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        raise StorageError(f"{folder}: is a file, not a folder; write elsewhere")
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise StorageError(f"{folder}: {os.strerror(errno.EROFS)}; {FIXES[errno.EROFS]}")
    with _explained(folder, writing=True), tempfile.TemporaryFile(dir=folder):  # has no name where the disk can do so
        pass


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """A file to write that becomes ``path`` when the block ends without an error."""
    with _explained(path, writing=True), _temporary(path) as (file, temporary):
        yield file
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)


def require_new_folder(path: Path) -> None:
    """StorageError if it is plain already that no folder can be made at ``path``, which may be an empty one."""
    with _explained(path):
        if path.is_dir() and next(path.iterdir(), None) is None:
            return require_place(path / "file")
        if os.path.lexists(path):
            raise StorageError(f"{path}: exists; give another name, or move it away")
    return require_place(path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write in that becomes ``path``, new or empty, when the block ends without an error."""
    require_new_folder(path)
    with _explained(path):
        _make_place(path.parent)
        temporary = _unused_name(path)
        temporary.mkdir()
        try:
            yield temporary
            os.rename(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def continued(path: Path) -> Iterator[BufferedRandom]:
    """A file at its end, with what an earlier process has left there; no two processes have it at once."""
    with _explained(path, writing=True):
        _make_folder(path.parent)
        _require_target(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # not through a link of somebody else's
        with open(handle, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(f"{path}: another process is downloading to it; wait for its end") from None
            file.seek(0, os.SEEK_END)
            yield file


def copy_into(path: Path, file: BufferedRandom) -> None:
    """Append the bytes of the file ``path`` to the open ``file``, at its position.

    Raises FileNotFoundError where there is no such file, StorageError for what is not a regular file or cannot be read.
    """
    require_regular(path)
    with _explained(path), open(path, "rb") as source:
        shutil.copyfileobj(source, file, 1 << 20)


def exists(path: Path) -> bool:
    """Return whether ``path`` is a file, or a folder with something in it."""
    with _explained(path):
        if path.is_dir():
            return next(path.iterdir(), None) is not None
        return path.is_file()


def size(path: Path) -> int:
    """Return the size of the file ``path`` in bytes; FileNotFoundError where there is none, or a folder."""
    require_regular(path)
    with _explained(path):
        return path.stat().st_size


def read(path: Path, start: int, size: int | None, *, most: int | None = None) -> bytes:
    """Return the bytes ``[start, start + size)`` of the file ``path``, fewer where the file ends earlier.

    Without ``size`` they go to its end; TooLargeError if they would be more than ``most``. Raises FileNotFoundError
    where there is no such file.
    """
    require_regular(path)
    with _explained(path), open(path, "rb") as file:
        if most is not None and size is None and os.fstat(file.fileno()).st_size - start > most:
            raise TooLargeError(str(path), most=most)
        file.seek(start)
        return file.read(-1 if size is None else size)


def write(path: Path, data: bytes | Path) -> None:
    """Create or replace ``path`` with the bytes ``data``, or with the contents of the file ``data``; all or nothing."""
    with replacing(path) as file:
        if isinstance(data, Path):
            copy_into(data, file)
        else:
            file.write(data)


def write_new(path: Path, data: bytes) -> bool:
    """Create ``path`` with the bytes ``data``; returns False, and changes nothing, if something has that name."""
    with _explained(path, writing=True), _temporary(path) as (file, temporary):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        try:
            _name(temporary, path)
        except FileExistsError:
            return False
        _sync_folder(path.parent)
        return True


def _name(temporary: Path, path: Path) -> None:
    """Unlike a rename, FileExistsError if the name is taken."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # a disk without links: exFAT, FUSE
        os.replace(temporary, path)


def sizes(path: Path) -> dict[str, int]:
    """Regular files below ``path``. A folder that cannot be looked into is an error: it may hold what is asked for."""

    def refuse(error: OSError) -> None:
        """Raise the error of a folder that cannot be listed, unless it is gone or the file system's own lost+found."""
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR)  # removed while we look, or never there
        if not gone and Path(error.filename).name != "lost+found":  # the file system's own
            raise error

    found = {}
    with _explained(path):
        for folder, _, names in os.walk(path, onerror=refuse):
            for name in names:
                file = Path(folder) / name
                with suppress(FileNotFoundError):  # removed while we look
                    if not name.endswith(PARTIAL) and file.is_file():
                        found[file.relative_to(path).as_posix()] = file.stat().st_size
    return found


def delete(path: Path, *, tree: bool) -> None:
    """Remove the file ``path``, or with ``tree`` also a folder and all that is in it.

    Nothing there is no error. Raises StorageError where it cannot be removed.
    """
    try:
        with _explained(path):
            if tree and path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except FileNotFoundError:
        return
