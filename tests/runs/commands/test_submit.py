"""The submitted line, ids that make a retry a resume, and what is asked of the cluster; Ray itself in tests/e2e."""

from __future__ import annotations

import http.server
import json
import re
import shlex
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._private.runtime_env.packaging import create_package

from icon_dist import config as configuration
from icon_dist import submit
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError
from icon_dist.launch.ray_compat import packaged

TRAIN = ["--", "--cfg", "demo", "run.dir=s3://bucket/runs", "data.train=s3://bucket/a", "data.val=s3://bucket/b"]
RUN = "demo-18e74102"
PROGRAM = """#!/usr/bin/env bash
cd "$(dirname "$0")"
echo "$RAY_AUTH_MODE" > mode
printf '%s\\n' "$@" > "arguments-$2"
[ "$2" = submit ] || echo "the log"
[ -f refuses ] || exit 0
printf 'Traceback (most recent call last):\\n  File "cli.py", line 1\\nRuntimeError: no agent\\n.\\n' >&2
exit 1
"""


class Dashboard(http.server.ThreadingHTTPServer):
    """Answers as Ray's job server."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: list[dict[str, Any]] = []
        self.after: list[dict[str, Any]] = []  # what else is there from the second request on
        self.stopped: list[str] = []
        self.token = "secret-token"
        self.log = ""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Dashboard

    def log_message(self, *args: object) -> None:
        del args

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.send_error(401)
            return
        if self.command == "POST":
            self.server.stopped.append(self.path)
        answer: object = {"stopped": True} if self.command == "POST" else self.server.jobs
        body = json.dumps({"logs": self.server.log} if self.path.endswith("/logs") else answer).encode()
        self.server.jobs = self.server.jobs + self.server.after
        self.server.after = []
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


@pytest.fixture
def dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    """A job server, a ray command beside this Python, and a working directory with files."""
    server = Dashboard()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    for name in ("bin/ray", "work/icon_dist/data/code.py", "work/data/photo.bin", "work/.git/pack", "work/a/big.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(PROGRAM if name == "bin/ray" else "x" * 1000)
    (tmp_path / "bin" / "ray").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", server.token)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def job(number: int, status: str, message: str = "") -> dict[str, Any]:
    return {"submission_id": f"{RUN}.{number}", "status": status, "message": message}


def code(*argv: str) -> int:
    with pytest.raises(SystemExit) as left:
        run_cli(submit.main, list(argv))
    return int(left.value.code or 0)


def test_the_line_is_printed_and_run(dashboard: Dashboard, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert code(*TRAIN) == 0
    shown = capfd.readouterr().out
    line = next(text for text in shown.splitlines() if text.startswith("$ "))
    assert line.startswith("$ RAY_AUTH_MODE=token ray job submit --address http://127.0.0.1:")
    assert (tmp_path / "bin" / "mode").read_text() == "token\n"
    ran = (tmp_path / "bin" / "arguments-submit").read_text().splitlines()
    assert ran == shlex.split(line)[3:]
    assert ran[ran.index("--submission-id") + 1] == f"{RUN}.1"
    assert ran[ran.index("--working-dir") + 1] == str(tmp_path / "work")
    assert "--no-wait" in ran
    assert ran[-8:] == ["python", "-m", "icon_dist.train", *TRAIN[1:]]
    assert "1 file, 0.0 MB" in shown  # without data, .git and shards
    assert "secret-token" not in shown
    assert dashboard.stopped == []


def test_what_is_said_to_be_shipped_is_what_ray_ships(tmp_path: Path) -> None:
    """The package that Ray itself makes of a working directory; a pattern that matches "." would leave it empty."""
    work = tmp_path / "work"
    ignored = {"a/.gitignore": "secret.yaml\n", ".gitignore": "/notes/*\n!/notes/kept.md\n", ".rayignore": "*.log"}
    kept = {"mine.yaml", "icon_dist/data/code.py", "a/.hidden", "a/.gitignore", "notes/kept.md", "linked/photo.txt"}
    left = {".git/pack", "data/photo.bin", "runs/a", "a/b.tar", "a/secret.yaml", "notes/a", "b/a.log", *ignored} - kept
    for name in (kept | left) - {"linked/photo.txt"} | {"../elsewhere/photo.txt"}:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(ignored.get(name, "x"))
    (work / "linked").symlink_to("../elsewhere")
    (work / "b" / "dangling").symlink_to("nowhere")
    create_package(str(work), tmp_path / "package.zip", include_gitignore=True, excludes=submit.LEFT_BEHIND)
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        shipped = {file.filename: file.file_size for file in package.infolist() if not file.is_dir()}
    assert shipped.keys() == kept
    assert shipped == packaged(work, submit.LEFT_BEHIND)


@pytest.mark.usefixtures("dashboard")
def test_a_directory_that_ray_cannot_pack(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "work" / "a" / ".gitignore").write_bytes(b"\xff\n")
    assert code(*TRAIN) == 2
    said = capfd.readouterr().err
    assert "Ray cannot pack it ('utf-8' codec can't decode byte 0xff" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("cfg", "folder"),
    [
        ("a/mine.yaml", "."),
        ("mine.yaml", "a"),  # what it extends is outside
        ("a/mine.yaml", "a"),
        ("./a/../base.yaml", "."),
        ("runs/lsp-lambdas/best.yaml", "."),
        (".hidden/best.yaml", "."),
        ("../project/base.yaml", "."),
        ("../outside.yaml", "."),
        ("a/outside.yaml", "."),
        ("demo", "a"),
        ("ignored.yaml", "."),
    ],
)
def test_a_config_is_refused_where_the_job_would_not_find_it(
    cfg: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Asked of Ray's own package, unpacked elsewhere: there it is loaded exactly where it was not refused here."""
    work = tmp_path / "project"
    written = {
        "base.yaml": "extends: demo\n",
        "a/mine.yaml": "extends: ../base.yaml\n",
        "runs/lsp-lambdas/best.yaml": "extends: demo\n",
        ".hidden/best.yaml": "extends: demo\n",
        "../outside.yaml": "extends: demo\n",
        "a/outside.yaml": "extends: ../../outside.yaml\n",
        "ignored.yaml": "extends: demo\n",
    }
    for name, text in written.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text + "optim: {lr: 0.5}\n")
    (work / ".gitignore").write_text("ignored.yaml\n")
    monkeypatch.chdir(work)
    line = ["--dry-run", "--working-dir", folder, "--", "--cfg", cfg, *TRAIN[3:]]
    if cfg == "mine.yaml":
        monkeypatch.chdir(work / "a")
        line[2] = "."
    refused = code(*line) == 2
    if refused:
        assert "is not in what is shipped" in capfd.readouterr().err
    package, there = tmp_path / "package.zip", tmp_path / "node" / "package"
    create_package(str(work / folder), package, include_gitignore=True, excludes=submit.LEFT_BEHIND)
    with zipfile.ZipFile(package) as archive:
        archive.extractall(there)
    monkeypatch.chdir(there)
    try:
        found = configuration.load(cfg).optim.lr
    except ConfigError:
        found = None
    assert found == (None if refused else 6e-3 if cfg == "demo" else 0.5)


