"""State of wrong types under hashes that hold: whoever can write a checkpoint can seal it. One line names the field."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icon_dist import config as configuration
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints.checkpoint import Checkpoint
from icon_dist.errors import CheckpointError, IconError
from icon_dist.losses.memory_bank import MemoryBank
from icon_dist.storage import hashed_json
from icon_dist.training.ema import Average
from icon_dist.training.engine_plain import PlainEngine
from icon_dist.training.resume import require
from icon_dist.training.state import State, numbers_of
from tests.adversarial.fuzz import spoil

STEP, PER_EPOCH, SLOTS = 6, 2, 8
NUMBERS = {"epochs": 3, "best": 70.5, "skipped": 1, "skipped_in_a_row": 0}
Parts = dict[str, dict[str, Tensor]]


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))


def engine_of(network: nn.Module) -> PlainEngine:
    optimizer = torch.optim.Adam(network.parameters())
    return PlainEngine(network, optimizer, accumulation=1, bf16=False)


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Everything that a run of 6 steps saves, one of them skipped."""
    torch.manual_seed(0)
    network = model()
    engine, bank, average = engine_of(network), MemoryBank(3, SLOTS, 4), Average(network, decay=0.9)
    for step in range(STEP - 1):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        engine.step(lr=1e-3)
        average.update(step + 1)
        bank.push(torch.randn(1, 3, 4), torch.ones(1, 3, dtype=torch.bool), torch.tensor([step]), step=step)
    return {
        "model": engine.weights(),
        "optimizer": engine.optimizer_state(),
        "bank": bank.state_dict(),
        "ema": dict(average.state_dict()),
    }


def saved(folder: Path, parts: Parts, state: Any = NUMBERS, **manifest: Any) -> Checkpoint:
    about = {"config": dataclasses.asdict(configuration.load("demo")), "skeleton": {"joints": ["a", "b", "c"]}}
    about |= {"epoch": STEP / PER_EPOCH, "evaluated": "model"}
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint.save(str(folder), step=STEP, attempt="a", tensors=parts, state=state, manifest=about | manifest, keep=1)
    found = checkpoint.find(str(folder), warn=pytest.fail)
    assert found is not None
    return found


def resume(found: Checkpoint) -> State:
    network = model()
    state = State(network, found, steps_per_epoch=PER_EPOCH)
    state.complete(engine_of(network), bank=MemoryBank(3, SLOTS, 4), ema=Average(network, decay=0.9))  # type: ignore[arg-type]
    return state


def test_what_was_saved_is_resumed(parts: Parts, tmp_path: Path) -> None:
    state = resume(saved(tmp_path / "run", parts))
    found = {name: getattr(state, name) for name in ("step", *NUMBERS)}
    assert found == {"step": STEP, **NUMBERS}
    one, other = state.tensors(), parts
    assert all(torch.equal(one[part][name], tensor) for part in other for name, tensor in other[part].items())


def of_state(state: Any) -> Checkpoint:
    manifest = {"files": {"state.json": {}}}
    return Checkpoint("runs/it/step-6", STEP, manifest, {"state.json": spoil.dumps(state)})


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_of_their_kind_and_size(name: str) -> None:
    limits = {"epochs": 3, "skipped": 6, "skipped_in_a_row": 1}
    for value in (*spoil.VALUES, 7, 4):
        sound = type(value) is int and 0 <= value <= limits.get(name, 0)
        if name == "best":
            sound = value is None or (type(value) in (int, float) and abs(value) < 1e18)
        if sound:
            numbers = numbers_of(of_state(NUMBERS | {name: value}), steps_per_epoch=PER_EPOCH)
            assert getattr(numbers, name) == (-math.inf if value is None else value)
            continue
        with pytest.raises(CheckpointError, match=rf"^runs/it/step-6: state.json {name}=[^\n]*$"):
            numbers_of(of_state(NUMBERS | {name: value}), steps_per_epoch=PER_EPOCH)


def test_numbers_that_are_missing() -> None:
    for state, says in (({}, "state.json best='absent'"), ([], "no JSON object"), ("x", "no JSON object")):
        with pytest.raises(CheckpointError, match=says):
            numbers_of(of_state(state), steps_per_epoch=PER_EPOCH)


def _first(tensors: dict[str, Tensor]) -> str:
    return next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.ndim)


DAMAGE: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda t: torch.full_like(t, math.nan),
    "inf": lambda t: torch.full_like(t, -math.inf),
    "double": lambda t: t.double(),
    "half": lambda t: t.half(),
    "bool": lambda t: t.bool(),
    "shape": lambda t: t[None],
    "empty": lambda t: t.flatten()[:0],
}


