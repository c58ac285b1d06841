"""What a save costs does not depend on how many checkpoints lie beside it, and no hint decides what is removed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from icon_dist import storage
from icon_dist.checkpoints import checkpoint, manifest, manifest_cache, retention
from icon_dist.storage import hashed_json
from tests.support.other_stores import store


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys for a store, and no wait for the disk: these tests count."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr(os, "fsync", lambda _: None)


def save(run: str, step: int, *, keep: int, score: float | None = None) -> str:
    tensors = {"model": {"w": torch.full((2,), step)}, "optimizer": {"m": torch.zeros(2)}}
    details = {"score": score}
    return checkpoint.save(
        run, step=step, attempt="a", tensors=tensors, state={"step": step}, manifest=details, keep=keep
    )


def steps(run: str) -> list[int]:
    return [entry.step for entry in manifest.entries(run)]


def known(run: str) -> dict[str, list[Any]]:
    facts: dict[str, list[Any]] = json.loads(storage.read(f"{run}/{manifest_cache.NAME}"))["checkpoints"]
    return facts


def say(run: str, facts: dict[str, list[Any]]) -> None:
    """A cache with a good seal, whatever it says."""
    storage.write(f"{run}/{manifest_cache.NAME}", hashed_json.sealed({"checkpoints": facts}))


# ------------------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize("keep", [2, 1000])
def test_reads_of_a_save_do_not_grow(keep: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(tmp_path)
    reads: list[str] = []
    read = storage.read
    monkeypatch.setattr(storage, "read", lambda uri, *a, **k: reads.append(uri) or read(uri, *a, **k))
    counts = {}
    for step in range(1, 41):
        reads.clear()
        save(run, step, keep=keep, score=1 / step)
        counts[step] = len(reads)
    assert len(steps(run)) == (3 if keep == 2 else 40)
    assert counts[12] == counts[20] == counts[40] <= 12


def test_requests_of_a_save_do_not_grow() -> None:
    """All but the pages of one listing."""
    with store() as server:
        counts, pages = {}, {}
        for step in range(1, 19):
            server.seen.clear()
            save("s3://bucket/run", step, keep=1000, score=step / 100)
            counts[step] = sum("prefix" not in path for _, path in server.seen)
            pages[step] = sum(path.endswith("checkpoints%2F") or "checkpoints%2F&" in path for _, path in server.seen)
        assert counts[10] == counts[14] == counts[18]
        assert pages[18] <= 4 * 18 // 3 + 1, "a page has 3 objects, a checkpoint 4 files: all of them once"


def test_many_old_ones_go_by_and_by(tmp_path: Path) -> None:
    run = str(tmp_path)
    for step in range(1, 41):
        save(run, step, keep=1000, score=0.9 if step == 7 else 0.1)
    left = []
    for step in range(41, 45):
        save(run, step, keep=2, score=0.1)
        left.append(len(steps(run)))
    assert left == [41 - retention.REMOVED, 42 - 2 * retention.REMOVED, 3, 3]
    assert steps(run) == [7, 43, 44]


# ------------------------------------------------------------------------------------------------------ never believed


def test_a_hint_removes_no_best(tmp_path: Path) -> None:
    """The cache says that another one is better, and then that the best is worst."""
    run = str(tmp_path)
    for step, score in ((1, 0.2), (2, 0.9), (3, 0.3), (4, 0.1)):
        save(run, step, keep=9, score=score)
    say(run, {folder: [listed, whole, 1 - score, 0] for folder, (listed, whole, score, _) in known(run).items()})
    save(run, 5, keep=1, score=0.0)
    assert steps(run) == [2, 5]
    assert json.loads(storage.read(f"{run}/best.json"))["step"] == 2


def test_damage_since_the_last_save_is_seen(tmp_path: Path) -> None:
    """A manifest of the same size, with another byte: its checkpoint does not count as one of those that are kept."""
    run = str(tmp_path)
    for step in (1, 2):
        uri = save(run, step, keep=2)
    place = Path(uri) / manifest.NAME
    raw = place.read_bytes()
    place.write_bytes(raw.replace(b'"step": 2', b'"step": 3'))
    save(run, 3, keep=2)
    assert steps(run) == [1, 2, 3]
    found = checkpoint.find(run, which=1, warn=pytest.fail)
    assert found is not None


def test_what_is_cut_after_it_was_read_is_read_again(tmp_path: Path) -> None:
    run = str(tmp_path)
    for step in range(1, 13):
        uri = save(run, step, keep=11)
        if step == 2:
            cut = Path(uri) / "model.safetensors"
    assert steps(run) == [*range(2, 13)]
    cut.write_bytes(cut.read_bytes()[:-1])  # the oldest of the eleven: it is none any more
    say(run, {folder: [listed, True, *scores] for folder, (listed, _, *scores) in known(run).items()})
    for step in (13, 14):
        save(run, step, keep=11)
    assert known(run).keys() == {f"step-{step:08d}-a" for step in range(4, 15)}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\xff",
        b"[]",
        hashed_json.sealed({}),
        hashed_json.sealed({"checkpoints": []}),
        hashed_json.sealed({"checkpoints": {"step-00000001-a": 3}}),
        hashed_json.sealed({"checkpoints": {"step-00000001-a": ["", True, "1", 0]}}),
        hashed_json.sealed({"checkpoints": {"step-00000001-a": [0, True, True, 0]}}),
        hashed_json.sealed({"checkpoints": {"step-00000001-a": ["", True, 1.0, "0"]}}),
        None,
    ],
)
def test_a_damaged_index_is_no_index(raw: bytes | None, tmp_path: Path) -> None:
    run = str(tmp_path)
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.3)):
        save(run, step, keep=9, score=score)
    if raw is None:
        storage.delete(f"{run}/{manifest_cache.NAME}")
    else:
        storage.write(f"{run}/{manifest_cache.NAME}", raw)
    save(run, 4, keep=1, score=0.1)
    assert steps(run) == [2, 4]
    assert known(run).keys() == {"step-00000002-a", "step-00000004-a"}
