"""Verified weights out of a run: what is written, what is refused, and with which exit code."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors
import torch
from torch import Tensor

from icon_dist import fetch, storage
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.command_exit import run_cli
from icon_dist.config import Config
from icon_dist.datasets import load_skeleton, skeleton_to_dict
from icon_dist.errors import CheckpointError
from icon_dist.inference import calibration_file
from icon_dist.loggers import progress_line
from icon_dist.metrics.calibration import Curve
from icon_dist.models import Heads, build_model
from icon_dist.storage.s3_client import client as client_of_s3
from tests.support.full_disk import full_disk

CONFIG = dataclasses.asdict(Config())
SKELETON = skeleton_to_dict(load_skeleton("coco"))


def weights(step: int, *, ema: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step + 1000 * ema)
    tensors = {"conv.weight": torch.randn(5, 3, generator=generator), "bn.mean": torch.full((3,), float(step))}
    if ema:
        del tensors["bn.mean"]  # averages may cover parameters only
    return tensors


def save(run: str, step: int, *, score: float | None = None, evaluated: str = "model") -> str:
    tensors = {"model": weights(step), "optimizer": {"x": torch.zeros(2)}}
    if evaluated == "ema":
        tensors["ema"] = weights(step, ema=True)
    said = {"score": score, "evaluated": evaluated, "config": CONFIG, "skeleton": SKELETON, "metrics": {"AP": score}}
    return checkpoint.save(run, step=step, attempt="a", tensors=tensors, state={}, manifest=said, keep=9)


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = str(tmp_path / "runs" / "w48") if request.param == "local" else str(request.getfixturevalue("s3"))
    for step, score in [(1, 0.2), (2, 0.7), (3, 0.5)]:
        save(place, step, score=score)
    return place


@pytest.fixture
def local_run(tmp_path: Path) -> str:
    save(str(tmp_path / "run"), 1, score=0.25)
    return str(tmp_path / "run")


def exit_code(*argv: str) -> int:
    with pytest.raises(SystemExit) as left:
        run_cli(fetch.main, list(argv))
    return int(left.value.code or 0)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("flags", "step"), [([], 2), (["--best"], 2), (["--last"], 3), (["--step", "1"], 1)])
def test_one_file_with_its_story(
    run: str, flags: list[str], step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "best.safetensors"
    assert exit_code(run, *flags, "-o", str(out)) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert f"step {step}, AP " in line
    found = stored_weights.load(str(out))
    assert equal(found.tensors, weights(step))
    assert (found.step, found.config, found.skeleton) == (step, Config(), load_skeleton("coco"))
    assert found.metrics == {"AP": found.score}
    with safetensors.safe_open(out, "pt") as file:  # anyone can open it
        assert json.loads(file.metadata()["step"]) == step
        assert torch.equal(file.get_tensor("conv.weight"), weights(step)["conv.weight"])
    from_run = stored_weights.load(run, which=step)
    assert equal(from_run.tensors, found.tensors)
    assert dataclasses.replace(from_run, tensors={}) == dataclasses.replace(found, tensors={})


def test_a_run_without_scores_gives_its_last(tmp_path: Path) -> None:
    for step in (1, 2):
        save(str(tmp_path), step)
    assert stored_weights.load(str(tmp_path)).step == 2


def test_each_student_has_its_own_scores_and_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A set may be scored by another metric than that of the skeleton that is predicted."""
    run, file = str(tmp_path / "run"), str(tmp_path / "best.safetensors")
    pair = {f"net{net}.{name}": tensor for net in (1, 2) for name, tensor in weights(net).items()}
    scores = {"val/PCKh": 51.5, "other/AP": 0.5, "net2_val/PCKh": 42.5, "net2_other/AP": 0.4, "mean_val/PCKh": 63.5}
    said = {"config": CONFIG, "skeleton": SKELETON, "metrics": scores, "score": 51.5, "headline": "val/PCKh"}
    checkpoint.save(run, step=1, attempt="a", tensors={"model": pair}, state={}, manifest=said, keep=1)
    first = stored_weights.load(run)
    curves = dict.fromkeys(calibration_file.FLIPS.values(), [Curve([0.1], [0.2])] * first.skeleton.num_joints)
    made = calibration_file.Calibration(first.manifest_sha256, first.net, first.skeleton.joints, curves, {})
    calibration_file.write(calibration_file.place_of(run), made)

    assert exit_code(run, "--list") == exit_code(run, "-o", file) == 0
    found = stored_weights.load(file)
    assert "     51.5  " in (shown := capsys.readouterr().out)
    assert "step 1, val/PCKh 51.5, " in shown
    assert (found.net, found.score, found.metrics) == (1, 51.5, {"val/PCKh": 51.5, "other/AP": 0.5})
    assert calibration_file.read(file, found) == made

    assert exit_code(run, "--net", "2", "-o", file, "--force") == 0  # beside it is still the calibration of the first
    found = stored_weights.load(file)
    assert "step 1, val/PCKh 42.5, " in capsys.readouterr().out
    assert (found.net, found.score, found.metrics) == (2, 42.5, {"val/PCKh": 42.5, "other/AP": 0.4})
    assert calibration_file.read(file, found) is calibration_file.read(run, found) is None
    assert capsys.readouterr().err.count("is of another network and not applied") == 2
    card = (tmp_path / "best.md").read_text()
    assert "| val/PCKh 42.5, other/AP 40.0 |" in card or "| other/AP 40.0, val/PCKh 42.5 |" in card
    assert ", the second of its two networks |" in card