@pytest.mark.usefixtures("dashboard")
@pytest.mark.parametrize("words", [[], ["--follow"]])
def test_a_job_that_ray_does_not_take(words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bin" / "refuses").touch()
    assert code(*words, *TRAIN) == 7
    said = capfd.readouterr().err
    assert re.fullmatch(r"icon_dist: error: http://\S+: takes no job: RuntimeError: no agent\n", said)


def test_a_finished_run_is_submitted_again_under_the_next_id(dashboard: Dashboard, tmp_path: Path) -> None:
    dashboard.jobs = [job(2, "FAILED"), job(1, "STOPPED"), {"submission_id": "other.7", "status": "RUNNING"}]
    dashboard.jobs += [{"submission_id": None, "status": "RUNNING"}]  # a driver that nobody submitted
    code(*TRAIN)
    assert f"{RUN}.3" in (tmp_path / "bin" / "arguments-submit").read_text().splitlines()


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_running_run_is_not_started_twice(
    status: str, dashboard: Dashboard, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dashboard.jobs = [job(1, status)]
    assert code(*TRAIN) == 0
    assert f"{RUN}.1 is {status} already" in capfd.readouterr().out
    assert not (tmp_path / "bin" / "arguments-submit").exists()


def test_other_values_do_not_make_another_run(dashboard: Dashboard, tmp_path: Path) -> None:
    dashboard.jobs = [job(1, "RUNNING")]
    assert code(*TRAIN, "optim.lr=0.1") == 0
    assert not (tmp_path / "bin" / "arguments-submit").exists()
    assert code(*TRAIN, "run.name=mine") == 0
    assert (tmp_path / "bin" / "arguments-submit").exists()


@pytest.mark.parametrize(
    ("status", "message", "log", "expected"),
    [
        ("SUCCEEDED", "", "", 0),
        ("FAILED", "Job entrypoint command failed with exit code 75, last available logs: x", "", 75),
        ("FAILED", "The actor died", "", 1),
        ("STOPPED", "", "step 3\nicon_dist: stopped by SIGTERM at step 4, checkpoint committed; ... resumes\n", 75),
        ("STOPPED", "", "step 3\n", 1),  # killed before it had saved
    ],
)
def test_follow_ends_as_the_job_ends(
    status: str,
    message: str,
    log: str,
    expected: int,
    dashboard: Dashboard,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    dashboard.after, dashboard.log = [job(1, status, message)], log
    assert code("--follow", *TRAIN) == expected
    shown = capfd.readouterr().out
    assert "the log" in shown
    assert f"{RUN}.1: {status}, exit code {expected}" in shown
    assert (tmp_path / "bin" / "arguments-logs").read_text().splitlines()[-2:] == ["--follow", f"{RUN}.1"]


def test_status_logs_and_stop(dashboard: Dashboard, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert code("--status", *TRAIN) == 7
    assert "no job of run demo in s3://bucket/runs" in capfd.readouterr().err
    dashboard.jobs = [job(1, "FAILED"), job(2, "RUNNING", "Job is currently running.")]
    assert code("--status", *TRAIN) == 0
    assert capfd.readouterr().out == f"{RUN}.2: RUNNING (Job is currently running.)\n"
    assert code("--stop", *TRAIN) == 0
    assert dashboard.stopped == [f"/api/jobs/{RUN}.2/stop"]
    dashboard.jobs = [job(1, "FAILED", "exit code 3")]
    assert code("--logs", *TRAIN) == 3
    assert (tmp_path / "bin" / "arguments-logs").read_text().splitlines()[-1] == f"{RUN}.1"
    assert code("--stop", *TRAIN) == 0
    assert len(dashboard.stopped) == 1


@pytest.mark.usefixtures("dashboard")
@pytest.mark.parametrize(
    ("argv", "expected", "said"),
    [
        ([], 2, "-- --cfg NAME"),
        (["--", "--cfg", "demo"], 2, "run.dir='runs': a relative path"),
        ([*TRAIN, "data.val=data/b"], 2, "data.val='data/b': a relative path"),
        ([*TRAIN, "optim.batsh=3"], 2, "optim.batsh"),
        (["--", "--cfg", "nonsense"], 2, "nonsense"),
        (["--working-dir", "absent", *TRAIN], 2, "no such folder"),
        (["--address", "ray://x", *TRAIN], 2, "expected the dashboard's"),
        (["--address", "http://127.0.0.1:9", *TRAIN], 7, "no Ray cluster answers"),
    ],
)
def test_refusals(argv: list[str], expected: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert code(*argv) == expected
    shown = capfd.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


@pytest.mark.usefixtures("dashboard")
def test_a_large_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submit, "MOST_BYTES", 1500)
    (tmp_path / "work" / "photos").mkdir()
    (tmp_path / "work" / "photos" / "one.bin").write_bytes(b"x" * 1400)
    assert code(*TRAIN) == 2
    assert "the largest file is photos/one.bin" in capfd.readouterr().err
    assert code("--no-working-dir", "--dry-run", "--", "--cfg", "demo") == 0
    shown = capfd.readouterr().out
    assert "--working-dir" not in shown
    assert "--submission-id demo-" in shown


def test_a_wrong_token(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "other-token")
    assert code(*TRAIN) == 7
    assert "refuses this token" in capfd.readouterr().err
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    assert code(*TRAIN) == 7
    assert "wants a token" in capfd.readouterr().err
    (tmp_path / "token").write_text(dashboard.token + "\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert code("--status", *TRAIN) == 7
    assert "no job of run" in capfd.readouterr().err
