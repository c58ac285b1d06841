"""No test file is left out: each lies where ``make test`` or ``make slow`` looks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT


def options() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]


def under(file: Path, places: list[str]) -> bool:
    return any(file == ROOT / place or ROOT / place in file.parents for place in places)


def test_every_test_file_lies_where_a_command_looks() -> None:
    fast, _, slow = (ROOT / "Makefile").read_text().partition("\nslow:")
    assert "\ntest: setup\n\t$(MAKE) --jobs=2 lint pytest\n" in fast
    assert "\npytest: setup\n\t$(PYTEST)\n" in fast  # all of testpaths
    lines = [line for line in slow.partition("\n\n")[0].splitlines() if "$(BIN)/pytest " in line]
    every, marked, quick = (re.findall(r"tests/\w+", line) for line in lines)  # every test, what is marked, the others
    paths = options()["testpaths"]
    files = list((ROOT / "tests").rglob("test_*.py"))
    assert [file for file in files if not under(file, [*paths, *every, *quick])] == []
    slow_ones = [
        file for file in files if re.search(r"pytest\.mark\.slow\b", file.read_text()) and file != Path(__file__)
    ]
    assert [file for file in slow_ones if not under(file, [*every, *marked])] == []
    assert not set(every) & {*marked, *quick}


def test_no_folder_has_a_name_that_pytest_skips() -> None:
    """It leaves out ``build``, ``dist``, ``venv`` and hidden ones without a word."""
    assert "norecursedirs" not in options()
    folders = [path.name for path in (ROOT / "tests").rglob("*") if path.is_dir()]
    assert not {"build", "dist", "node_modules", "venv", "CVS", "_darcs"} & set(folders)
    assert [name for name in folders if name.startswith(".") or name.endswith(".egg")] == []


def test_a_unit_test_is_named_after_what_it_tests() -> None:
    """Its name begins with that of a module at its place, or of its folder, so that it is found by one guess."""
    package, unit = ROOT / "icon_dist", ROOT / "tests" / "unit"
    lost = []
    for file in unit.rglob("test_*.py"):
        place = package / file.parent.relative_to(unit)
        names = [place.name, *(path.stem for path in place.iterdir() if path.suffix == ".py" or path.is_dir())]
        if not any(file.stem.removeprefix("test_").startswith(name) for name in names):
            lost.append(str(file.relative_to(unit)))
    assert lost == []