@pytest.mark.parametrize("part", ["model", "optimizer", "ema", "bank"])
@pytest.mark.parametrize("kind", [*DAMAGE, "missing", "too much"])
def test_tensors_are_of_their_kind(parts: Parts, tmp_path: Path, part: str, kind: str) -> None:
    name = "features" if part == "bank" else _first(parts[part])
    spoilt = dict(parts[part])
    if kind == "missing":
        del spoilt[name]
    elif kind == "too much":
        spoilt["zzz"] = torch.zeros(1)
    else:
        spoilt[name] = DAMAGE[kind](spoilt[name])
    with pytest.raises(CheckpointError) as caught:
        resume(saved(tmp_path / "run", parts | {part: spoilt}))
    where = {"model": "checkpoint: ", "bank": "memory bank: "}.get(part, f"checkpoint: {part} ")
    assert str(caught.value).startswith(where)
    assert ("zzz" if kind == "too much" else name) in str(caught.value)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("optimizer", "step", -1.0),
        ("optimizer", "step", 7.0),
        *(("bank", name, 2**31) for name in ("next", "filled")),
        *(("bank", name, 2**53) for name in ("instance", "step", "began")),
        *(("bank", name, -2) for name in ("instance", "step", "next", "filled", "began")),
        ("bank", "next", SLOTS - 1),
        ("bank", "began", -1),
    ],
)
def test_tensors_hold_what_training_leaves(parts: Parts, tmp_path: Path, part: str, name: str, value: float) -> None:
    spoilt = parts[part] | {name: torch.full_like(parts[part][name], value)}
    with pytest.raises(CheckpointError, match=f"{part} {name} is|memory bank: {name} has values that no training"):
        resume(saved(tmp_path / "run", parts | {part: spoilt}))


def test_a_second_moment_below_zero(parts: Parts, tmp_path: Path) -> None:
    name = next(name for name in parts["optimizer"] if name.startswith("exp_avg_sq."))
    spoilt = parts["optimizer"] | {name: -parts["optimizer"][name]}
    with pytest.raises(CheckpointError, match=rf"optimizer {name} has values below 0"):
        resume(saved(tmp_path / "run", parts | {"optimizer": spoilt}))


# -------------------------------------------------------------------------------------------------------- manifest

FEW = {"model": {"a": torch.zeros(1)}}


@pytest.mark.parametrize("name", manifests.SAID)
def test_fields_of_the_manifest(name: str) -> None:
    wrong = [value for value in spoil.VALUES if not manifests.SAID[name][0](value)]
    assert len(wrong) > len(spoil.VALUES) / 4
    for value in wrong:
        assert manifests.fault_of({"epoch": 1.0, name: value}).startswith(f"{name}=")
        assert len(manifests.fault_of({name: value})) < 300


def test_a_checkpoint_that_says_nonsense_of_itself_is_passed_over(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        checkpoint.save(str(run), step=step, attempt="a", tensors=FEW, state={}, manifest={"epoch": 1.0}, keep=9)
    place = run / "checkpoints" / "step-00000002-a" / manifests.NAME
    place.write_bytes(hashed_json.sealed(json.loads(place.read_text()) | {"epoch": "x"}))
    warnings: list[str] = []
    found = checkpoint.find(str(run), warn=warnings.append)
    assert found is not None
    assert found.step == 1
    (line,) = warnings
    assert line.endswith("/step-00000002-a: skipped: MANIFEST.json epoch='x': expected a number, 0 or more")


def test_nothing_of_another_size_is_read(tmp_path: Path) -> None:
    """Neither a manifest of gigabytes, nor a file that never ends where a checkpoint names one."""
    run = tmp_path / "run"
    checkpoint.save(str(run), step=1, attempt="a", tensors=FEW, state={}, manifest={"epoch": 1.0}, keep=9)
    folder = run / "checkpoints" / "step-00000001-a"
    for name, large in (("state.json", "has 1099511627776 bytes"), (manifests.NAME, "is larger than 64 MiB")):
        for replace, kind, says in (
            (lambda place: (place.touch(), os.truncate(place, 1 << 40)), CheckpointError, "no intact checkpoint"),
            (lambda place: place.symlink_to("/dev/zero"), IconError, "is a device|none is left"),
            (os.mkfifo, IconError, "is a pipe|none is left"),
        ):
            (folder / name).unlink()
            replace(folder / name)
            warnings: list[str] = []
            with pytest.raises(kind, match=says):
                checkpoint.find(str(run), warn=warnings.append)
            assert kind is IconError or f"{name} {large}" in warnings[0]


@pytest.mark.parametrize("name", ["config", "skeleton", "epoch"])
def test_a_manifest_that_lacks_what_a_resume_needs(name: str) -> None:
    manifest = {"step": 1, "config": {}, "skeleton": {"joints": []}, "epoch": 1.0}
    del manifest[name]
    with pytest.raises(CheckpointError, match=rf"checkpoint of step 1: MANIFEST.json has no {name}; remove this"):
        require(manifest, backbone="x", joints=[], epoch=1.0)


def test_a_config_of_other_types() -> None:
    whole = dataclasses.asdict(configuration.load("demo"))
    for section in whole:
        for value in ("x", {"zzz": 1}):
            manifest = {"step": 1, "config": whole | {section: value}, "skeleton": {"joints": []}, "epoch": 1.0}
            manifest["channel_order"] = "rgb"
            with pytest.raises(CheckpointError, match=rf"checkpoint of step 1: its config: .*{section}"):
                require(manifest, backbone="x", joints=[], epoch=1.0)
