"""One writer at a time, on a disk and on S3: refused, followed when dead, and noticed by an owner that stood still."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from icon_dist import storage
from icon_dist.errors import StorageError, TakenError
from icon_dist.storage import lock, lock_owner
from tests.support.paths import ROOT
from tests.support.s3 import Handler, Proxy

OTHER = """
import sys
from icon_dist.command_exit import run_cli
from icon_dist.storage import lock
lock.FIRST_BEAT_S, lock.BEAT_S = {first_beat}, 0.1
def main(argv):
    with lock.hold(argv[0], fix="give another name"):
        print("held", flush=True)
        sys.stdin.readline()
run_cli(main)
"""
ELSEWHERE = {"token": "t", "host": "node7", "pid": 12, "machine": "another 1", "born": "1", "command": "python -m x"}


class Other:
    """A process that holds the lock of a place until it is told to end."""

    def __init__(self, place: str, *, before: str = "", first_beat: float = 0.1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + OTHER.replace("{first_beat}", str(first_beat)), place],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def held(self) -> bool:
        assert self.process.stdout is not None
        return self.process.stdout.readline() == "held\n"

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate("\n")
        return self.process.returncode, said


@pytest.fixture
def other() -> Iterator[Callable[..., Other]]:
    started: list[Other] = []

    def start(place: str, **options: Any) -> Other:
        started.append(Other(place, **options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs" / "one") if request.param == "disk" else f"{request.getfixturevalue('s3')}/one"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT_S": 0.05, "FIRST_BEAT_S": 0.05, "PATIENCE_S": 0.6, "LOOK_EVERY_S": 0.02}.items():
        monkeypatch.setattr(lock, name, seconds)


def at(place: str) -> str:
    return storage.join(place, storage.LOCK)


def owner(place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(storage.read(at(place)))
    return found


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_second_is_refused_by_the_name_of_the_first(place: str, other: Callable[..., Other]) -> None:
    first = other(place)
    assert first.held()
    with pytest.raises(TakenError) as refused:
        lock.take(place, fix="give another run.name")
    text = str(refused.value)
    assert text.startswith(f"{place}: is being written by pid {first.process.pid} on {os.uname().nodename} since ")
    assert "(python" in text
    assert text.endswith("; wait for its end, or give another run.name")
    assert refused.value.exit_code == 7
    assert storage.listing(place) == [], "a lock is no content"
    assert first.end() == (0, "")
    assert not storage.exists(place), "nothing is left of it"
    with lock.hold(place, fix=""), lock.hold(place, fix=""):  # a block within a block of the same process
        assert owner(place)["pid"] == os.getpid()
    assert not storage.exists(place)


def test_one_that_was_killed_is_followed_at_once(place: str, other: Callable[..., Other]) -> None:
    first = other(place)
    assert first.held()
    first.process.kill()
    until(lambda: owner_state(place) == "gone")  # though its parent has not looked at it: it is a zombie
    lock.take(place, fix="", say=pytest.fail).release()


def owner_state(place: str) -> str:
    return lock_owner.state(owner(place))


@pytest.mark.usefixtures("hasty")
def test_one_that_stood_still_is_followed_and_ends_by_itself(place: str, other: Callable[..., Other]) -> None:
    first, said = other(place), list[str]()
    assert first.held()
    first.process.send_signal(signal.SIGSTOP)
    until(lambda: owner_state(place) == "unseen")
    follower = lock.take(place, fix="", say=said.append)
    assert len(said) == 1
    assert f"pid {first.process.pid} on" in said[0]
    assert "looking 1 s for a sign of life" in said[0]
    first.process.send_signal(signal.SIGCONT)
    beat = owner(place)["beat"]
    until(lambda: owner(place)["beat"] > beat + 5)  # meanwhile it beats, and finds out
    code, error = first.end()
    assert code == 7
    assert f"{place}: is being written by pid {os.getpid()} on" in error
    assert "now, because this process stood still; it ends here" in error
    assert "Traceback" not in error
    assert owner(place)["pid"] == os.getpid(), "it stays with the follower"
    follower.release()
    assert not storage.exists(place)


@pytest.mark.usefixtures("hasty")
def test_an_owner_elsewhere_is_believed_while_its_lock_changes(place: str) -> None:
    storage.write(at(place), json.dumps(ELSEWHERE | {"beat": 0}).encode())
    looks: list[str] = []

    def say(text: str) -> None:
        looks.append(text)
        storage.write(at(place), json.dumps(ELSEWHERE | {"beat": 1}).encode())

    with pytest.raises(TakenError, match=r"is being written by pid 12 on node7 \(python -m x\)"):
        lock.take(place, fix="", say=say)
    lock.take(place, fix="", say=looks.append).release()  # it has stopped beating
    assert len(looks) == 2


SAYS_NOTHING = [
    *(b"", b"{", b"[1]", b"null", b'{"pid": "7"}', b'{"pid": -1, "since": 1e99}', b'{"pid": 1e400}', b"\xff" * 99),
    *(b'{"pid": %d, "since": "x", "host": ["\\u001b"]}' % 10**30, b"[" * 100_000),
]


@pytest.mark.usefixtures("hasty")
def test_a_lock_that_says_nothing_is_waited_for(tmp_path: Path) -> None:
    def waited(number: int) -> list[str]:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / storage.LOCK).write_bytes(SAYS_NOTHING[number])
        said: list[str] = []
        lock.take(str(folder), fix="", say=said.append).release()
        assert list(folder.iterdir()) == [], SAYS_NOTHING[number]
        return said

    with ThreadPoolExecutor(len(SAYS_NOTHING)) as pool:  # all wait at the same time
        assert [len(said) for said in pool.map(waited, range(len(SAYS_NOTHING)))] == [1] * len(SAYS_NOTHING)


def test_a_number_that_is_used_again_is_not_the_owner(tmp_path: Path) -> None:
    with lock.hold(str(tmp_path), fix=""):
        mine = owner(str(tmp_path))
    assert lock_owner.state(mine) == "lives"
    assert lock_owner.state(mine | {"born": "1"}) == "gone"
    assert lock_owner.state(mine | {"pid": 1, "born": lock_owner.process_stat(1)[1]}) == "lives"
    assert lock_owner.state(mine | {"pid": 2**22 + 1}) == "gone"
    assert lock_owner.state(mine | {"pid": 2**70}) == "gone"
    assert lock_owner.state(mine | {"machine": "a reboot 1"}) == "unseen"


def test_of_many_that_follow_a_killed_one_one_gets_it(tmp_path: Path, other: Callable[..., Other]) -> None:
    place = str(tmp_path)
    (tmp_path / storage.LOCK).write_text(json.dumps(lock_owner.this_process() | {"pid": 2**22 + 1, "token": "dead"}))
    start = "import sys; sys.stdin.readline(); "
    many = [other(place, before=start) for _ in range(4)]
    for one in many:
        assert one.process.stdin is not None
        one.process.stdin.write("\n")
        one.process.stdin.flush()
    assert [one.held() for one in many].count(True) == 1
    assert sorted(one.end()[0] for one in many) == [0, 7, 7, 7]


@pytest.mark.usefixtures("hasty")
def test_where_new_names_are_not_refused_the_first_beat_decides(
    s3: str, other: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that ignores If-None-Match: the last to write has it."""
    forward = Handler.forward

    def deaf(self: Handler) -> None:
        del self.headers["If-None-Match"]
        forward(self)

    monkeypatch.setattr(Handler, "do_PUT", deaf)
    place = f"{s3}/one"
    with Proxy.between():
        first = other(place, first_beat=1.0)
        assert first.held()
        first.process.send_signal(signal.SIGSTOP)  # before that beat
        read, looks = storage.read, [None]

        def too_early(uri: str, *where: Any, **how: Any) -> bytes:
            if looks and threading.current_thread() is threading.main_thread():
                looks.pop()
                raise FileNotFoundError(uri)
            return read(uri, *where, **how)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "read", too_early)  # as if both had looked before either wrote
            patch.setattr(storage, "write_new", lambda uri, data: storage.write(uri, data) is None)
            second = lock.take(place, fix="", say=pytest.fail)
        assert not looks
        first.process.send_signal(signal.SIGCONT)
        beat = owner(place)["beat"]
        until(lambda: owner(place)["beat"] > beat + 30)  # meanwhile the first beats as well, and finds out
        code, error = first.end()
        assert code == 7
        assert f"{place}: is being written by pid {os.getpid()} on" in error
        assert "because this process stood still" in error
        second.release()
        assert not storage.exists(place)


