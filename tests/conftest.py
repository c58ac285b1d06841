"""Shared fixtures: real data, and shape checks of every signature that has shapes while tests run.

Nothing here imports torch: pytest's workers wait for the process that starts them, which has no use for it.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from icon_dist.cpu import keep_freed_memory
from tests.support.once import once
from tests.support.paths import ROOT
from tests.support.shapes import check_again
from tests.support.small_shards import copy, made  # noqa: F401  (fixtures)

keep_freed_memory()  # as commands do
os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers of pytest and ranks of tests share the cores as processes
# Signatures without shapes are called most and mypy knows them: checking all takes twice the time, and `-m slow` does.
CHECKED = os.environ.setdefault("CHECKED", "all" if "slow" in sys.argv else "shapes")  # pytest's workers inherit it
MODULES = [path for path in (ROOT / "icon_dist").rglob("*.py") if CHECKED == "all" or "jaxtyping" in path.read_text()]
NAMES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in MODULES]
install_import_hook(NAMES, "tests.support.shapes.check")


def pytest_collection_finish() -> None:
    _freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        _freeze()


def _freeze() -> None:
    """What is left was imported and stays: every later collection would look through it again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    check_again()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real photos and annotations beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder.relative_to(ROOT.parent)} is absent beside the checkout")
    return folder


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from tests.support.s3 import moto_server

    with moto_server(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def s3(s3_endpoint: str) -> str:
    """An empty ``s3://`` prefix for one test, served over real HTTP."""
    del s3_endpoint
    return f"s3://test-bucket/{uuid.uuid4().hex}"


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two attempts at a store this process sleeps a tenth of the time: tenacity's waits and botocore's."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 10))


@pytest.fixture(scope="module")
def module_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for what the tests of a file share, such as runs, which is gone after the last of them."""
    folder = tmp_path_factory.mktemp("module")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated people as shards: ``train`` (at least 64) and ``val`` (at least 24)."""

    def make(folder: Path) -> None:
        from icon_dist.shards.synthetic import Crowd, generate_shards

        for split, count, seed in (("train", 64, 0), ("val", 24, 1)):
            generate_shards(str(folder / split), Crowd(people=count, seed=seed), split=split, per_shard=20)

    return once(tmp_path_factory, "people", make)
