"""``shards/*.py`` as a user types them, and a part of Leeds Sports Pose to build."""

from __future__ import annotations

import contextlib
import hashlib
import io
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from icon_dist.command_exit import run_cli
from tests.support.paths import ROOT


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(script: str, *arguments: object, cwd: Path) -> Result:
    """In a process of its own."""
    command = [sys.executable, str(ROOT / "shards" / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def call(script: str, *arguments: object, cwd: Path) -> Result:
    """In this process, which is quicker."""
    main = runpy.run_path(str(ROOT / "shards" / script))["main"]
    out, err = io.StringIO(), io.StringIO()
    quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with contextlib.chdir(cwd), quiet[0], quiet[1], pytest.raises(SystemExit) as left:
        run_cli(main, [*map(str, arguments)])
    return Result(int(left.value.code or 0), out.getvalue(), err.getvalue())


def lsp(shared: Path, out: object, *more: object, names: tuple[str, ...] = ("lspet_full14",)) -> list[object]:
    files = [part for name in names for part in ("--annotations", shared / "lsp" / f"{name}.json")]
    return ["custom", "--skeleton", "lsp", *files, "--images", shared / "lsp" / "images", "--out", out, *more]


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


PEOPLE = 160
SOME = ("--limit", PEOPLE, "--per-shard", PEOPLE // 10)


def packed_some(shared: Path, folder: Path) -> Path:
    """``PEOPLE`` of them, packed in one process, from a folder that is not the repository."""
    result = run("build.py", *lsp(shared, "some", *SOME, "--jobs", 1), cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"some: {PEOPLE} people, 10 shards")
    return folder / "some"
