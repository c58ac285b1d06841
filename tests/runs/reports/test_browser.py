"""Every kind of page in a real browser without network, narrow and wide, light and dark: nothing is cut or missing."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest

from icon_dist import compare, evaluate
from icon_dist.shards import view
from tests.support import small_sets as objects
from tests.support.run_folders import write_run
from tests.support.sweep_pages import written

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (400, 1400)  # px
LONG = "left_index_finger_metacarpophalangeal_joint"  # nothing breaks such a word
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-quic"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ),
    *("--enable-logging=stderr", "--virtual-time-budget=20000", "--window-size=1500,1000", "--dump-dom"),
)


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return found


@pytest.fixture(scope="module")
def folder(module_path: Path) -> Path:
    """A page of each kind, of a hand of 21 joints and a study of trials; beside them ``crops.png``."""
    hand = objects.skeleton("hand", joints=21)
    hand = dataclasses.replace(hand, joints=(LONG, *hand.joints[1:]), flips=((1, 2), (3, 4)), bones=((0, 1), (1, 5)))
    shards = objects.shards_of(hand, module_path)
    own = {"skeleton": hand, "data__dataset": "custom", "data__augment__half_body_p": 0.0, "loss__lambda_2": 0.0}
    arms = {"base": {"loss__lambda_p": 0.0}, f"{LONG}-and-more": {"loss__tau": 0.1}, "icon": {}}
    runs = [
        write_run(
            f"{module_path}/runs/{name}-{seed}",
            scores=[{"AP": 0.1 * epoch + 0.01 * seed} for epoch in range(5)],
            headline="AP",
            run__seed=seed,
            data__val=shards,
            weights_seed=number,
            **own,
            **arm,
        )
        for number, (name, arm) in enumerate(arms.items())
        for seed in (0, 1)
    ]
    some = ["--loaders", "0", "--limit", "4"]
    compare.main([runs[0], runs[2], runs[4], "-o", f"{module_path}/comparison.html", *some])
    compare.main([*runs, "-o", f"{module_path}/recorded.html", "--no-evaluation"])
    compare.main([runs[-1], "-o", f"{module_path}/one.html", *some])
    evaluate.main([runs[0], "--shards", shards, "--diagnose", str(module_path), *some])
    for trials in (0, 1, 20):
        (module_path / f"sweep-{trials}.html").write_text(written(trials, cost=True))
    view.main([shards, "-o", f"{module_path}/crops.png", "--count", "3"])
    return module_path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page(dark: bool, browser: str, folder: Path, tmp_path: Path) -> None:
    pages = sorted(folder.glob("*.html"))
    assert len(pages) == 7
    frames = [
        f'<iframe title="{page.stem} at {width}" style="width: {width}px; height: 900px; border: 0" '
        f'srcdoc="{html.escape(page.read_text())}"></iframe>'
        for page in pages
        for width in WIDTHS
    ]
    script = (Path(__file__).parent / "check_pages.js").read_text()
    picture = f'<img src="{(folder / "crops.png").as_uri()}">'
    head = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><pre id="result"></pre>'
    index = tmp_path / "index.html"
    index.write_text(f"{head}{picture}{''.join(frames)}<script>{script}</script>")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    line = [browser, *OPTIONS, scheme, f"--user-data-dir={tmp_path}/profile", index.as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert said == []
    result = re.search(r'<pre id="result">(\{.*?\})</pre>', done.stdout, re.DOTALL)
    assert result is not None, done.stderr[-2000:]
    measured = json.loads(html.unescape(result[1]))
    assert measured["dark"] == dark
    assert len(measured["found"]) == len(frames)
    assert {title: faults for title, faults in measured["found"].items() if faults} == {}
    height, width = cv2.imread(str(folder / "crops.png")).shape[:2]
    assert measured["pictures"] == [[width, height]]
