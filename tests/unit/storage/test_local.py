"""What is no plain file, or cannot be one: one line and no waiting, and what was there stays."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icon_dist import storage
from icon_dist.errors import StorageError, TooLargeError
from icon_dist.storage import local

KINDS = ["pipe", "link to a pipe", "socket", "device", "endless device", "loop", "long name", "long path"]
NEVER = Path(tempfile.gettempdir(), "icon-never-written")
READERS: dict[str, Callable[[str], object]] = {
    "read": storage.read,
    "part": lambda uri: storage.read(uri, 1, 2),
    "size": storage.size,
    "copy": lambda uri: storage.copy_to(uri, NEVER),
    "upload": lambda uri: storage.write(str(NEVER), Path(uri)),
    "require": lambda uri: local.require_regular(Path(uri)),
}
WRITERS: dict[str, Callable[[str], object]] = {
    "write": lambda uri: storage.write(uri, b"new"),
    "new": lambda uri: storage.write_new(uri, b"new"),
    "place": storage.require_place,
}


@pytest.fixture(params=KINDS)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A place that is no file, and what the message says of it."""
    path, kind = tmp_path / "x", request.param
    if kind == "pipe":
        os.mkfifo(path)
        yield str(path), "is a pipe, not a file"
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
        yield str(path), "is a pipe, not a file"
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            yield str(path), "is a socket, not a file"
    elif kind == "device":
        yield os.devnull, "is a device, not a file"
    elif kind == "endless device":
        yield "/dev/zero", "is a device, not a file"
    elif kind == "loop":
        path.symlink_to("x")
        yield str(path), "a link is in the way, or points to itself"
    elif kind == "long name":
        yield str(tmp_path / ("n" * 300)), "a name may have 255 bytes"
    else:
        yield str(tmp_path.joinpath(*["d" * 200] * 30)), "a name may have 255 bytes"


@pytest.mark.parametrize("call", [*READERS, *WRITERS])
def test_what_is_no_file_is_named(call: str, odd: tuple[str, str]) -> None:
    uri, expected = odd
    before = os.lstat(uri) if "name may" not in expected else None
    with pytest.raises(StorageError) as caught:
        (READERS | WRITERS)[call](uri)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not NEVER.exists()
    if before is not None:
        assert os.lstat(uri).st_ino == before.st_ino, "it is still what it was"


def test_a_listing_has_files_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")
    assert storage.sizes(str(tmp_path)) == {"file": 3, "link": 3}


def test_a_folder_that_cannot_be_looked_into_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may look everywhere, so the refusal is the system call's own, for one folder."""
    scandir, closed = os.scandir, tmp_path / "checkpoints"
    (tmp_path / "lost+found").mkdir()
    closed.mkdir()

    def refuse(folder: str) -> object:
        if Path(folder).name in ("checkpoints", "lost+found"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        storage.sizes(str(tmp_path))
    closed.rmdir()
    assert storage.sizes(str(tmp_path)) == {}


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    name = "n" * 251 + ".bin"
    storage.write(str(tmp_path / name), b"x")
    assert storage.write_new(str(tmp_path / name.replace("bin", "new")), b"x")
    assert storage.listing(str(tmp_path)) == [name, name.replace("bin", "new")]


def test_a_read_only_disk_is_named() -> None:
    if not os.statvfs("/sys").f_flag & os.ST_RDONLY:
        pytest.skip("no read-only file system here")
    with pytest.raises(StorageError, match="Read-only file system"):
        storage.require_place("/sys/icon/x")


@pytest.mark.parametrize("target", ["pipe", "precious"])
def test_a_download_never_goes_on_through_what_others_put_there(target: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    part = tmp_path / ".model.partial"
    if target == "pipe":
        os.mkfifo(part)
    else:
        part.symlink_to(precious)
    with pytest.raises(StorageError, match=r"is a pipe|a link is in the way"), local.continued(part):
        pass
    assert precious.read_bytes() == b"precious"


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("s3"))


def test_a_file_has_the_size_of_its_kind(folder: str) -> None:
    uri = f"{folder}/x"
    storage.write(uri, bytes(100))
    assert storage.read(uri, most=100) == bytes(100)
    assert storage.read(uri, 90, most=10) == bytes(10)
    assert storage.read(uri, 0, 100, most=10) == bytes(100), "who gives a size knows it"
    with pytest.raises(TooLargeError, match="is larger than 99 bytes"):
        storage.read(uri, most=99)


def test_a_disk_without_links_has_a_first_writer_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert storage.write_new(str(tmp_path / "x"), b"first")
    assert not storage.write_new(str(tmp_path / "x"), b"second")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x"]
