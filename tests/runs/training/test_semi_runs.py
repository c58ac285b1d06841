"""Whole semi-supervised runs on generated people: their invariants, and resuming them in the middle."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from icon_dist import fetch
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.codec import codec_of
from icon_dist.config import Config, EvalConfig
from icon_dist.errors import CheckpointError, ConfigError
from icon_dist.inference.predictor import eval_stream, evaluate
from icon_dist.launch.local import launch
from icon_dist.loggers.logger import Logger
from icon_dist.methods.frozen_teacher import load_teacher, sure_joints
from icon_dist.models import from_config
from icon_dist.shards.bytes_check import verify
from icon_dist.shards.label_split import split
from icon_dist.shards.shard_set import open_shards
from icon_dist.training.loop import run_directory
from tests.support.on_ranks import on_ranks
from tests.support.training import run_gang, tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

HALF: dict[str, Any] = {
    "data__labelled": 0.5,
    "data__val": "",
    "run__checkpoint_every": 0.5,
    "run__keep": 9,
    "run__launcher": "local",
    "run__workers": 1,
    "run__zero": 0,
    "optim__batch": 32,
    "optim__micro_batch": 16,
    "optim__epochs": 1,
    "optim__milestones": (),
}
LABELLED = {"optim__batch": 16, "optim__micro_batch": 8}  # their half of a batch, alone


def run(*configs: Config) -> None:
    for config in configs:
        launch(config, "icon_dist.training.loop:train", Logger(run_directory(config)))


def final(config: Config) -> dict[str, dict[str, Tensor]]:
    found = checkpoint.find(f"{config.run.dir}/{config.run.name}", warn=pytest.fail)
    assert found is not None
    return {name: found.tensors(name) for name in ("model", "optimizer", "bank", "ema") if found.has(name)}


def assert_equal(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].keys() == b[name].keys()
        different = [key for key in a[name] if not torch.equal(a[name][key], b[name][key])]
        assert not different, f"{name}: {different[:5]} of {len(different)} differ"


def events(config: Config) -> list[dict[str, float]]:
    text = Path(config.run.dir, config.run.name, "metrics.jsonl").read_text()
    return [e for e in map(json.loads, text.splitlines()) if e["kind"] == "train"]


def semi(people: Path, run_dir: Path, method: str, **more: Any) -> Config:
    teacher = {"semi__teacher": f"{run_dir}/teacher"} if method == "pseudo" else {}
    return tiny(people, run_dir, semi__method=method, **{**HALF, **teacher, **more})


@pytest.fixture(scope="module")
def taught(people: Path, module_path: Path) -> Path:
    """A folder with the run ``teacher``."""
    run(tiny(people, module_path, run__name="teacher", **HALF))
    return module_path


@pytest.mark.parametrize("method", [pytest.param("pseudo", marks=pytest.mark.slow), "sspose"])
def test_resume_in_the_middle_bit_for_bit(people: Path, taught: Path, method: str) -> None:
    """Both positions, both banks, averaged weights, the teacher; from a checkpoint inside an epoch."""
    config = semi(people, taught, method, run__name=method, optim__ema=0.9, semi__gamma=0.01, optim__epochs=2,
                  run__zero=1)  # fmt: skip
    run(config)
    straight, told = final(config), events(config)
    steps = sorted((taught / method / "checkpoints").iterdir())
    assert [int(step.name.split("-")[1]) for step in steps] == [1, 2, 3, 4]  # 32 labelled people, 16 of each batch
    shutil.rmtree(steps[-1])  # on from the middle of the second epoch, with the banks in use
    run(config)
    assert_equal(straight, final(config))
    assert [e["total"] for e in events(config)] == [e["total"] for e in told]
    assert all(np.isfinite(e["total"]) for e in told)
    nets = {name.split(".")[0] for name in straight["bank"]}
    assert nets == ({"net1", "net2"} if method == "sspose" else {"skcc", "prcc", "step"})


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize(("method", "cache"), [("pseudo", False), ("pseudo", True), ("sspose", False)])
def test_two_workers_at_every_zero_stage(
    people: Path, taught: Path, tmp_path: Path, method: str, cache: bool, zero: int
) -> None:
    shutil.copytree(people, own := tmp_path / "people")
    config = semi(own, taught, method, run__name=f"{method}-{cache}-{zero}", run__zero=zero, run__launcher="ray",
                  run__workers=2, semi__gamma=0.01, semi__cache=cache)  # fmt: skip
    run_gang(config, scratch=taught)
    straight = final(config)
    late = sorted((taught / config.run.name / "checkpoints").iterdir())[-1]
    shutil.rmtree(late)
    run_gang(config, scratch=taught)
    assert_equal(straight, final(config))


def test_the_teacher_looks_once(people: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its joints beside the shards are those that ``evaluate`` finds; runs that read them, resume with them or make a
    damaged file again equal the one that made them."""
    own = tmp_path / "people"
    shutil.copytree(people, own)
    shards = open_shards(f"{own}/train")

    def pseudo(name: str) -> Config:
        return semi(own, taught, "pseudo", run__name=name, semi__gamma=0.01, semi__cache=True)

    run(pseudo("looks"))
    (file,) = (own / "train").glob("teacher-*.parquet")
    table = pq.read_table(file)
    kept = np.stack(table["keypoints"].to_numpy()).reshape(shards.keypoints.shape)
    assert table["instance"].to_pylist() == shards.instance.tolist()
    cfg = pseudo("looks")
    weights = stored_weights.load(str(taught / "teacher"))
    model = from_config.restore(weights).eval()
    codec = codec_of(weights.config)
    settings = EvalConfig(batch=cfg.eval.batch, flip=True, decode="dark")
    with closing(eval_stream(shards, codec, settings, loaders=0, device="cpu")) as stream:
        _, found = evaluate(model, stream, None, codec=codec, settings=settings, device="cpu")
    at = {person: i for i, person in enumerate(found.instance.tolist())}
    np.testing.assert_array_equal(kept, found.keypoints[[at[person] for person in shards.instance.tolist()]])
    passed = {name: value for name, value in events(cfg)[0].items() if name.startswith("pass_")}
    assert 0 < sum(passed.values()) < len(passed)

    capsys.readouterr()
    run(pseudo("reads"))
    assert "looks at" not in capsys.readouterr().err
    before = file.read_bytes()
    damaged = bytearray(before)
    damaged[len(before) // 2] ^= 1
    file.write_bytes(damaged)
    run(pseudo("mends"))
    assert f"{file} is damaged" in capsys.readouterr().err
    assert file.read_bytes() == before
    shutil.rmtree(max((taught / "mends" / "checkpoints").iterdir()))
    run(pseudo("mends"))  # from the middle of its epoch
    for name in ("reads", "mends"):
        assert_equal(final(cfg), final(pseudo(name)))
    assert list(verify(shards)) == []


def looked(config: Config) -> Tensor:
    """What the teacher of a config saw, where it was sure; on every rank."""
    shards = open_shards(config.data.train)
    known = split(shards.instance, share=config.data.labelled, seed=0)
    teacher = load_teacher(config, shards, known, device="cpu", bf16=False)
    return torch.from_numpy(sure_joints(teacher, config, shards, device="cpu", note=print))


def test_two_ranks_see_what_one_sees(people: Path, taught: Path, tmp_path: Path) -> None:
    shutil.copytree(people / "train", tmp_path / "people" / "train")
    config = semi(tmp_path / "people", taught, "pseudo", semi__gamma=0.01, semi__cache=True)
    one, other = on_ranks(looked, config, world=2, folder=tmp_path)
    assert torch.equal(one, other)
    (file,) = (tmp_path / "people" / "train").glob("teacher-*.parquet")
    assert torch.equal(one, looked(config))  # read
    file.unlink()
    torch.testing.assert_close(one, looked(config), rtol=0, atol=1e-3)  # other batches, other roundings
    assert (one[..., 2] == 2).any()


def test_bad_images_are_left_out_and_what_was_seen_is_not_kept(
    people: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(people / "train", tmp_path / "train")
    shards = open_shards(str(tmp_path / "train"))
    with (tmp_path / "train" / shards.shard_names[0]).open("r+b") as tar:
        tar.seek(int(shards.offset[5]) + 40)
        tar.write(b"damage")
    config = semi(tmp_path, taught, "pseudo", semi__gamma=0, semi__cache=True, data__max_bad_fraction=0.1)
    assert looked(config)[..., 2].amax(1).eq(0).nonzero().tolist() == [[5]]
    assert "1 image cannot be read" in capsys.readouterr().out
    assert not list((tmp_path / "train").glob("teacher-*"))


def test_a_teacher_that_is_never_sure_leaves_supervised_training(
    people: Path, taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """gamma above every peak: the labelled half of each batch trains as if it were alone, bit for bit."""
    plain = tiny(people, taught, run__name="alone", **HALF | LABELLED, loss__lambda_p=0)
    never = semi(people, taught, "pseudo", run__name="never", semi__gamma=1.1, loss__lambda_p=0)
    sure = semi(people, taught, "pseudo", run__name="sure", semi__gamma=0.0, loss__lambda_p=0)
    run(plain, never, sure)
    assert_equal(final(plain), final(never))
    assert not torch.equal(final(sure)["model"]["conv1.weight"], final(plain)["model"]["conv1.weight"])
    passed = {name: value for name, value in events(sure)[0].items() if name.startswith("pass_")}
    assert len(passed) == open_shards(f"{people}/train").skeleton.num_joints
    assert max(passed.values()) > 0.5
    assert not any(value for name, value in events(never)[0].items() if name.startswith("pass_"))
    assert capsys.readouterr().err.count("no joint of people without labels is above semi.gamma") == 1


@pytest.mark.slow  # what a teacher that is never sure does, above, for two students
def test_students_that_are_never_sure_teach_nothing(
    people: Path, taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``semi.lessons=sure``; the log says how many joints pass, and a warning if none does."""
    sure, never = (
        semi(people, taught, "sspose", run__name=f"lessons-{gamma}", semi__lessons="sure", semi__gamma=gamma)
        for gamma in (0.01, 1.1)
    )
    run(sure, never)
    assert all(event["unlabelled"] > 0 for event in events(sure))
    assert all(event["unlabelled"] == 0 for event in events(never))
    for net in ("", "net2_"):
        assert max(v for name, v in events(sure)[0].items() if name.startswith(f"{net}pass_")) > 0.5
    assert capsys.readouterr().err.count("no joint of people without labels is above semi.gamma") == 1


@pytest.mark.slow  # the test before it, with contrast: only roundings may differ
def test_with_contrast_the_unsure_teacher_changes_rounding_at_most(people: Path, taught: Path) -> None:
    plain = tiny(people, taught, run__name="alone-icon", **HALF | LABELLED)
    never = semi(people, taught, "pseudo", run__name="never-icon", semi__gamma=1.1)
    run(plain, never)
    for name in ("total", "heatmap", "skcc", "prcc"):
        np.testing.assert_allclose([e[name] for e in events(never)], [e[name] for e in events(plain)], rtol=1e-4)
    assert any(e["skcc"] for e in events(plain))


def test_students_are_scored_and_fetched_apart(people: Path, taught: Path) -> None:
    config = semi(people, taught, "sspose", run__name="scored", data__val=f"{people}/val")
    run(config)
    uri = run_directory(config)
    found = checkpoint.find(uri, which="best", warn=pytest.fail)
    assert found is not None
    metrics = found.manifest["metrics"]
    names = {name for name in metrics if not name.startswith(("net2_", "mean_"))}
    assert set(metrics) == names | {f"net2_{n}" for n in names} | {f"mean_{n}" for n in names}
    assert found.manifest["score"] in [metrics[n] for n in names]
    model = found.tensors("model")
    for net in (1, 2):
        tensors = stored_weights.load(uri, net=net).tensors
        assert {f"net{net}.{name}" for name in tensors} == {n for n in model if n.startswith(f"net{net}.")}
        assert torch.equal(tensors["conv1.weight"], model[f"net{net}.conv1.weight"])
    with pytest.raises(CheckpointError, match="holds one network"):
        stored_weights.load(f"{taught}/teacher", net=2)


@pytest.mark.slow  # four runs; that a split or a teacher's labels differ is refused below
def test_another_teacher_is_refused(people: Path, taught: Path, tmp_path: Path) -> None:
    """The other net of the same run, for one; not the same net from another place."""
    run(semi(people, taught, "sspose", run__name="two"))
    files = {number: tmp_path / f"net{number}.safetensors" for number in "12"}
    for number, file in files.items():
        fetch.main([f"{taught}/two", "--net", number, "--out", str(file)])
    run(semi(people, tmp_path, "pseudo", semi__teacher=f"{taught}/two"))
    run(semi(people, tmp_path, "pseudo", semi__teacher=str(files["1"])))
    with pytest.raises(CheckpointError, match=r"teacher was .*use another run.name"):
        run(semi(people, tmp_path, "pseudo", semi__teacher=str(files["2"])))


def test_other_labelled_people_are_refused(people: Path, taught: Path) -> None:
    """By a checkpoint, and by a teacher or first weights that would pass on what they were told of them."""
    for change, text in (
        ({"data__split_seed": 1}, "trained with the labels of .* people, unlabelled here"),
        ({"data__labelled": 0.25}, "trained with the labels of 16 people, unlabelled here"),
        ({"data__sigma": 2}, r"trained with data.sigma=1.0, this run has 2.0; make them equal"),
    ):
        with pytest.raises(ConfigError, match=text):
            run(semi(people, taught, "pseudo", run__name="leak", **change))
    start = {"model__pretrained": f"{taught}/teacher"}
    with pytest.raises(ConfigError, match=r"model.pretrained=.*: was trained with the labels of .*, unlabelled here"):
        run(tiny(people, taught, run__name="start", **start, **{**HALF, "data__split_seed": 1}))
    run(tiny(people, taught, run__name="start", **start, **HALF))
    with pytest.raises(CheckpointError, match=r"checkpoint of step 1: split was .*use another run.name"):
        run(tiny(people, taught, run__name="teacher", **{**HALF, "data__split_seed": 1}))