def test_the_best_of_each_student_is_by_its_own_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = str(tmp_path / "run"), str(tmp_path / "best.safetensors")
    for step, first, second in [(1, 0.3, 0.2), (2, 0.1, 0.9), (3, 0.2, float("nan"))]:
        pair = {f"net{net}.{name}": tensor for net in (1, 2) for name, tensor in weights(step).items()}
        said = {"metrics": {"AP": first, "net2_AP": second}, "score": first, "headline": "AP"}
        said |= {"config": CONFIG, "skeleton": SKELETON}
        checkpoint.save(run, step=step, attempt="a", tensors={"model": pair}, state={}, manifest=said, keep=9)
    for net, step, score in [("1", 1, 30.0), ("2", 2, 90.0)]:
        assert exit_code(run, "--best", "--net", net, "-o", file, "--force") == 0
        assert f"step {step}, AP {score}, " in capsys.readouterr().out
        assert stored_weights.load(run, net=int(net)).step == step
    assert exit_code(run, "--list", "--net", "2") == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["20.0", "90.0", "-"]


def test_averaged_weights_when_they_are_what_is_evaluated(tmp_path: Path) -> None:
    save(str(tmp_path), 1, evaluated="ema")
    found = stored_weights.load(str(tmp_path))
    assert equal(found.tensors, weights(1) | weights(1, ema=True))
    assert found.evaluated == "ema"


@pytest.mark.parametrize("backbone", ["hrnet_w8", "resnet18"])
def test_tensors_have_the_official_names(backbone: str, tmp_path: Path) -> None:
    """Those of the model, which tests/models hold against the official code's, and of our head for contrast."""
    model, bare = (build_model(backbone, Heads(joints=17, projection=p, input_hw=(64, 64))) for p in ("mlp", None))
    said = {"score": None, "evaluated": "model", "config": CONFIG, "skeleton": SKELETON, "metrics": {}}
    tensors = {"model": model.state_dict(), "optimizer": {}}
    checkpoint.save(str(tmp_path / "run"), step=1, attempt="a", tensors=tensors, state={}, manifest=said, keep=1)
    out = tmp_path / "x.safetensors"
    assert exit_code(str(tmp_path / "run"), "-o", str(out)) == 0
    with safetensors.safe_open(out, "pt") as file:
        names = {name for name in file.keys() if not name.startswith("projection.")}  # noqa: SIM118  (no mapping)
    assert names == bare.state_dict().keys()


