"""README and docs: every link and anchor leads somewhere, every command has a verb and options that exist."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import logging
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mkdocs.commands.build
import mkdocs.config
import pytest

from icon_dist.__main__ import VERBS, dispatch
from icon_dist.cli import presets
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


def load(script: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / "docs" / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_that_of_the_package() -> None:
    for name, text in load("reference/generate.py").pages().items():
        assert (ROOT / "docs/reference" / name).read_text() == text, "run python docs/reference/generate.py"


def test_the_figures_are_what_the_script_draws() -> None:
    for name, svg in load("figures/draw.py").figures().items():
        assert (ROOT / "docs/figures" / name).read_text() == svg, "run python docs/figures/draw.py"
        ET.fromstring(svg)


def test_the_site_builds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every page is in the navigation, and no anchor is missing."""
    config = mkdocs.config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
    mkdocs.commands.build.build(config)
    assert not [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert (tmp_path / "reference/cli/index.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_paths_exist(page: Path) -> None:
    """What stands as code and begins with a folder of ours is a file or folder of ours."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    for path in re.findall(r"`((?:docs|cluster|sweeps|tests|icon_dist)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_files_that_the_package_or_a_page_points_to_exist() -> None:
    """``losses/icon.py`` and `losses/icon.py` are files of ours where the package has such a folder."""
    package = ROOT / "icon_dist"
    folders = [path.name for path in package.iterdir() if path.is_dir()]
    path = re.compile(rf"`((?:{'|'.join(folders)})/\w+\.(?:py|yaml|html))`")
    module = re.compile(r":mod:`icon_dist\.([\w.]+)`")
    named = 0
    for file in [*PAGES, *package.rglob("*.py")]:
        text = file.read_text()
        for name in [*path.findall(text), *(f"{name.replace('.', '/')}.py" for name in module.findall(text))]:
            named += 1
            places = (package / name, ROOT / name, (package / name).with_suffix("") / "__init__.py")
            assert any(place.exists() for place in places), f"{file.relative_to(ROOT)}: {name}"
    assert named > 50


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
