"""What was saved comes back bit for bit; what is damaged is passed over, by name; nothing is overwritten."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from icon_dist import storage
from icon_dist.checkpoints import checkpoint, manifest, retention
from icon_dist.errors import CheckpointError


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs" / "w48") if request.param == "local" else str(request.getfixturevalue("s3"))


def contents(step: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(4, 3, generator=generator)
    return {
        "model": {"weight": weight, "steps": torch.tensor(step), "half": weight.to(torch.bfloat16)},
        "optimizer": {"weight.exp_avg": weight.t(), "empty": torch.zeros(0, 3)},
        "bank": {"valid": torch.tensor([True, False])},
    }


def save(run: str, step: int, *, attempt: str = "a", keep: int = 2, score: float | None = None, **more: Any) -> str:
    details = {
        "score": score,
        "config": {"model": {"backbone": "hrnet_w32"}},
        "skeleton": {"joints": ["head", "neck"]},
        "channel_order": "rgb",
        **more,
    }
    state = {"step": step, "best": float("-inf"), "lr": 0.1 + 0.2}
    return checkpoint.save(
        run, step=step, attempt=attempt, tensors=contents(step), state=state, manifest=details, keep=keep
    )


def find(run: str, which: str | int = "last", **more: Any) -> tuple[checkpoint.Checkpoint, list[str]]:
    lines: list[str] = []
    found = checkpoint.find(run, which=which, warn=lines.append, **more)
    assert found is not None
    return found, lines


def same(found: checkpoint.Checkpoint, step: int) -> bool:
    expected = contents(step)
    return found.step == step and all(
        group.keys() == expected[name].keys()
        and all(torch.equal(value, expected[name][key]) for key, value in group.items())
        for name in expected
        for group in [found.tensors(name)]
    )


def steps(run: str) -> list[int]:
    return [entry.step for entry in manifest.entries(run)]


def test_round_trip_is_exact(run: str) -> None:
    uri = save(run, 7, score=0.5)
    found, lines = find(run)
    assert lines == []
    assert found.uri == uri
    assert same(found, 7)
    assert found.state() == {"step": 7, "best": float("-inf"), "lr": 0.1 + 0.2}
    assert found.manifest["score"] == 0.5
    assert found.tensors("model")["half"].dtype == torch.bfloat16
    assert not found.has("ema")
    with pytest.raises(CheckpointError, match="has no ema"):
        found.tensors("ema")


def test_equal_contents_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(str(tmp_path / name), 3, attempt="a")
    for file in storage.listing(str(tmp_path / "one")):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_newest_step_then_newest_attempt(run: str) -> None:
    save(run, 5, attempt="b", keep=9)
    save(run, 5, attempt="a", keep=9)
    save(run, 4, attempt="z", keep=9)
    assert find(run)[0].manifest["attempt"] == "b"
    assert find(run, 4)[0].manifest["attempt"] == "z"


def test_the_newest_and_the_best_are_kept(run: str) -> None:
    for step, score in [(1, None), (2, 0.9), (3, 0.3), (4, float("nan")), (5, 0.5), (6, 0.4)]:
        save(run, step, keep=2, score=score)
    assert steps(run) == [2, 5, 6]
    assert same(find(run, "best")[0], 2)
    assert same(find(run, "last")[0], 6)
    best, last = (json.loads(storage.read(f"{run}/{name}.json")) for name in ("best", "last"))
    assert (best["step"], best["score"]) == (2, 0.9)
    assert last["step"] == 6
    assert storage.exists(f"{run}/{last['checkpoint']}/MANIFEST.json")


def test_pointers_are_not_believed(run: str) -> None:
    save(run, 1)
    save(run, 2)
    storage.write(f"{run}/last.json", b'{"checkpoint": "checkpoints/step-00000001-a", "step": 1}')
    assert same(find(run)[0], 2)
    storage.delete(f"{run}/last.json")
    assert same(find(run)[0], 2)


def test_an_unknown_step_names_the_known(run: str) -> None:
    save(run, 1)
    save(run, 2)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3; it has 1, 2"):
        find(run, 3)


def test_no_score_no_best(run: str) -> None:
    save(run, 1)
    with pytest.raises(CheckpointError, match="no checkpoint has a score"):
        find(run, "best")


def test_nothing_at_all(run: str) -> None:
    assert checkpoint.find(run, warn=pytest.fail, missing_ok=True) is None
    with pytest.raises(CheckpointError, match="no checkpoint is there"):
        find(run)


def flip(data: bytes) -> bytes:
    at = len(data) * 2 // 3
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "flip": flip,
    "garbage": lambda data: b"\0" * len(data),
    "longer": lambda data: data + b"x",
    "delete": lambda _: None,
}
FILES = ["model.safetensors", "optimizer.safetensors", "bank.safetensors", "state.json", "MANIFEST.json"]


def damage(uri: str, kind: str) -> None:
    data = DAMAGE[kind](storage.read(uri))
    if data is None:
        storage.delete(uri)
    else:
        storage.write(uri, data)


@pytest.fixture
def place(remote: bool, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3")) if remote else str(tmp_path)


@pytest.mark.parametrize(
    ("kind", "file", "remote"),
    [
        *[(kind, file, False) for kind in DAMAGE for file in FILES],
        *[("flip", "model.safetensors", True), ("half", "MANIFEST.json", True), ("delete", "bank.safetensors", True)],
    ],
)
def test_damage_falls_back_and_says_why(kind: str, file: str, remote: bool, place: str) -> None:
    run = place
    del remote  # said by ``place``
    save(run, 1)
    uri = save(run, 2)
    damage(f"{uri}/{file}", kind)
    before = {name: storage.read(f"{uri}/{name}") for name in storage.listing(uri)}
    found, lines = find(run)
    assert same(found, 1)
    assert len(lines) == 1
    assert uri in lines[0]
    assert file in lines[0]
    save(run, 2, attempt="b")  # the retry of that step
    after = {name: storage.read(f"{uri}/{name}") for name in storage.listing(uri)}
    assert after == (before if file in after or file != "MANIFEST.json" else {})  # without a manifest it is litter
    found, lines = find(run)
    assert same(found, 2)
    assert lines == []


def test_none_intact_is_never_a_fresh_start(run: str) -> None:
    for step in (1, 2):
        damage(save(run, step) + "/bank.safetensors", "flip")
    lines: list[str] = []
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        checkpoint.find(run, warn=lines.append, missing_ok=True)
    assert len(lines) == 2


def test_a_run_that_goes_on_meanwhile_is_looked_at_again(run: str) -> None:
    """Between the listing and the reading, the only checkpoint has given way to the next one."""
    damage(save(run, 1, keep=1) + "/bank.safetensors", "flip")
    lines: list[str] = []

    def warn(line: str) -> None:
        lines.append(line)
        save(run, 2, attempt="b", keep=1)

    found = checkpoint.find(run, warn=warn)
    assert found is not None
    assert same(found, 2)
    assert len(lines) == 1


def test_lost_manifests_are_never_a_fresh_start(run: str) -> None:
    damage(save(run, 1) + "/MANIFEST.json", "delete")
    with pytest.raises(CheckpointError, match=r"last\.json tells of checkpoints"):
        checkpoint.find(run, warn=pytest.fail, missing_ok=True)


def test_a_damaged_best_gives_way_to_the_next_best(run: str) -> None:
    save(run, 1, score=0.5, keep=9)
    uri = save(run, 2, score=0.9, keep=9)
    save(run, 3, score=0.1, keep=9)
    damage(uri + "/model.safetensors", "flip")
    found, lines = find(run, "best")
    assert same(found, 1)
    assert len(lines) == 1


def test_a_checkpoint_is_not_read_twice(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time between check and use: what find() verified is what tensors() parses."""
    uri = save(run, 1)
    reads: list[str] = []
    read = storage.read
    monkeypatch.setattr(storage, "read", lambda uri, *a, **k: reads.append(uri) or read(uri, *a, **k))
    found, _ = find(run)
    for file in FILES[:-1]:
        damage(f"{uri}/{file}", "garbage")
    reads.clear()
    assert same(found, 1)
    assert found.state()["step"] == 1
    assert reads == []
    with pytest.raises(CheckpointError, match="damaged since it was found"):
        found.tensors("model")