def test_weights_file_on_s3(s3: str, local_run: str) -> None:
    assert exit_code(local_run, "-o", f"{s3}/best.safetensors") == 0
    assert equal(stored_weights.load(f"{s3}/best.safetensors").tensors, weights(1))


def test_equal_weights_are_equal_bytes(local_run: str, tmp_path: Path) -> None:
    code = "import sys; from icon_dist.fetch import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, local_run, "-o", str(tmp_path / "a.safetensors")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    fetch.main([local_run, "-o", str(tmp_path / "b.safetensors")])  # with another seed of hashes
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_damage_is_passed_over_aloud(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage.write(f"{run}/checkpoints/step-00000002-a/model.safetensors", b"garbage")
    assert exit_code(run, "--best", "-o", str(tmp_path / "x.safetensors")) == 0
    shown = capsys.readouterr()
    assert "step 3" in shown.out
    assert shown.err.count("\n") == 1
    assert "step-00000002-a" in shown.err


def test_a_list_writes_nothing(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    storage.write(f"{run}/checkpoints/step-00000002-a/model.safetensors", b"garbage")
    before = storage.listing(run)
    assert exit_code(run, "--list") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["1", "20.0"], ["2", "-"], ["3", "50.0"]]
    assert rows[1][-1] == "incomplete"
    assert storage.listing(run) == before


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["RUN"], 2, "-o FILE"),
        (["RUN", "-o", "x.pt"], 2, "name it .safetensors"),
        (["RUN", "--best", "--last", "-o", "x.safetensors"], 2, "not allowed with"),
        (["RUN", "--step", "one", "-o", "x.safetensors"], 2, "is not a whole number"),
        (["http://a/b", "-o", "x.safetensors"], 2, "not supported"),
        (["RUN", "--step", "9", "-o", "x.safetensors"], 4, "no checkpoint of step 9; it has 1"),
        (["absent", "-o", "x.safetensors"], 4, "no checkpoint is there"),
        (["absent", "--list"], 4, "absent: nothing is there; check the path"),
        (["RUN", "-o", "RUN/last.json/x.safetensors"], 5, "is a file, not a folder"),
    ],
)
def test_refusals(
    argv: list[str],
    code: int,
    text: str,
    local_run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    before = storage.listing(local_run)
    assert exit_code(*(word.replace("RUN", local_run) for word in argv)) == code
    shown = capsys.readouterr()
    assert text in shown.err
    assert "Traceback" not in shown.err
    assert os.listdir(tmp_path / "cwd") == []
    assert storage.listing(local_run) == before


@pytest.mark.usefixtures("s3")
def test_no_bucket_is_a_storage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("s3://absent-bucket/run", "-o", "x.safetensors") == 5
    assert "does not exist" in capsys.readouterr().err


def test_none_intact_is_a_checkpoint_error(local_run: str, tmp_path: Path) -> None:
    storage.write(f"{local_run}/checkpoints/step-00000001-a/model.safetensors", b"garbage")
    assert exit_code(local_run, "-o", str(tmp_path / "x.safetensors")) == 4
    assert not (tmp_path / "x.safetensors").exists()


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (99,))


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_pickle_is_refused_and_not_loaded(name: str, tmp_path: Path) -> None:
    writers: list[Callable[[Path], Any]] = [
        lambda path: torch.save(Harmful(), path),
        lambda path: path.write_bytes(pickle.dumps(Harmful())),
    ]
    for write in writers:
        write(tmp_path / name)
        with pytest.raises(CheckpointError, match="is a pickle"):
            stored_weights.load(str(tmp_path / name))


