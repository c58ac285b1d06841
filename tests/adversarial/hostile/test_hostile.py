"""Malicious files under every name that somebody may be talked into opening.

None runs, none is written outside its place, none fills the memory or reaches the terminal as it is; each is one line
and an exit code.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from icon_dist import storage
from tests.adversarial.hostile import cases_configs, cases_models, cases_shards, cases_sizes
from tests.adversarial.hostile.cell import SECRET, VICTIM, Cell, stock
from tests.adversarial.hostile.prison import Outcome, run, traces
from tests.adversarial.hostile.tricks import JPEG

CASES = cases_models.CASES | cases_configs.CASES | cases_shards.CASES | cases_sizes.CASES


@pytest.fixture(scope="module")
def store(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    stock(people, folder)
    return folder


@pytest.fixture
def cell(store: Path, tmp_path: Path) -> Cell:
    return Cell(store, tmp_path / "cell")


def imprisoned(cell: Cell, line: list[str]) -> Outcome:
    """Run it; nothing but ``out`` may have changed, and neither secret nor escape may be said."""
    before = traces(cell.folder)
    secrets = {"CANARY": SECRET, "HOME": str(cell.folder), "OMP_NUM_THREADS": "1"}
    done = run(line[0], *line[1:], cell=cell.folder, environment=secrets)
    assert not cell.canary.exists(), "it ran"
    assert traces(cell.folder) == before, "something was written outside its place"
    said = done.out + done.err
    assert "\x1b" not in said
    for text in (SECRET, VICTIM, "hunter2"):
        assert text not in said
    return done


def test_the_stock_is_sound(cell: Cell) -> None:
    """Otherwise the cases would be refused for other reasons."""
    for line in (cell.evaluate(), cell.fetch(), cell.verify(), cell.train(), cell.build({}, JPEG)):
        done = imprisoned(cell, line)
        assert done.code == 0, (line, done)


@pytest.mark.parametrize("case", list(CASES))
def test_a_malicious_file(case: str, cell: Cell) -> None:
    prepare, code, text = CASES[case]
    line = prepare(cell)
    done = imprisoned(cell, line)
    assert "Traceback" not in done.err, done.err
    last = done.err.splitlines()[-1]
    assert done.code == code, done
    assert last.startswith("icon_dist: error: ")
    assert len(last) < 2100
    assert re.search(text, done.out + done.err), done
    assert sum("icon_dist: error" in one for one in done.err.splitlines()) == 1


def test_a_link_in_the_way_is_replaced_not_followed(cell: Cell) -> None:
    target = cell.folder / "out" / "got.safetensors"
    target.symlink_to(cell.victim)
    assert imprisoned(cell, cell.fetch()).code == 2  # it is there
    assert imprisoned(cell, [*cell.fetch(), "--force"]).code == 0
    assert not target.is_symlink()


def test_a_run_of_links_is_not_followed_when_it_is_deleted(cell: Cell) -> None:
    (cell.run / "deeper").symlink_to(cell.folder / "outside")
    storage.delete(str(cell.run), tree=True)
    assert cell.victim.read_text() == VICTIM
    assert not os.path.lexists(cell.run)
    shutil.rmtree(cell.folder)