def test_weights_only_reads_only_weights(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = save(run, 1)
    damage(uri + "/optimizer.safetensors", "flip")
    found, lines = find(run, weights_only=True)
    assert lines == []
    assert found.tensors("model")["steps"] == 1
    reads: list[str] = []
    read = storage.read
    monkeypatch.setattr(storage, "read", lambda uri, *a, **k: reads.append(uri) or read(uri, *a, **k))
    find(run, weights_only=True)
    in_checkpoint = sorted(place for place in reads if not place.endswith(retention.POINTERS))
    assert in_checkpoint == [f"{uri}/MANIFEST.json", f"{uri}/model.safetensors"]


def test_the_same_attempt_never_overwrites(run: str) -> None:
    first = save(run, 1, attempt="a")
    damage(first + "/model.safetensors", "flip")
    second = save(run, 1, attempt="a")
    assert first != second
    found, lines = find(run)
    assert (found.uri, lines) == (second, [])
    assert storage.listing(first) == storage.listing(second)


def test_half_written_ones_are_removed_only_when_older(run: str) -> None:
    for step in (1, 3):
        storage.write(f"{run}/checkpoints/step-{step:08d}-dead/model.safetensors", b"half")
    save(run, 2)
    assert steps(run) == [2, 3]
    found, lines = find(run)
    assert same(found, 2)
    assert len(lines) == 1
    assert "half-written" in lines[0]


def test_newer_checkpoints_are_not_touched(run: str) -> None:
    """A run that fell back to step 2 does not count or remove what an overlapping writer left at step 9."""
    save(run, 9, attempt="other")
    for step in (2, 3, 4):
        save(run, step, keep=1)
    assert steps(run) == [4, 9]


def test_half_written_alone_is_no_checkpoint(run: str) -> None:
    storage.write(f"{run}/checkpoints/step-00000001-dead/model.safetensors", b"half")
    lines: list[str] = []
    assert checkpoint.find(run, warn=lines.append, missing_ok=True) is None
    assert len(lines) == 1
    with pytest.raises(CheckpointError, match="no checkpoint is there"):
        find(run)


def test_a_newer_format_is_refused(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, 1)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "FORMAT", 2)
        save(run, 2)
    with pytest.raises(CheckpointError, match="format 2 is newer"):
        find(run)


