"""README and docs: every link and anchor leads somewhere, every command has a verb and options that exist."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from icon_dist.__main__ import VERBS, dispatch
from icon_dist.config import presets
from tests.support.paths import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of the headings of a page."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    titles = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def commands(page: Path) -> Iterator[list[str]]:
    """The icon-dist lines of the console blocks of a page, each as words."""
    for block in re.findall(r"(?ms)^```(?:console|sh|bash)?\n(.*?)^```", page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("icon-dist "):
                yield shlex.split(line, comments=True)[1:]


def test_there_are_commands_to_look_at() -> None:
    assert len([*commands(ROOT / "README.md")]) > 5


@pytest.fixture(scope="module")
def help_of() -> dict[str, str]:
    texts = {}
    for verb in VERBS:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            dispatch([*verb.split(), "--help"])
        texts[verb] = out.getvalue()
    return texts


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_exist(page: Path, help_of: dict[str, str]) -> None:
    for words in commands(page):
        if words[0].startswith("-"):
            continue
        verb = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in VERBS), None)
        assert verb is not None, words
        own = words[: words.index("--")] if "--" in words else words
        for option in (word.partition("=")[0] for word in own if re.match(r"--?[a-z]", word)):
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_of[verb]), f"{verb}: {option}"
        for option, name in itertools.pairwise(words):
            if option == "--cfg" and re.fullmatch(r"[a-z0-9_]+", name):
                assert name in presets(), name
