"""Whole runs on a union of sets: bit for bit as before, everybody counted, every set scored as it wants to be."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icon_dist import compare, evaluate, fetch
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.config import Config, load
from icon_dist.errors import CheckpointError, ConfigError, DataError
from icon_dist.launch.local import launch
from icon_dist.loggers.logger import Logger
from icon_dist.training import driver
from icon_dist.training.loop import run_directory
from icon_dist.training.setup import open_data
from icon_dist.training.validation import conditions_of, headlines
from tests.support import small_sets, two_sets
from tests.support.run_results import assert_equal, final, losses
from tests.support.small_sets import TRAINING
from tests.support.training import run_gang

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
LOOP = "icon_dist.training.loop:train"


@pytest.fixture(scope="module")
def sets(module_path: Path) -> tuple[str, str]:
    folder = module_path / "union"
    folder.mkdir()
    return two_sets.heads(folder), two_sets.hands(folder, count=8)


def config(sets: tuple[str, str], folder: Path, *more: str, name: str = "run") -> Config:
    union = f"[{sets[0]}, {sets[1]}]"
    words = [*TRAINING, f"data.train={union}", f"run.dir={folder}", f"run.name={name}", "run.record_samples=true"]
    few = ("loss.skcc.queries=3", "loss.skcc.negatives=3", "loss.prcc.negatives=3")
    early = ("loss.start_epoch=0", "loss.ramp_epochs=0", "optim.warmup_steps=0", "run.zero=0", "optim.epochs=2")
    return load("lsp", [*words, *few, *early, *more])


def run(*configs: Config) -> None:
    for one in configs:
        launch(one, LOOP, Logger(run_directory(one)))


def people_read(cfg: Config) -> list[list[int]]:
    """By step, sorted."""
    files = sorted(Path(run_directory(cfg), "samples").glob("*.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [sorted(p for rank in record["people"] for p in rank) for record in sorted(records, key=lambda r: r["step"])]


def test_a_union_resumes_bit_for_bit_and_reads_everybody_once(sets: tuple[str, str], tmp_path: Path) -> None:
    straight, parts = (config(sets, tmp_path, name=name) for name in ("straight", "parts"))
    first = config(sets, tmp_path, "run.stop_after_epoch=1", name="parts")
    run(straight, first, parts)
    assert_equal(final(straight), final(parts))
    assert losses(straight) == losses(parts)
    ids = sorted(open_data(straight).shards.instance.tolist())
    for cfg in (straight, parts):
        read = people_read(cfg)
        assert len(read) == 2 * 4
        assert [sorted(itertools.chain(*read[e : e + 4])) for e in (0, 4)] == [ids, ids]
    other = config(sets[::-1], tmp_path, name="parts")  # the same sets in another order: other joints
    with pytest.raises(CheckpointError, match="joint"):
        driver.run(other, {}, dry_run=True)


@pytest.mark.slow
def test_another_number_of_workers_goes_on_with_the_same_people(sets: tuple[str, str], tmp_path: Path) -> None:
    two = ("run.launcher=ray", "run.workers=2", "optim.micro_batch=2", "data.streams=4")
    alone = config(sets, tmp_path, "data.streams=4", name="alone")
    first = config(sets, tmp_path, *two, "run.stop_after_epoch=1", name="parts")
    run_gang(first, scratch=tmp_path)
    run(alone, config(sets, tmp_path, "data.streams=4", name="parts"))
    assert people_read(alone) == people_read(first)


@pytest.fixture(scope="module")
def scored(sets: tuple[str, str], module_path: Path) -> Path:
    folder = module_path / "scored"
    folder.mkdir()
    cfg = config(sets, folder, f"data.val=[{sets[1]}, {sets[0]}]", "optim.ema=0.5")
    run(cfg)
    return Path(run_directory(cfg))


def last_scores(folder: Path) -> dict[str, Any]:
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = [event for event in events if event["kind"] == "eval"][-1]
    return found


def test_each_set_is_scored_on_its_own_joints_by_its_own_metric(
    scored: Path, sets: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = last_scores(scored)
    assert event["headline"] == "hands/PCK@0.2"
    assert event["headlines"] == ["hands/PCK@0.2", "heads/AP"]
    assert [name for name in event["scores"] if name.startswith("hands/")] == [
        *(f"hands/{joint}" for joint in two_sets.HANDS.joints),
        "hands/PCK@0.2",
    ]
    assert "hands: split=hands" in event["what"]
    assert "heads: split=heads" in event["what"]
    found = checkpoint.find(str(scored), which="last", warn=pytest.fail)
    assert found is not None
    assert found.manifest["score"] == event["scores"]["hands/PCK@0.2"]

    evaluate.main([str(scored), "--loaders", "0", "--json", str(tmp_path / "scores.json")])
    both = json.loads((tmp_path / "scores.json").read_text())["sets"]
    assert [one["shards"] for one in both] == [sets[1], sets[0]]
    said = capsys.readouterr()
    assert "scored on its own joints, 4 of 7 that are predicted" in said.err
    assert said.out.count("conditions: ") == 2
    for uri, one in zip((sets[1], sets[0]), both, strict=True):
        evaluate.main([str(scored), "--shards", uri, "--loaders", "0", "--force", "--json", str(tmp_path / "one.json")])
        assert json.loads((tmp_path / "one.json").read_text())["scores"] == one["scores"]
    with pytest.raises(ConfigError, match=r"--picture: is of one set, and its run has 2 .*; choose one with --shards"):
        evaluate.main([str(scored), "--picture", str(tmp_path / "p.png")])
    evaluate.main([str(scored), "--shards", sets[1], "--loaders", "0", "--picture", str(tmp_path / "p.png")])
    assert (tmp_path / "p.png").exists()


def test_flips_are_those_of_the_model(scored: Path, sets: tuple[str, str]) -> None:
    """A pose of a set is the part of the whole pose: no joint changes places with a wrong one."""
    from icon_dist.codec import codec_of
    from icon_dist.config import EvalConfig
    from icon_dist.inference.predictor import eval_stream
    from icon_dist.inference.predictor import evaluate as predicted
    from icon_dist.models import from_config
    from icon_dist.shards.shard_set import open_shards
    from icon_dist.shards.union import on_joints

    weights = stored_weights.load(str(scored))
    model = from_config.restore(weights).eval()
    words: dict[str, Any] = {"codec": codec_of(weights.config), "settings": EvalConfig()}
    hands = open_shards(sets[1])
    of_hands, of_all = (
        eval_stream(p, loaders=0, device="cpu", **words) for p in (hands, on_joints(hands, weights.skeleton))
    )
    _, own = predicted(model, of_hands, None, device="cpu", skeleton=weights.skeleton, **words)
    _, whole = predicted(model, of_all, None, device="cpu", **words)
    at = [weights.skeleton.joints.index(joint) for joint in two_sets.HANDS.joints]
    np.testing.assert_array_equal(own.keypoints, whole.keypoints[:, at])


def test_a_fetched_file_and_a_comparison(scored: Path, tmp_path: Path) -> None:
    file = tmp_path / "union.safetensors"
    fetch.main([str(scored), "--best", "-o", str(file)])
    card = file.with_suffix(".md").read_text()
    assert "custom heads + hands: 16 people" in card
    assert "neck, tail" in card
    assert torch.equal(stored_weights.load(str(file)).tensors["final_layer.bias"],
                       stored_weights.load(str(scored)).tensors["final_layer.bias"])  # fmt: skip
    compare.main([str(scored), "-o", str(tmp_path / "compare.html"), "--loaders", "0"])
    page = (tmp_path / "compare.html").read_text()
    assert "last of each set: hands/PCK@0.2" in page
    (run_numbers,) = json.loads((tmp_path / "compare.json").read_text())["arms"][0]["runs"]
    scores = last_scores(scored)["scores"]
    assert run_numbers["of_sets"] == {name: scores[name] for name in ("hands/PCK@0.2", "heads/AP")}


@pytest.mark.slow  # test_semi_runs.py has it for one set
def test_a_teacher_looks_once_at_each_set(scored: Path, sets: tuple[str, str], tmp_path: Path) -> None:
    """And says nothing of the joints that a set does not have."""
    words = ("data.labelled=0.5", "semi.method=pseudo", "semi.cache=true", "semi.gamma=0", "optim.epochs=1")
    with pytest.raises(ConfigError, match="was trained with the labels of 8 people, unlabelled here"):
        run(config(sets, tmp_path, *words, f"semi.teacher={scored}"))
    half = config(sets, tmp_path, "data.labelled=0.5", "optim.epochs=1", name="half")
    taught = [config(sets, tmp_path, *words, f"semi.teacher={run_directory(half)}", name=n) for n in ("one", "two")]
    run(half, *taught)
    for uri in sets:
        assert len([*Path(uri).glob("teacher-*.parquet")]) == 1
    assert_equal(final(taught[0]), final(taught[1]))


def test_conditions_name_the_sets_as_scores_do(sets: tuple[str, str], tmp_path: Path) -> None:
    for name, uri in zip(("heads", "hands"), sets, strict=True):  # of one name, so with their folders
        shutil.copytree(uri, tmp_path / name / "val")
    pair = (f"{tmp_path}/heads/val", f"{tmp_path}/hands/val")
    cfg = config(sets, tmp_path, f"data.val=[{pair[0]}, {pair[1]}]")
    data = open_data(cfg)
    assert [name.rpartition("/")[0] for name in headlines(data)] == ["heads/val", "hands/val"]
    first, second = conditions_of(cfg, data).split(" | ")
    assert first.startswith("heads/val: split=heads ")
    assert second.startswith("hands/val: split=hands ")


def test_what_does_not_fit_is_said_before_the_run(
    sets: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"data.train: .*/none: no shards here.*; also data.train: .*/neither"):
        driver.run(config((f"{tmp_path}/none", f"{tmp_path}/neither"), tmp_path), {}, dry_run=True)
    with pytest.raises(ConfigError, match=r"data.dataset=coco: .* were packed from custom; set data.dataset=custom"):
        driver.run(config(sets, tmp_path, "data.dataset=coco"), {}, dry_run=True)
    alone = config(sets, tmp_path, f"data.train={sets[0]}", f"data.val=[{sets[0]}, {sets[1]}]")
    with pytest.raises(DataError, match=f"data.val={sets[1]}: 4 joints of hands .* without neck, tail"):
        driver.run(alone, {}, dry_run=True)
    boxes = small_sets.shards_of(dataclasses.replace(two_sets.HANDS, name="found"), tmp_path, v=0, boxes="found.json")
    with pytest.raises(DataError, match=r"/found: no joint of 8 people is labelled: they are the boxes of found\.json"):
        driver.run(config((sets[0], boxes), tmp_path), {}, dry_run=True)
    capsys.readouterr()
    driver.run(config(sets, tmp_path, f"data.val=[{sets[0]}, {sets[1]}]"), {}, dry_run=True)
    said = capsys.readouterr()
    assert "joints      7: the 5 of heads, then neck, tail of hands" in said.out
    assert "hands  8 people, 4 joints: without nose, left_eye, right_eye" in said.out
    assert "heads/AP on 5 joints, hands/PCK@0.2 on 4 joints; the best checkpoint is that of heads/AP" in said.out
    assert said.err.count("scores are of the people who are learnt by heart") == 2
