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
from tests.adversarial.hostile.attacks import JPEG
from tests.adversarial.hostile.isolated import Outcome, run, traces
from tests.adversarial.hostile.sandbox import SECRET, VICTIM, Sandbox, stock

CASES = cases_models.CASES | cases_configs.CASES | cases_shards.CASES | cases_sizes.CASES


@pytest.fixture(scope="module")
def store(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    stock(people, folder)
    return folder


@pytest.fixture
def sandbox(store: Path, tmp_path: Path) -> Sandbox:
    return Sandbox(store, tmp_path / "sandbox")


def isolated(sandbox: Sandbox, line: list[str]) -> Outcome:
    """Run it; nothing but ``out`` may have changed, and neither secret nor escape may be said."""
    before = traces(sandbox.folder)
    secrets = {"CANARY": SECRET, "HOME": str(sandbox.folder), "OMP_NUM_THREADS": "1"}
    done = run(line[0], *line[1:], sandbox=sandbox.folder, environment=secrets)
    assert not sandbox.canary.exists(), "it ran"
    assert traces(sandbox.folder) == before, "something was written outside its place"
    said = done.out + done.err
    assert "\x1b" not in said
    for text in (SECRET, VICTIM, "hunter2"):
        assert text not in said
    return done


def test_the_stock_is_sound(sandbox: Sandbox) -> None:
    """Otherwise the cases would be refused for other reasons."""
    for line in (sandbox.evaluate(), sandbox.fetch(), sandbox.verify(), sandbox.train(), sandbox.build({}, JPEG)):
        done = isolated(sandbox, line)
        assert done.code == 0, (line, done)


@pytest.mark.parametrize("case", list(CASES))
def test_a_malicious_file(case: str, sandbox: Sandbox) -> None:
    prepare, code, text = CASES[case]
    line = prepare(sandbox)
    done = isolated(sandbox, line)
    assert "Traceback" not in done.err, done.err
    last = done.err.splitlines()[-1]
    assert done.code == code, done
    assert last.startswith("icon_dist: error: ")
    assert len(last) < 2100
    assert re.search(text, done.out + done.err), done
    assert sum("icon_dist: error" in one for one in done.err.splitlines()) == 1


def test_a_link_in_the_way_is_replaced_not_followed(sandbox: Sandbox) -> None:
    target = sandbox.folder / "out" / "got.safetensors"
    target.symlink_to(sandbox.victim)
    assert isolated(sandbox, sandbox.fetch()).code == 2  # it is there
    assert isolated(sandbox, [*sandbox.fetch(), "--force"]).code == 0
    assert not target.is_symlink()


def test_a_run_of_links_is_not_followed_when_it_is_deleted(sandbox: Sandbox) -> None:
    (sandbox.run / "deeper").symlink_to(sandbox.folder / "outside")
    storage.delete(str(sandbox.run), tree=True)
    assert sandbox.victim.read_text() == VICTIM
    assert not os.path.lexists(sandbox.run)
    shutil.rmtree(sandbox.folder)
