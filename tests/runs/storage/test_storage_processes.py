"""Storage in processes that fill a disk, are killed or fork."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from icon_dist import storage
from icon_dist.errors import StorageError


def test_disk_full_leaves_the_old_file(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk; only in a child process, as it is for good."""
    target = tmp_path / "x"
    target.write_bytes(b"old")

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            storage.write(str(target), bytes(5000))
        except StorageError as error:
            os._exit(error.exit_code if "disk full" in str(error) else 99)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 5
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_killed_writer_leaves_nothing_visible(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    code = (
        "import os, signal, sys; from icon_dist import storage\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage.write(sys.argv[1], bytes(5000))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "x").read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2  # a partial file is there
    assert storage.listing(str(tmp_path)) == ["x"]  # and is not seen


def test_a_client_does_not_cross_a_fork(s3: str) -> None:
    storage.write(s3 + "/x", b"parent")

    def child() -> None:
        os._exit(0 if storage.read(s3 + "/x") == b"parent" else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
