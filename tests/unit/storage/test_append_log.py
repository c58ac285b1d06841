"""A log in segments reads like one file, whatever was cut off, damaged or killed; and a flush writes its end alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from icon_dist import storage
from icon_dist.errors import StorageError
from icon_dist.storage import append_log
from icon_dist.storage.append_log import AppendLog

SIZE = 100  # bytes of a segment here


def line(number: int) -> bytes:
    return f"{number:06d} {'x' * (number % 7)}\n".encode()


def until(last: int) -> append_log.Keep:
    def keep(text: bytes) -> bool | None:
        number = text.split(b" ")[0]
        return int(number) <= last if text.endswith(b"\n") and number.isdigit() else None

    return keep


def log(uri: str, last: int = 10**9) -> AppendLog:
    return AppendLog(uri, until(last))


def grown(uri: str, first: int, last: int, *, flush_every: int = 5) -> None:
    growing = log(uri)
    for number in range(first, last + 1):
        growing.add(line(number))
        if number % flush_every == 0:
            growing.flush()
    growing.flush()


def lines(first: int, last: int) -> bytes:
    return b"".join(line(number) for number in range(first, last + 1))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_log, "SEGMENT", SIZE)


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = str(tmp_path) if request.param == "local" else str(request.getfixturevalue("s3"))
    return f"{folder}/metrics.jsonl"


def test_segments_are_one_file(uri: str) -> None:
    grown(uri, 1, 40)
    found = append_log.places(uri)
    sizes = [storage.size(place) for place in found]
    assert len(found) > 3
    assert found[1].endswith("/metrics/000001.jsonl")
    assert all(SIZE <= size < SIZE + 14 for size in sizes[:-1])
    assert append_log.read(uri) == lines(1, 40)


@pytest.mark.parametrize("last", [0, 1, 7, 25, 39, 40, 99])
def test_what_is_cut_off_leaves_the_rest(last: int, uri: str) -> None:
    grown(uri, 1, 40)
    again = log(uri, last)
    assert again.damaged == 0
    again.add(line(500))
    again.flush()
    assert append_log.read(uri) == lines(1, min(last, 40)) + line(500)


def test_cut_at_random_it_is_what_one_file_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    uri = str(tmp_path / "metrics.jsonl")
    known: list[int] = []
    monkeypatch.setattr("os.fsync", lambda _: None)
    for _ in range(60):
        last = rng.randrange(0, (known or [0])[-1] + 3)
        known = [number for number in known if number <= last]
        growing = log(uri, last)
        for number in range(last + 1, last + rng.randrange(30)):
            growing.add(line(number))
            known.append(number)
            if rng.random() < 0.2:
                growing.flush()
        growing.flush()
        assert append_log.read(uri) == b"".join(map(line, known))


def test_a_flush_writes_the_end_and_a_start_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of each are the same after 10 segments and after 100."""
    uri = str(tmp_path / "metrics.jsonl")
    written: list[int] = []
    got: list[int] = []
    write, read = storage.write, storage.read

    def reading(*args: Any, **named: Any) -> bytes:
        data = read(*args, **named)
        got.append(len(data))
        return data

    monkeypatch.setattr(storage, "write", lambda uri, data: written.append(len(data)) or write(uri, data))
    monkeypatch.setattr(storage, "read", reading)
    monkeypatch.setattr("os.fsync", lambda _: None)
    growing = log(uri)
    for number in range(1, 1101):
        growing.add(line(number))
        growing.flush()
        if number in (110, 1100):
            got.clear()
            log(uri)
            assert sum(got) < 2 * SIZE + 14
    assert len(append_log.places(uri)) > 90
    assert len(written) == 1100
    assert max(written) < SIZE + 14


@pytest.mark.parametrize(
    ("damage", "count"),
    [(b"\xff\x00\n", 1), (b"\n\n", 2), (b"x" * 5000 + b"\n", 1), (b"\n" * 300, 300), (b"000041 cut", 1)],
)
def test_damage_at_the_end_is_left_out_and_counted(damage: bytes, count: int, uri: str) -> None:
    for old in (40, 5):  # in several segments, in the first
        grown(uri, 1, old)
        last = append_log.places(uri)[-1]
        storage.write(last, storage.read(last) + damage)
        again = log(uri)
        assert again.damaged == count
        again.flush()
        assert append_log.read(uri) == lines(1, old)
        storage.delete(uri.removesuffix(".jsonl"), tree=True)
        storage.delete(uri)


def test_damage_in_the_middle_stays_one_line(tmp_path: Path) -> None:
    uri = str(tmp_path / "metrics.jsonl")
    grown(uri, 1, 40)
    second = Path(append_log.places(uri)[1])
    second.write_bytes(second.read_bytes()[:-5])
    expected, found = lines(1, 40).splitlines(), append_log.read(uri).splitlines()
    assert len(found) == 40
    assert sum(a != b for a, b in zip(expected, found, strict=True)) == 1
    second.unlink()
    assert append_log.read(uri).splitlines()[-1] == expected[-1], "what is left of it is read"


def test_what_cannot_be_written_waits(tmp_path: Path) -> None:
    uri = str(tmp_path / "metrics.jsonl")
    growing = log(uri)
    (tmp_path / "metrics").write_bytes(b"in the way")
    for number in range(1, 30):
        growing.add(line(number))
    for _ in range(2):
        with pytest.raises(StorageError):
            growing.flush()
        growing.add(line(30 + _))
    (tmp_path / "metrics").unlink()
    growing.flush()
    assert append_log.read(uri) == lines(1, 31)


def test_a_listing_that_is_behind(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last segment is not listed yet: it is found, and neither lost nor overwritten."""
    uri = f"{s3}/metrics.jsonl"
    grown(uri, 1, 40)
    sizes = storage.sizes
    monkeypatch.setattr(storage, "sizes", lambda place: dict(list(sizes(place).items())[:-1]))
    grown(uri, 41, 50)
    monkeypatch.undo()
    assert append_log.read(uri) == lines(1, 50)


def test_nothing_is_no_file(uri: str) -> None:
    with pytest.raises(FileNotFoundError):
        append_log.read(uri)
    log(uri).flush()
    assert append_log.read(uri) == b""
