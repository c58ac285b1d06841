"""A folder that processes share is there as long as one of them lives, and no longer."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from icon_dist.errors import StorageError
from icon_dist.storage import tempdirs
from tests.support.paths import ROOT

OTHER = """
import sys
from icon_dist.storage import tempdirs
place = tempdirs.shared("shards", sys.argv[1])
(place / "file").write_text("data")
print(place, flush=True)
sys.stdin.readline()
"""


class Other:
    """Another process that shares a folder until it is told, or killed."""

    def __init__(self, name: str, tmp: Path) -> None:
        line = [sys.executable, "-c", OTHER, name]
        self.process = subprocess.Popen(
            line, cwd=ROOT, env={"TMPDIR": str(tmp)}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.place = Path(self.process.stdout.readline().strip())

    def end(self, *, killed: bool = False) -> None:
        if killed:
            self.process.kill()
        self.process.communicate("\n")


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    tempdirs.leave()


def test_the_last_one_to_leave_removes_it(tmp: Path) -> None:
    first, second = Other("a", tmp), Other("a", tmp)
    assert first.place == second.place
    first.end()
    assert (second.place / "file").is_file()
    assert list(tempdirs.leftovers(tmp)) == []
    second.end()
    assert not second.place.exists()


def test_what_killed_processes_leave_goes_with_the_next_one(tmp: Path) -> None:
    dead, living = Other("dead", tmp), Other("living", tmp)
    dead.end(killed=True)
    assert list(tempdirs.leftovers(tmp)) == [dead.place], "the doctor finds it"
    again = tempdirs.shared("shards", "mine")
    assert sorted(again.parent.iterdir()) == sorted([living.place, again])
    living.end(killed=True)
    assert tempdirs.shared("shards", "living") == living.place
    assert (living.place / "file").is_file(), "the same one is taken over"
    tempdirs.leave()
    assert list(again.parent.iterdir()) == []


def test_one_that_is_just_removed_is_made_again(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a process's look at the folder and its lock, another may have removed it."""
    lock, removed = fcntl.flock, []

    def late(handle: int, kind: int) -> None:
        place = tmp / f"icon-shards-{os.getuid()}" / "x"
        if not removed:
            removed.append(place.rmdir())
        lock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    place = tempdirs.shared("shards", "x")
    assert removed
    assert place.is_dir()
    assert list(tempdirs.leftovers(tmp)) == []


def test_what_is_not_a_folder_of_ours_is_never_followed(tmp: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Somebody who can write in TMPDIR knows its name."""
    home = tmp_path_factory.mktemp("home")
    (home / "thesis").mkdir()
    (home / "thesis" / "chapter").touch()
    root = tmp / f"icon-shards-{os.getuid()}"
    for plant in (lambda: root.symlink_to(home), root.touch, lambda: root.symlink_to(tmp / "nowhere")):
        plant()
        assert list(tempdirs.leftovers(tmp, remove=True)) == []
        with pytest.raises(StorageError, match=f"{root}: is a link, a file or another user's folder; remove it"):
            tempdirs.shared("shards", "x")
        root.unlink()
    root.mkdir(mode=0o777)
    (root / "x").symlink_to(home / "thesis")
    (root / "dead").mkdir()
    (root / "dead" / "link").symlink_to(home)
    (tmp / f"icon-ray-1-{socket.gethostname()}-link").symlink_to(home)
    with pytest.raises(StorageError, match=f"{root}/x: is a link"):
        tempdirs.shared("shards", "x")
    place = tempdirs.shared("shards", "y")
    assert [stat.S_IMODE(one.stat().st_mode) for one in (root, place)] == [0o700, 0o700]
    assert not (root / "dead").exists()
    assert (home / "thesis" / "chapter").exists()
    tempdirs.leave()
    assert list(tempdirs.leftovers(tmp, remove=True)) == []
    assert (home / "thesis" / "chapter").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_used(tmp: Path) -> None:
    root = tmp / f"icon-shards-{os.getuid()}"
    (root / "x").mkdir(parents=True)
    os.chown(root, 12345, 12345)
    assert list(tempdirs.leftovers(tmp, remove=True)) == []
    with pytest.raises(StorageError, match="another user's folder"):
        tempdirs.shared("shards", "x")
    assert (root / "x").is_dir()


def test_where_nothing_can_be_written_the_variable_is_named(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp / "gone"))
    with pytest.raises(StorageError, match="TMPDIR: No such file or directory; set it to a folder"):
        tempdirs.Folder("ray")


def test_where_there_is_no_such_folder_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose file systems are all read-only; a folder that cannot be made stands for them."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nothing"])
    for use in (tempdirs.reached_from_here, lambda: tempdirs.shared("shards", "x"), lambda: tempdirs.Folder("ray")):
        with pytest.raises(StorageError, match=r"^TMPDIR: No usable temporary directory found"):
            use()
