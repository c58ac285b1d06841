"""One behavior for folders and S3: every test of ``place`` runs over both."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from icon_dist import storage
from icon_dist.errors import ConfigError, StorageError


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else str(request.getfixturevalue("s3"))


def test_bytes_come_back(place: str) -> None:
    uri = storage.join(place, "a", "b.bin")
    assert not storage.exists(uri)
    assert not storage.exists(place)
    storage.write(uri, b"0123456789")
    assert storage.exists(uri)
    assert storage.exists(place)
    assert storage.size(uri) == 10
    assert storage.read(uri) == b"0123456789"
    storage.write(uri, b"new")
    assert storage.read(uri) == b"new"


@pytest.mark.parametrize(("start", "size"), [(0, None), (3, None), (3, 4), (0, 0), (8, 100), (10, None), (50, 5)])
def test_ranges_are_slices(place: str, start: int, size: int | None) -> None:
    data = bytes(range(10))
    storage.write(f"{place}/x", data)
    assert storage.read(f"{place}/x", start, size) == data[start:][:size]


def test_an_empty_file_is_a_file(place: str) -> None:
    storage.write(f"{place}/empty", b"")
    assert storage.read(f"{place}/empty") == b""
    assert storage.read(f"{place}/empty", 0, 5) == b""
    assert storage.size(f"{place}/empty") == 0


def test_a_large_file_goes_up_and_down(place: str, tmp_path: Path) -> None:
    source = tmp_path / "big"
    source.write_bytes(os.urandom(1 << 20) * 70)  # over the multipart threshold
    storage.write(f"{place}/big", source)
    sha = hashlib.sha256(source.read_bytes()).hexdigest()
    seen: list[int] = []
    storage.copy_to(f"{place}/big", tmp_path / "back", expect_sha256=sha, progress=seen.append)
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    if storage.is_remote(place):
        assert seen == sorted(seen)
        assert seen[-1] == 70 << 20


def test_write_new_never_replaces(place: str) -> None:
    assert storage.write_new(f"{place}/x", b"first")
    assert not storage.write_new(f"{place}/x", b"second")
    assert not storage.write_new(f"{place}/x", b"first")
    assert storage.read(f"{place}/x") == b"first"


def test_what_is_there_is_replaced_by_force_alone(place: str) -> None:
    first, second, absent = (f"{place}/{name}" for name in ("1.json", "2.json", "3.json"))
    storage.write(first, b"mine")
    storage.require_new("-o x", absent, force=False)
    with pytest.raises(ConfigError, match=r"^-o x: .*1\.json exists already; give another name, or --force to replace"):
        storage.require_new("-o x", absent, first, force=False)
    storage.write(second, b"mine")
    with pytest.raises(ConfigError, match=r"1\.json and 1 more exist already; "):
        storage.require_new("-o x", first, second, force=False)
    storage.require_new("-o x", first, second, force=True)
    with pytest.raises(StorageError, match=r"/proc: no file can be made there; write elsewhere"):
        storage.require_new("-o x", "/proc/icon/x", force=True)
    with pytest.raises(StorageError, match=r"/proc/x: no file can be made there; write elsewhere"):
        storage.write("/proc/x", b"")


def test_one_of_many_writers_wins(place: str) -> None:
    won: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: won.append(n) if storage.write_new(f"{place}/x", bytes([n])) else None)
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read(f"{place}/x") == bytes(won)


def test_listing_is_recursive_sorted_and_relative(place: str) -> None:
    assert storage.listing(place) == []
    for name in ["b/2", "b/1", "a", "c/d/e"]:
        storage.write(storage.join(place, name), b"")
    storage.write(place + "-sibling/z", b"")
    assert storage.listing(place) == ["a", "b/1", "b/2", "c/d/e"]
    assert storage.listing(place + "/b") == ["1", "2"]


def test_delete(place: str) -> None:
    for name in ["keep", "gone/1", "gone/2/3", "gone-not"]:
        storage.write(storage.join(place, name), b"x")
    storage.delete(place + "/gone", tree=True)
    storage.delete(place + "/gone", tree=True)
    storage.delete(place + "/absent")
    assert storage.listing(place) == ["gone-not", "keep"]
    storage.delete(place + "/keep")
    assert storage.listing(place) == ["gone-not"]


def test_what_is_missing_is_not_found(place: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        storage.read(place + "/absent")
    with pytest.raises(FileNotFoundError, match="absent"):
        storage.size(place + "/absent")
    with pytest.raises(FileNotFoundError, match="absent"):
        storage.copy_to(place + "/absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_copy_does_not_appear(place: str, tmp_path: Path) -> None:
    storage.write(place + "/x", b"damaged")
    with pytest.raises(StorageError, match="sha256"):
        storage.copy_to(place + "/x", tmp_path / "out", expect_sha256=hashlib.sha256(b"whole").hexdigest())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "uri", ["http://x/y", "pipe:cat x", "file:x", "gs://b/k", "ftp:x", "", "a\0b", "s3://", "s3://ab/x"]
)
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError):
        storage.absolute(uri)


@pytest.mark.parametrize("part", ["..", "a/../../b", "/etc/passwd", "", "s3://other/x"])
def test_join_stays_inside(part: str) -> None:
    with pytest.raises(ConfigError):
        storage.join("runs", part)


def test_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b/") == str(tmp_path / "b")
    assert storage.absolute("file:///x/y") == "/x/y"
    assert storage.absolute("s3://bucket//a/") == "s3://bucket/a"
    with pytest.raises(ConfigError):
        storage.absolute("s3://bucket/a/../b")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for broken in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(FileNotFoundError):
            storage.read(str(broken))
        with pytest.raises(FileNotFoundError):
            storage.size(str(broken))
    with pytest.raises(StorageError, match="is a folder"):
        storage.write(str(tmp_path), b"")
    with pytest.raises(StorageError, match="not a folder"):
        storage.write(str(tmp_path / "file" / "below"), b"")