def test_foreign_folders_are_left_alone(run: str) -> None:
    storage.write(f"{run}/checkpoints/notes/readme", b"mine")
    storage.write(f"{run}/checkpoints/step-1-x/readme", b"mine")
    for step in (1, 2, 3):
        save(run, step, keep=1)
    assert storage.exists(f"{run}/checkpoints/notes/readme")
    assert storage.exists(f"{run}/checkpoints/step-1-x/readme")
    assert steps(run) == [3]


def test_attempts_sort_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for now in (1.7e9, 1.7e9 + 0.01, 1.8e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        names.append(checkpoint.new_attempt())
    assert names == sorted(names)


def test_any_single_fault_is_noticed(tmp_path: Path) -> None:
    """300 random faults, each of one bit or one cut in one file of the newest checkpoint."""
    run = str(tmp_path)
    save(run, 1)
    uri = save(run, 2)
    rng = random.Random(0)
    for _ in range(300):
        path = Path(uri) / rng.choice(FILES)
        whole = path.read_bytes()
        at = rng.randrange(len(whole))
        flipped = bytes([whole[at] ^ 1 << rng.randrange(8)])
        path.write_bytes(whole[:at] + (b"" if rng.random() < 0.3 else flipped + whole[at + 1 :]))
        found, lines = find(run)
        assert (found.step, len(lines)) == (1, 1), (path.name, at)
        path.write_bytes(whole)