@pytest.mark.usefixtures("hasty")
def test_who_writes_for_an_owner_learns_that_it_lost(place: str) -> None:
    run = storage.join(place, "trials", "0001")
    held = lock.take(place, fix="")
    lock.require(run)
    lock.require("/somewhere/else")
    storage.delete(at(place))  # by hand: it is written again
    lock.require(run)
    until(lambda: storage.exists(at(place)))
    storage.write(at(place), json.dumps(ELSEWHERE).encode())
    with pytest.raises(TakenError, match=r"one: is being written by pid 12 on node7 \(python -m x\) now"):
        lock.require(run)
    until(lock.lost)
    held.release()
    assert owner(place) == ELSEWHERE
    lock.require(run)  # this process writes for nobody any more


def test_a_lock_that_is_spoilt_on_the_way_is_not_lost(s3: str) -> None:
    """An owner ended because two bodies in a row were spoilt: a part of an object has no checksum."""
    held = lock.take(f"{s3}/one", fix="")
    with Proxy.between() as server:
        server.faults = ["corrupt"] * 3
        lock.require(f"{s3}/one")
        assert not server.faults
    held.release()


def test_what_is_too_large_to_be_a_lock_is_waited_for(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 0.1)
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    storage.write(at(place), b"{" + b" " * lock.MOST_BYTES + b"}")
    said: list[str] = []
    held = lock.take(place, fix="", say=said.append)
    assert len(said) == 1
    assert "somebody whose .lock.json cannot be read may still write it" in said[0]
    assert owner(place)["pid"] == os.getpid()
    held.release()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, other: Callable[..., Other], number: signal.Signals) -> None:
    # A shell starts what it puts into the background with SIGINT ignored, and this process's children inherit that.
    first = other(
        str(tmp_path / "one"), before="import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    )
    assert first.held()
    first.process.send_signal(number)
    code, said = first.process.wait(60), first.process.stderr
    assert said is not None
    assert (code, said.read()) == {
        signal.SIGTERM: (75, "icon_dist: stopped by SIGTERM; the same command goes on\n"),
        signal.SIGHUP: (75, "icon_dist: stopped by SIGHUP; the same command goes on\n"),
        signal.SIGINT: (130, "icon_dist: interrupted\n"),
    }[number]
    assert list(tmp_path.iterdir()) == []


def test_nohup_is_respected(tmp_path: Path, other: Callable[..., Other]) -> None:
    first = other(str(tmp_path), before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n")
    assert first.held()
    first.process.send_signal(signal.SIGHUP)
    assert first.end() == (0, "")


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    for folder in (home, run / "checkpoints"):
        folder.mkdir(parents=True)
    ours = [run / ".manifest.json.0123abcd.partial", run / "checkpoints" / ".x.tar.89abcdef.partial"]
    others = [run / "notes.partial", run / ".mine.partial", run / ".x.0123ABCD.partial", home / ".y.0123abcd.partial"]
    for file in ours + others:
        file.touch()
    (run / "link").symlink_to(home)
    (run / ".link.0123abcd.partial").symlink_to(others[0])
    (run / ".folder.0123abcd.partial").mkdir()
    with lock.hold(str(run), fix=""):
        living = run / ".z.0123abcd.partial"
        living.touch()
        os.utime(living, (time.time() + 9, time.time() + 9))
        lock.tidy(str(run))
        assert not any(file.exists() for file in ours)
        assert living.exists()
        lock.tidy(str(run), over=True)
        assert not living.exists()
    assert all(file.exists() for file in others)
    assert (run / ".link.0123abcd.partial").is_symlink()
    assert (run / ".folder.0123abcd.partial").is_dir()


def test_a_lock_that_is_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / storage.LOCK).symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match=r"\.lock\.json: is a link that leads nowhere; remove it"):
        lock.take(str(tmp_path), fix="")