def test_every_damage_of_a_file_is_noticed(local_run: str, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    assert exit_code(local_run, "-o", str(out)) == 0
    whole = out.read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    padding = len(whole[:size]) - len(whole[:size].rstrip(b" "))
    for at in range(0, len(whole), 7):
        out.write_bytes(whole[:at])
        with pytest.raises(CheckpointError):
            stored_weights.load(str(out))
        out.write_bytes(whole[:at] + bytes([whole[at] ^ 32]) + whole[at + 1 :])
        if not size - padding <= at < size:
            with pytest.raises(CheckpointError):
                stored_weights.load(str(out))


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(weights(1), tmp_path / "other.safetensors", metadata={"format": '"pt"'})
    with pytest.raises(CheckpointError, match="weights of others; to make a model of them"):
        stored_weights.load(str(tmp_path / "other.safetensors"))
    safetensors.torch.save_file(weights(1), tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="weights of others; to make a model of them"):
        stored_weights.load(str(tmp_path / "bare.safetensors"))


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(weights(1), tmp_path / "x.safetensors", metadata={"format": "2"})
    with pytest.raises(CheckpointError, match="format 2 is newer"):
        stored_weights.load(str(tmp_path / "x.safetensors"))
    safetensors.torch.save_file(weights(1), tmp_path / "x.safetensors", metadata={"format": "Infinity"})
    with pytest.raises(CheckpointError, match="weights of others; to make a model of them"):
        stored_weights.load(str(tmp_path / "x.safetensors"))


def test_neither_file_nor_run(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("absent", "folder"):
        with pytest.raises(CheckpointError, match="neither"):
            stored_weights.load(str(tmp_path / name))


def test_the_command_on_a_full_disk(local_run: str, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"old")
    command = [sys.executable, "-m", "icon_dist.fetch", local_run, "-o", str(out), "--force"]
    with full_disk(500):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("icon_dist: error: ")
    assert "disk full" in done.stderr
    assert done.stderr.count("\n") == 1
    assert out.read_bytes() == b"old"


def save_megabytes(uri: str) -> Tensor:
    """A checkpoint of 4 MB at ``uri``, and what it holds."""
    values = torch.arange(1 << 20, dtype=torch.float32)
    said = {"score": None, "evaluated": "model", "config": CONFIG, "skeleton": SKELETON, "metrics": {}}
    checkpoint.save(uri, step=1, attempt="a", tensors={"model": {"x": values}}, state={}, manifest=said, keep=1)
    return values


def test_a_long_download_is_told(
    s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_megabytes(s3)
    seconds = itertools.count(step=20.0)
    monkeypatch.setattr(progress_line, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    assert exit_code(s3, "-o", str(tmp_path / "x.safetensors")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("model.safetensors: ")
    assert lines[-1].startswith("model.safetensors: 4/4 MB, ")


def test_an_interrupted_download_goes_on_where_it_stopped(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle; the same command then asks for the rest, and nothing stays beside the file."""
    big = save_megabytes(s3)
    out = tmp_path / "x.safetensors"
    ranges: list[str] = []

    def asked(params: dict[str, Any], **_: object) -> None:
        ranges.append(params["headers"].get("Range", ""))

    events = client_of_s3().meta.events
    events.register("before-call.s3.GetObject", asked, unique_id="asked")

    def interrupted(self: object, done: int, total: int) -> None:
        del self, total
        if done >= 2:  # MB
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress_line.ProgressLine, "__call__", interrupted)
        assert exit_code(s3, "-o", str(out)) == 130
    (part,) = tmp_path.iterdir()
    begun = part.stat().st_size
    assert 0 < begun < 4_000_000
    assert exit_code(s3, "-o", str(out)) == 0
    assert ranges[-1] == f"bytes={begun}-"
    assert torch.equal(stored_weights.load(str(out)).tensors["x"], big)
    assert set(tmp_path.iterdir()) == {out, out.with_suffix(".md")}

    part.write_bytes(os.urandom(1000))  # not the beginning of this file
    assert exit_code(s3, "-o", str(out), "--force") == 0
    assert ranges[-2:] == ["bytes=1000-", ""]
    assert set(tmp_path.iterdir()) == {out, out.with_suffix(".md")}
    part.write_bytes(b"x" * 9_000_000)  # longer than it
    assert exit_code(s3, "-o", str(out), "--force") == 0
    assert torch.equal(stored_weights.load(str(out)).tensors["x"], big)
    events.unregister("before-call.s3.GetObject", unique_id="asked")

    with part.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert exit_code(s3, "-o", str(out), "--force") == 5
