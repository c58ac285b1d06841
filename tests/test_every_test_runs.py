"""No test file is left out: pytest skips folders of some names (``dist``, ``build``) without a word."""

from __future__ import annotations

import subprocess
import sys
import tomllib

from tests.conftest import ROOT


def test_every_test_file_is_collected_by_make_test_or_make_slow() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    fast = options.split("-m '")[1].rstrip("'")
    recipes = (ROOT / "Makefile").read_text()
    assert "\t$(BIN)/pytest -n 2 --dist loadgroup\n" in recipes
    assert "\t$(BIN)/pytest -m slow\n" in recipes
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", f"({fast}) or slow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:]
    collected = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    there = {file.relative_to(ROOT).as_posix() for file in (ROOT / "tests").rglob("test_*.py")}
    assert collected == there
