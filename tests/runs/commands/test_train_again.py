"""A run of ``icon_dist.train``, the same command again, and runs that cannot go on."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from icon_dist.checkpoints import checkpoint
from icon_dist.codec import flip
from icon_dist.config import load
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.synthetic import Crowd, generate_shards
from icon_dist.storage import hashed_json
from icon_dist.training import driver
from icon_dist.training.plan import plan_run
from icon_dist.training.setup import open_data
from tests.support.commands import Command, Outcome, Tree, checkpoints, one_process, tree
from tests.support.full_disk import full_disk

# What DeepSpeed and torch warn of on DeepSpeed's import is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def test_what_a_run_leaves(runs: Path, people: Path) -> None:
    run = runs / "first"
    assert load(str(run / "config.yaml")) == load("demo", one_process(people, runs)[2:])

    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["kind"] == "train"] == list(range(1, 9)), "log_every=1, nothing twice"
    assert [(e["step"], e["epoch"]) for e in events if e["kind"] == "eval"] == [(4, 1), (8, 2)]
    assert {e["lr"] for e in events if e["kind"] == "train" and e["step"] > 4} != {events[0]["lr"]}

    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    shown = [(s.step, s.value) for s in accumulator.Scalars("train/heatmap")]
    assert shown == [(e["step"], pytest.approx(e["heatmap"])) for e in events if e["kind"] == "train"]

    assert [path.name.split("-")[1] for path in checkpoints(runs)] == ["00000004", "00000008"]
    found = checkpoint.find(str(run), warn=pytest.fail)
    assert found is not None
    assert (found.step, found.manifest["world_size"], found.manifest["evaluated"]) == (8, 1, "ema")
    assert found.manifest["metrics"] == [e for e in events if e["kind"] == "eval"][-1]["scores"]


def test_the_plan_foretold_the_size_of_a_checkpoint(runs: Path, people: Path) -> None:
    config = load("demo", one_process(people, runs)[2:])
    foretold = plan_run(config, open_shards(str(people / "train"))).checkpoint_bytes
    *_, newest = checkpoints(runs)
    assert foretold == pytest.approx(sum(path.stat().st_size for path in newest.iterdir()), rel=0.05)


def test_the_same_command_again_changes_nothing(copy: Path, people: Path, command: Command) -> None:
    before = tree(copy)
    done = command(*one_process(people, copy))
    assert done.code == 0
    assert re.fullmatch(
        r"complete: step 8 of 8, best PCK@0.2 [0-9.]+ \(split=val boxes=gt flip=.*evaluator=icon_dist\); .*\n", done.err
    )
    assert tree(copy) == before


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["optim.lr=0.1"], ["optim.lr=0.1 (was 0.004)"]),
        (["loss.tau=0.2", "run.seed=7"], ["run.seed=7 (was 0)", "loss.tau=0.2 (was 0.07)"]),
        (["optim.epochs=1", "optim.milestones=[]"], ["optim.epochs=1 (was 2)", "optim.milestones=[] (was [1])"]),
        (["run.stop_after_epoch=1", "eval.flip=false"], ["eval.flip=False (was True)"]),
    ],
)
def test_values_that_a_finished_run_was_not_trained_with_are_not_written(
    overrides: list[str], told: list[str], copy: Path, people: Path, command: Command
) -> None:
    before = tree(copy)
    done = command(*one_process(people, copy, *overrides))
    assert done.code == 0
    (line,) = [line for line in done.err.splitlines() if "not applied" in line]
    assert line == f"not applied, because the run is over: {', '.join(told)}; another run.name trains with other values"
    end = "step 8, of which this config asks for 4," if "optim.epochs=1" in overrides else "step 8 of 8"
    assert f"complete: {end}" in done.err
    assert "flip=yes" in done.err, "as it was scored"
    assert tree(copy) == before


@pytest.mark.parametrize("longer", [False, True])
def test_other_shards_at_the_same_place_are_told(longer: bool, people: Path, tmp_path: Path, command: Command) -> None:
    """As where labels were corrected; here they are packed otherwise. A copy is the same data."""
    words = one_process(tmp_path / "data", tmp_path / "runs", "optim.epochs=1", "optim.milestones=[]")
    shutil.copytree(people, tmp_path / "data")
    assert command(*words).code == 0
    shutil.rmtree(tmp_path / "data")
    shutil.copytree(people, tmp_path / "data")
    assert command(*words).err.startswith("complete: step 4 of 4")
    shutil.rmtree(tmp_path / "data" / "train")
    generate_shards(str(tmp_path / "data" / "train"), Crowd(people=64, seed=0), split="train", per_shard=32)
    done = command(*words, *["optim.epochs=2"][:longer])
    assert done.code == 0
    other = "the shards of data.train are others (labels, photos or packing)"
    if longer:
        assert f"the run goes on from step 4 with another config: optim.epochs=2 (was 1), {other}" in done.err
    else:
        assert f"not applied, because the run is over: {other}; another run.name trains with other values" in done.err


def test_a_resumed_run_writes_the_values_that_apply_from_there(copy: Path, people: Path, command: Command) -> None:
    done = command(*one_process(people, copy, "optim.epochs=3", "loss.tau=0.2"))
    assert done.code == 0
    assert "with another config from here on: loss.tau=0.2 (was 0.07), optim.epochs=3 (was 2)" in done.err
    assert load(str(copy / "first" / "config.yaml")).loss.tau == 0.2


def test_what_a_resume_changes_is_said_before_the_plan(copy: Path, people: Path, command: Command) -> None:
    before = tree(copy)
    longer = command(*one_process(people, copy, "optim.epochs=3", "loss.tau=0.5", "run.precision=bf16"), "--dry-run")
    assert longer.code == 0
    changed = "loss.tau=0.5 (was 0.07), optim.epochs=3 (was 2), run.precision=bf16 (was fp32)"
    assert longer.err == f"icon_dist: note: the run goes on from step 8 with another config: {changed}\n"
    assert "\nstart       its checkpoint of step 8\n" in longer.out
    refused = command(*one_process(people, copy, "optim.epochs=3", "optim.batch=32"))
    assert (refused.code, refused.out) == (4, "")
    assert "was epoch 2, but would be epoch 4 here; resume with the data and the optim.batch" in refused.error
    assert tree(copy) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_found_by_a_dry_run_and_missed_by_no_finished_run(
    copy: Path, people: Path, command: Command
) -> None:
    done = command(*one_process(people, copy, "run.gpus_per_worker=1"))
    assert (done.code, done.err.startswith("complete: step 8 of 8")) == (0, True)
    longer = command(*one_process(people, copy, "run.gpus_per_worker=1", "optim.epochs=3"), "--dry-run")
    assert longer.code == 7
    assert "this machine has no GPU that torch can use" in longer.error


def test_a_finished_run_needs_no_cluster_to_say_so(copy: Path, people: Path, command: Command) -> None:
    before = tree(copy / "first")
    given = [*one_process(people, copy), "run.launcher=ray"]
    done = command(*given)
    assert done.code == 0
    assert re.fullmatch(r"complete: step 8 of 8, best PCK@0\.2 [0-9.]+ \(split=val .*\); .*/first\n", done.err)
    assert tree(copy / "first") == before
    config = driver.anchored(load("demo", given[2:]))
    data = open_data(config)
    assert driver.finished(config, data)
    assert not driver.finished(replace(config, loss=replace(config.loss, tau=0.1)), data), (
        "the workers say whether it fits"
    )
    said = driver.finished(replace(config, eval=replace(config.eval, flip=False)), data)
    assert "not applied, because the run is over: eval.flip=False (was True)" in said
    assert "flip=yes" in said, "as it was scored"
    (checkpoints(copy)[-1] / "model.safetensors").write_bytes(b"")
    assert not driver.finished(config, data), "the workers go back to an older one"


def test_a_damaged_checkpoint_is_passed_over_and_made_again(
    copy: Path, runs: Path, people: Path, command: Command
) -> None:
    older, newest = checkpoints(copy)
    manifest = newest / "MANIFEST.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"step": 8', b'"step": 9'))
    damaged = tree(newest)
    done = command(*one_process(people, copy))
    assert done.code == 0
    skipped = [line for line in done.err.splitlines() if "skipped" in line]
    assert skipped == [f"{newest}: skipped: MANIFEST.json was altered: its seal (sha256) does not hold"]
    assert f"resumed at step 4 from {older}" in done.err
    assert "complete: step 8 of 8" in done.err
    if newest.exists():
        assert tree(newest) == damaged, "never overwritten"
    again = checkpoint.find(str(copy / "first"), warn=lambda _: None)
    once = checkpoint.find(str(runs / "first"), warn=pytest.fail)
    assert again is not None
    assert once is not None
    assert again.step == 8
    for name in ("model", "ema", "optimizer", "bank"):
        mine, theirs = again.tensors(name), once.tensors(name)
        assert [key for key in theirs if not torch.equal(mine[key], theirs[key])] == []


def refuses(done: Outcome, code: int, folder: Path, before: Tree) -> str:
    """Exit code and one line; every file as it was."""
    line = done.error
    assert done.code == code
    assert tree(folder) == before
    return line


def test_no_intact_checkpoint_is_no_fresh_start(copy: Path, people: Path, command: Command) -> None:
    for folder in checkpoints(copy):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    before = tree(copy)
    done = command(*one_process(people, copy))
    assert "no intact checkpoint" in refuses(done, 4, copy, before)
    assert len([line for line in done.err.splitlines() if "skipped: model.safetensors" in line]) == 2


def test_another_backbone_is_refused_naming_both(copy: Path, people: Path, command: Command) -> None:
    before = tree(copy)
    line = refuses(command(*one_process(people, copy, "model.backbone=resnet50")), 4, copy, before)
    assert "hrnet_small" in line
    assert "resnet50" in line


def test_another_skeleton_is_refused_naming_both(copy: Path, people: Path, tmp_path: Path, command: Command) -> None:
    other = Path(shutil.copytree(people, tmp_path / "others"))
    for split in ("train", "val"):
        path = other / split / "manifest.json"
        manifest = json.loads(path.read_text())
        name = manifest["skeleton"]["joints"][0]
        path.write_bytes(hashed_json.sealed(json.loads(path.read_text().replace(f'"{name}"', '"antenna"'))))
    before = tree(copy)
    places = [f"data.train={other}/train", f"data.val={other}/val"]
    line = refuses(command(*one_process(people, copy, *places)), 4, copy, before)
    assert "antenna" in line
    assert name in line


def test_other_banks_are_refused(copy: Path, people: Path, command: Command) -> None:
    before = tree(copy)
    line = refuses(command(*one_process(people, copy, "loss.bank.slots=0")), 4, copy, before)
    assert "memory banks" in line


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.embedding=8"], r"projection.*\[16, .* there and \[8, "),
        (["loss.lambda_p=0"], r"projection.* there and absent here"),
        (["optim.batch=32", "optim.micro_batch=32"], "was epoch 2, but would be epoch 4 here"),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_config_is_refused(
    overrides: list[str], says: str, copy: Path, people: Path, command: Command
) -> None:
    before = tree(copy)
    assert re.search(says, refuses(command(*one_process(people, copy, *overrides)), 4, copy, before))


def test_val_of_another_skeleton_is_refused_before_anything_runs(
    people: Path, tmp_path: Path, command: Command
) -> None:
    other = Path(shutil.copytree(people / "val", tmp_path / "val"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["skeleton"]["metric"] = "coco"
    (other / "manifest.json").write_bytes(hashed_json.sealed(manifest))
    done = command(*one_process(people, tmp_path / "runs", f"data.val={other}"))
    assert done.code == 3
    assert "scored by coco, but data.train has" in done.error
    assert not (tmp_path / "runs").exists()


def test_a_run_that_was_stopped_stays_stopped(people: Path, tmp_path: Path, command: Command) -> None:
    """The same command again has nothing to do; and an evaluated epoch is saved whatever the interval."""
    argv = one_process(people, tmp_path, "run.stop_after_epoch=1", "run.checkpoint_every=2")
    assert command(*argv).code == 0
    before = tree(tmp_path / "first" / "checkpoints")
    assert [path.name.split("-")[1] for path in checkpoints(tmp_path)] == ["00000004"]
    assert command(*argv).code == 0
    assert tree(tmp_path / "first" / "checkpoints") == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_not_replaced(people: Path, tmp_path: Path, command: Command) -> None:
    done = command(*one_process(people, tmp_path, "run.gpus_per_worker=1"))
    assert done.code == 7
    assert "run.gpus_per_worker=1: this machine has no GPU" in done.error


def test_a_loss_that_is_not_finite_ends_the_run(people: Path, tmp_path: Path, command: Command) -> None:
    later = ("eval.every=2", "run.checkpoint_every=2")  # than five steps
    done = command(*one_process(people, tmp_path, "optim.lr=1e17", "optim.warmup_steps=0", *later))
    assert done.code == 6
    assert "the loss or its gradients are not finite, 5 steps in a row" in done.error
    assert "lower optim.lr" in done.error
    assert not (tmp_path / "first" / "checkpoints").exists(), "what has diverged is not saved"


def test_a_disk_that_fills_up_in_the_middle_of_a_run(copy: Path, people: Path, command: Command) -> None:
    """Exit code 5, all older checkpoints as they were and no half-written file; with room again the run goes on."""
    before = tree(copy / "first" / "checkpoints")
    with full_disk(200_000):  # weights do not fit, the log does
        done = command(*one_process(people, copy, "optim.epochs=3"))
    assert done.code == 5
    assert re.search(r"checkpoints/step-00000012-.*: disk full \(File too large\); free some space", done.error)
    assert tree(copy / "first" / "checkpoints") == before
    assert not [path for path in copy.rglob("*") if ".partial" in path.name]
    again = command(*one_process(people, copy, "optim.epochs=3"))
    assert again.code == 0
    assert "resumed at step 8" in again.err


def test_divergence_that_shows_in_the_evaluation_ends_the_run(
    people: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flip, "flip_back", lambda maps, **_: maps * math.nan)
    done = command(*one_process(people, tmp_path))
    assert done.code == 6
    assert re.search(r"the poses of (\d+) of \1 people are not finite: the model has diverged; lower", done.error)
