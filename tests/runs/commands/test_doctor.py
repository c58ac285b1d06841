"""The doctor: what it says of a sound machine and of each thing that is wrong, and with which exit code."""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from icon_dist import doctor, storage
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError, StorageError
from icon_dist.launch import machine_checks
from icon_dist.launch.machine_checks import Finding
from icon_dist.storage import tempdirs
from tests.support.paths import ROOT

MISSING = "raise ModuleNotFoundError('no module named {0}', name='{0}')\n"
DEAD = 2**22 + 1  # above every pid


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a temporary folder and a Ray configuration of its own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("XDG_CACHE_HOME", "TORCH_EXTENSIONS_DIR", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    return tmp_path


def command(*arguments: str, absent: tuple[str, ...] = (), at: Path) -> subprocess.CompletedProcess[str]:
    """The verb in a process of its own, where the packages ``absent`` cannot be imported."""
    for name in absent:
        (at / "absent" / name).mkdir(parents=True)
        (at / "absent" / name / "__init__.py").write_text(MISSING.format(name))
    path = os.pathsep.join([str(at / "absent"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "icon_dist.doctor", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        cwd=at,
        capture_output=True,
        text=True,
        check=False,
    )


def verb(*arguments: str, at: Path) -> subprocess.CompletedProcess[str]:
    """The verb in this process, which is quicker."""
    out, err = io.StringIO(), io.StringIO()
    quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with contextlib.chdir(at), quiet[0], quiet[1], pytest.raises(SystemExit) as left:
        run_cli(doctor.main, [*arguments])
    return subprocess.CompletedProcess(arguments, int(left.value.code or 0), out.getvalue(), err.getvalue())


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The first line of every check, without its name."""
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        level, what, text = line.split(maxsplit=2)
        assert level in ("ok", "warn", "FAIL"), line
        found.setdefault(what, f"{level} {text}")
    return found


def test_a_sound_machine(home: Path) -> None:
    began = time.monotonic()
    done = command(str(home / "runs"), at=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    said = lines(done)
    assert said["torch"] == f"ok {metadata.version('torch')}"
    assert said["storage"].startswith(f"ok {home}: conditional put ")
    assert {"python", "ray", "deepspeed", "gpu", "memory", "shared", "tmp", "disk", "token", "ports"} <= said.keys()
    assert not (home / "runs").exists()
    assert not list(home.glob(".icon*"))
    assert time.monotonic() - began < 60  # a few seconds where nobody else computes


def test_packages_that_are_missing(home: Path) -> None:
    done = command("s3://bucket/runs", absent=("torch", "boto3"), at=home)
    said = lines(done)
    assert done.returncode == 7
    assert "Traceback" not in done.stdout + done.stderr
    assert said["gpu"].startswith("FAIL torch cannot be imported")
    assert said["storage"] == "FAIL s3://: needs boto3, which is not here; pip install boto3 tenacity"


@pytest.mark.parametrize(
    ("requirement", "text"),
    [
        ("torch>=99", "torch FAIL .*, expected >=99; pip install"),
        ("no-such-package>=1", "no-such-package FAIL not installed; pip install"),
        ("torch>=2", f"torch ok {metadata.version('torch').replace('+', '.')}"),
        ("numpy>=1", "packages ok 1 others fit"),
        ("no-such-package; extra == 'dev'", "packages ok 0 others fit"),
    ],
)
def test_versions_against_the_ranges(requirement: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda _: [requirement])
    found = [f"{f.what} {f.level} {f.text}" for f in machine_checks.packages()]
    assert any(re.match(text, line) for line in found), found


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_a_stale_lock_is_named_and_removed(home: Path) -> None:
    lock = home / ".cache" / "torch_extensions" / "py311_cpu" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    assert only(machine_checks.extension_locks(fix=False)).level == "ok"
    lock.touch()
    with lock.open():  # as a process that builds
        assert only(machine_checks.extension_locks(fix=True)).text == "no stale lock of torch_extensions"
    found = only(machine_checks.extension_locks(fix=False))
    assert (found.level, found.code) == ("FAIL", 7)
    assert f"rm '{lock}'" in found.text
    assert only(machine_checks.extension_locks(fix=True)).text == f"{lock}: removed"
    assert not lock.exists()


def test_many_stale_locks_are_one_line(home: Path) -> None:
    root = home / ".cache" / "torch_extensions"
    for name in ("cpu_adam", "fused_adam", "utils"):
        (root / "py311_cpu" / name).mkdir(parents=True)
        (root / "py311_cpu" / name / "lock").touch()
    found = only(machine_checks.extension_locks(fix=False))
    assert f"cpu_adam/lock and 2 more below {root}: nobody holds them" in found.text
    assert "and 2 more" in only(machine_checks.extension_locks(fix=True)).text
    assert not [*root.rglob("lock")]


def test_leftovers_of_dead_runs_only(home: Path) -> None:
    host = socket.gethostname()
    dead = home / "tmp" / f"icon-ray-{DEAD}-{host}-abcdefgh"
    again = home / "tmp" / f"icon-ray-{os.getpid()}-{host}-abcdefgh"  # the number was another process's before
    both = f"{min(dead, again)} and 1 more"
    elsewhere = home / "tmp" / f"icon-ray-{DEAD}-not{host}-abcdefgh"
    other = home / "tmp" / "icon-mine"
    for folder in (dead, again, elsewhere, other):
        folder.mkdir()
    (home / "tmp" / f"icon-ray-{DEAD}-{host}-linklink").symlink_to(other)
    with tempdirs.Folder("board") as living:
        assert only(machine_checks.leftovers(fix=False)).text.startswith(
            f"{both}: their runs were killed; --fix removes"
        )
        assert only(machine_checks.leftovers(fix=True)).text == f"{both}: removed"
        assert Path(living).is_dir()
    assert not dead.exists()
    assert not again.exists()
    assert elsewhere.is_dir()
    assert other.is_dir()
    assert only(machine_checks.leftovers(fix=False)).level == "ok"


@pytest.mark.parametrize("kind", ["columns", "ray"])
def test_a_killed_run_leaves_what_the_doctor_finds(kind: str, home: Path) -> None:
    script = (
        f"import os; from icon_dist.storage import tempdirs; f = tempdirs.Folder('{kind}'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert only(machine_checks.leftovers(fix=False)).text.startswith(f"{home}/tmp/icon-{kind}-")


def test_the_token_is_judged_from_outside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(machine_checks.ray_token(fix=False)).text.startswith("none yet")
    file = home / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("canary-token")
    file.chmod(0o644)
    texts = [f.text for f in machine_checks.ray_token(fix=False)]
    assert texts[0] == f"{file}: others may read it (mode 644); chmod 600 '{file}', or --fix"
    assert texts[1].endswith("export RAY_AUTH_MODE=token")
    list(machine_checks.ray_token(fix=True))
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert only(machine_checks.ray_token(fix=False)) == Finding("ok", "token", "there, and sent")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert only(machine_checks.ray_token(fix=False)).level == "warn"


def test_ports_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("0.0.0.0", 0)) as open_to_all, socket.create_server(("127.0.0.1", 0)) as own:
        monkeypatch.setattr(machine_checks, "DASHBOARD", open_to_all.getsockname()[1])
        monkeypatch.setattr(machine_checks, "GCS", own.getsockname()[1])
        monkeypatch.setattr(machine_checks, "head_runs", lambda: False)
        first, second = machine_checks.ray_ports()
        assert "listens on 0.0.0.0" in first.text
        assert f"another --port for {machine_checks.GCS}" in second.text
        assert {first.level, second.level} == {"warn"}


def test_little_space_and_no_permission(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(machine_checks.disk("disk", home / "none" / "deeper")).text.startswith(f"{home}: ")
    found = only(machine_checks.disk("disk", Path("/proc/none")))
    assert (found.level, found.code) == ("FAIL", 5)
    monkeypatch.setattr(machine_checks, "DISK_GIB", 1e9)
    monkeypatch.setattr(machine_checks, "SHARED_GIB", 1e9)
    monkeypatch.setattr(machine_checks, "MEMORY_GIB", 1e9)
    for findings in (machine_checks.disk("disk", home), machine_checks.shared_memory(home), machine_checks.memory()):
        found = only(findings)
        assert found.level == "warn"
        assert ";" in found.text


def test_a_bucket(s3: str) -> None:
    text = doctor.probe(s3)
    assert text.startswith(f"{s3}: conditional put ")
    assert text.count(" ms") == 4
    assert storage.listing(s3) == []


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    said = doctor.probe(str(tmp_path / "new" / "runs"))
    assert said.startswith(f"{tmp_path}/new/runs would be made in {tmp_path}: conditional put ")
    assert list(tmp_path.iterdir()) == []


def test_storage_that_is_not_to_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_new", lambda *_: True)
        with pytest.raises(StorageError, match="ignores If-None-Match"):
            doctor.probe(str(tmp_path))
    monkeypatch.setattr(storage, "read", lambda _: b"other")
    with pytest.raises(StorageError, match="other bytes than were written"):
        doctor.probe(str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("s3_endpoint")
@pytest.mark.parametrize(
    ("uri", "environment", "text"),
    [
        ("s3://no-such-bucket-here/runs", {}, "bucket 'no-such-bucket-here' does not exist"),
        ("s3://test-bucket/x", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials"),
        ("s3://test-bucket/x", {"AWS_PROFILE": "nobody"}, "AWS_PROFILE names a profile"),
    ],
)
def test_distinct_texts(
    uri: str, environment: dict[str, str], text: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = verb(uri, at=home)
    assert done.returncode == 5, done.stdout
    assert text in lines(done)["storage"]


def test_a_cluster_that_is_not_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    done = verb(str(home), at=home)
    assert done.returncode == 7
    assert "FAIL  cluster    RAY_ADDRESS=127.0.0.1:9: does not answer" in done.stdout


def test_a_check_that_breaks_off_is_no_crash() -> None:
    def half() -> Iterator[Finding]:
        yield machine_checks.ok("it", "one")
        raise OSError("no such table")

    def refused() -> Iterator[Finding]:
        raise ConfigError("uri: bad")
        yield

    first, second = doctor.examined(half, "it")
    assert (first.level, second.level, second.text) == ("ok", "warn", "could not look: OSError: no such table")
    assert doctor.examined(half, "it", code=7)[1] == Finding("FAIL", "it", second.text, 7)
    assert doctor.examined(refused, "it") == [Finding("FAIL", "it", "uri: bad", 2)]


def test_names_cannot_speak_to_the_terminal(home: Path) -> None:
    done = verb("runs\x1b]0;owned\x07", at=home)
    assert "\x1b" not in done.stdout + done.stderr
