"""A browser opens the page of a sweep."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.sweep_pages import written


@pytest.mark.parametrize("count", [0, 20])
def test_a_browser_has_nothing_to_say(tmp_path: Path, count: int) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser: chromium is absent")
    file = tmp_path / "sweep.html"
    file.write_text(written(count))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}/profile"]
    line = [browser, *options, "--enable-logging=stderr", "--dump-dom", file.as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<svg") == file.read_text().count("<svg")
    assert done.stdout.rstrip().endswith("</html>")
