"""``python -m icon_dist.train`` as a user meets it: help, plans, one-line errors, a run, the same command again."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from icon_dist import __main__ as console
from icon_dist import train
from icon_dist.checkpoints import checkpoint
from icon_dist.codec import heatmap
from icon_dist.config import load, presets
from icon_dist.errors import StorageError, run_cli
from icon_dist.shards.shard_set import open_shards
from icon_dist.storage import hashed_json
from icon_dist.training import driver
from icon_dist.training.plan import plan_run
from icon_dist.training.setup import open_data
from tests.gang import TINY

# What DeepSpeed and torch warn of on DeepSpeed's import is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

Tree = dict[str, tuple[str, int]]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error, which is the last line, whole, and without a traceback before it."""
        assert "Traceback" not in self.err
        *_, last = self.err.splitlines()
        assert last.startswith("icon_dist: error: ")
        assert self.err.count("icon_dist: error:") == 1
        return last


Command = Callable[..., Outcome]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run ``main(argv)`` as the console would; with everything it prints, DeepSpeed's output included."""

    def run(*argv: str, main: Callable[[list[str]], int | None] = train.main) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            run_cli(main, list(argv))
        out, err = capfd.readouterr()
        return Outcome(int(left.value.code or 0), out, err)

    return run


def tree(folder: Path) -> Tree:
    """Every file with its hash and its time of change."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def arguments(people: Path, runs: Path, *more: str) -> list[str]:
    """A run of seconds in this process: 2 epochs of 64 // 16 = 4 steps."""
    places = [f"data.train={people}/train", f"data.val={people}/val", f"run.dir={runs}", "run.name=first"]
    small = [f"{key}={value}".replace("(", "[").replace(",)", "]") for key, value in TINY.items()]
    alone = ["run.launcher=local", "run.workers=1", "optim.epochs=2", "optim.milestones=[1]", "optim.ema=0.9"]
    alone += ["optim.warmup_steps=4"]
    return ["--cfg", "demo", *places, *small, *alone, *more]


@pytest.fixture(scope="module")
def runs(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run ``first``: stopped after an epoch, then the same command again."""
    folder = tmp_path_factory.mktemp("runs")
    train.main(arguments(people, folder, "run.stop_after_epoch=1"))
    train.main(arguments(people, folder))
    return folder


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    """The finished run, to be spoiled."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "first" / "checkpoints").iterdir())


# ---------------------------------------------------------------------------------------------- before anything runs


def test_help_lists_the_presets(command: Command) -> None:
    done = command("--help")
    assert done.code == 0
    text = " ".join(done.out.split())
    for name in presets():
        assert name in text
    assert "--dry-run" in text
    assert "--print-config" in text


def test_the_first_help_loads_nothing_heavy() -> None:
    """``icon-dist --help`` must answer at once: torch alone takes seconds."""
    heavy = ("torch", "numpy", "ray", "deepspeed", "yaml", "boto3", "cv2")
    code = f"""
import sys
from icon_dist.__main__ import main
sys.argv = ["icon-dist", "--help"]
try:
    main()
finally:
    print(*[name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    for verb in console.VERBS:
        assert f"  {verb} " in done.stdout


def test_a_real_process_ends_with_one_line_and_its_code(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "icon_dist", "train", "--cfg", "cocoo"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("icon_dist: error: --cfg cocoo: no such preset; did you mean coco?")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_it_came_from(command: Command) -> None:
    def long_name(_: list[str]) -> None:
        Path("x" * 300).touch()

    done = command("--debug", "--cfg", "cocoo")
    assert done.code == 2, "as without it"
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1].startswith("icon_dist: error: --cfg cocoo: no such preset")
    assert command("--debug", main=long_name).code == 2


def test_an_error_of_several_lines_is_one(command: Command) -> None:
    def fail(_: list[str]) -> None:
        raise StorageError("first\n   second")

    assert command(main=fail) == Outcome(5, "", "icon_dist: error: first second\n")


def test_control_c_is_no_traceback(command: Command) -> None:
    def interrupted(_: list[str]) -> None:
        raise KeyboardInterrupt

    assert command(main=interrupted) == Outcome(130, "", "icon_dist: interrupted\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    """``icon-dist --help | head -1``"""
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "icon_dist", "--help"]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("words", ["--help", "train --help", "paper", "--version"])
def test_output_onto_a_full_disk_is_said(words: str) -> None:
    with open("/dev/full", "w") as full:
        argv = [sys.executable, "-m", "icon_dist", *words.split()]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = "icon_dist: error: standard output: No space left on device; free some space or write elsewhere\n"
    assert (done.returncode, done.stderr) == (5, said)


@pytest.mark.parametrize("argv", [[], ["loss.tau=1"], ["--cfg"], ["--cfg", "coco", "--nope"]])
def test_wrong_flags_are_one_line(
    argv: list[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*argv)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert done.error.endswith("; see icon-dist train --help")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["coco", "demo"])
def test_a_printed_config_is_the_config(name: str, command: Command, tmp_path: Path) -> None:
    overrides = ["loss.tau=0.1", "run.name=007", "optim.milestones=[3,5]", "optim.lr=1e-5"]
    done = command("--cfg", name, *overrides, "--print-config")
    assert (done.code, done.err) == (0, "")
    (tmp_path / "printed.yaml").write_text(done.out)
    assert load(str(tmp_path / "printed.yaml")) == load(name, overrides)


def test_flags_and_overrides_in_any_order(command: Command) -> None:
    printed = {
        command(*argv).out
        for argv in (
            ["--cfg", "coco", "loss.tau=0.1", "run.name=x", "--print-config"],
            ["loss.tau=0.1", "--print-config", "run.name=x", "--cfg", "coco"],
        )
    }
    assert len(printed) == 1


def test_a_dry_run_of_the_demo_draws_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(["--cfg", "demo", "--dry-run"])
    assert "1600 people would be rendered to" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_the_plan_and_touches_nothing(people: Path, tmp_path: Path, command: Command) -> None:
    before = tree(people)
    done = command(*arguments(people, tmp_path / "runs"), "--dry-run")
    config = load("demo", arguments(people, tmp_path / "runs")[2:])
    assert (done.code, done.err) == (0, "")
    plan, place = str(plan_run(config, open_shards(str(people / "train")))), f"{tmp_path}/runs/first"
    assert done.out.startswith(f"{plan}\n")
    assert done.out.removeprefix(f"{plan}\n").splitlines() == [
        f"run         {place}",
        "device      CPU, fp32; this process",
        "start       random weights, seed 0",
        f"scored      every epoch, on {len(open_shards(str(people / 'val')))} people",
        f"watch       tensorboard --logdir {place}/tensorboard",
    ]
    assert list(tmp_path.iterdir()) == []
    assert tree(people) == before


@pytest.mark.parametrize(
    ("overrides", "code", "says"),
    [
        (["loss.tua=0.1"], 2, "did you mean loss.tau?"),
        (["loss.tau=0"], 2, "loss.tau=0.0"),
        (["loss.tau=nan"], 2, "loss.tau=nan"),
        (["loss.single.queries=0"], 2, "loss.single.queries=0"),
        (["loss.single.negatives=17"], 2, "loss.single.negatives=17: skeleton"),
        (["optim.lr=fast"], 2, "optim.lr"),
        (["run.zero=4"], 2, "run.zero=4"),
        (["data.input=40x40"], 2, "multiples of 32"),
        (
            ["run.workers=3", "run.launcher=ray"],
            2,
            "optim.batch=16: the global batch must be a multiple of run.workers=3",
        ),
        (["data.streams=3"], 2, "data.streams=3: must divide optim.batch=16"),
        (["data.streams=2", "run.workers=4", "run.launcher=ray"], 2, "run.workers=4"),
        (["model.backbone=hrnet_w33"], 2, "model.backbone=hrnet_w33"),
        (["model.feature=deconv"], 2, "model.feature"),
        (["run.dir=ftp://somewhere"], 2, "'ftp:' is not supported"),
        (["optim.batch=4096", "optim.micro_batch=4096"], 3, "people do not fill one batch"),
        (["data.input=512x512"], 3, "data.input=512x512"),
        (["data.augment.scale=0.9"], 3, "data.augment.scale"),
        (["data.val=nowhere", "data.generate=0"], 3, "nowhere: no shards here"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    overrides: list[str],
    code: int,
    says: str,
    people: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*arguments(people, tmp_path / "runs", *overrides))
    assert done.code == code
    assert says in done.error
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_line_without_shards(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--cfg coco`` on a new machine says how to make what is missing."""
    monkeypatch.chdir(tmp_path)
    done = command("--cfg", "coco")
    assert done.code == 3
    assert "data/coco/train: no shards here" in done.error
    assert "icon-dist shards build" in done.error
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ a run


def test_what_a_run_leaves(runs: Path, people: Path) -> None:
    run = runs / "first"
    assert load(str(run / "config.yaml")) == load("demo", arguments(people, runs)[2:])

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
    config = load("demo", arguments(people, runs)[2:])
    foretold = plan_run(config, open_shards(str(people / "train"))).checkpoint_bytes
    *_, newest = checkpoints(runs)
    assert foretold == pytest.approx(sum(path.stat().st_size for path in newest.iterdir()), rel=0.05)


def test_the_same_command_again_changes_nothing(copy: Path, people: Path, command: Command) -> None:
    before = tree(copy)
    done = command(*arguments(people, copy))
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
        (["optim.epochs=1", "optim.milestones=[]"], ["optim.epochs=1 (was 2)", "optim.milestones=() (was (1,))"]),
        (["run.stop_after_epoch=1", "eval.flip=false"], ["eval.flip=False (was True)"]),
    ],
)
def test_values_that_a_finished_run_was_not_trained_with_are_not_written(
    overrides: list[str], told: list[str], copy: Path, people: Path, command: Command
) -> None:
    before = tree(copy)
    done = command(*arguments(people, copy, *overrides))
    assert done.code == 0
    (line,) = [line for line in done.err.splitlines() if "not applied" in line]
    assert line == f"not applied, because the run is over: {', '.join(told)}; another run.name trains with other values"
    assert "complete: step 8 of 8" in done.err
    assert tree(copy) == before


def test_a_resumed_run_writes_the_values_that_apply_from_there(copy: Path, people: Path, command: Command) -> None:
    done = command(*arguments(people, copy, "optim.epochs=3", "loss.tau=0.2"))
    assert done.code == 0
    assert "with another config from here on: loss.tau=0.2 (was 0.07), optim.epochs=3 (was 2)" in done.err
    assert load(str(copy / "first" / "config.yaml")).loss.tau == 0.2


def test_what_a_resume_changes_is_said_before_the_plan(copy: Path, people: Path, command: Command) -> None:
    before = tree(copy)
    longer = command(*arguments(people, copy, "optim.epochs=3", "loss.tau=0.5"), "--dry-run")
    assert longer.code == 0
    changed = "loss.tau=0.5 (was 0.07), optim.epochs=3 (was 2)"
    assert longer.err == f"icon_dist: note: the run goes on from step 8 with another config: {changed}\n"
    assert "\nstart       its checkpoint of step 8\n" in longer.out
    refused = command(*arguments(people, copy, "optim.epochs=3", "optim.batch=32"))
    assert (refused.code, refused.out) == (4, "")
    assert "was epoch 2, but would be epoch 4 here; resume with the data and the optim.batch" in refused.error
    assert tree(copy) == before


def test_a_finished_run_needs_no_cluster_to_say_so(copy: Path, people: Path, command: Command) -> None:
    before = tree(copy / "first")
    given = [*arguments(people, copy), "run.launcher=ray"]
    done = command(*given)
    assert done.code == 0
    assert re.fullmatch(r"complete: step 8 of 8, best PCK@0\.2 [0-9.]+ \(split=val .*\); .*/first\n", done.err)
    assert tree(copy / "first") == before
    config = driver.anchored(load("demo", given[2:]))
    data = open_data(config)
    assert driver.finished(config, data)
    assert not driver.finished(replace(config, loss=replace(config.loss, tau=0.1)), data), (
        "the workers say what has changed"
    )
    (checkpoints(copy)[-1] / "model.safetensors").write_bytes(b"")
    assert not driver.finished(config, data), "the workers go back to an older one"


def test_a_damaged_checkpoint_is_passed_over_and_made_again(
    copy: Path, runs: Path, people: Path, command: Command
) -> None:
    older, newest = checkpoints(copy)
    manifest = newest / "MANIFEST.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"step": 8', b'"step": 9'))
    damaged = tree(newest)
    done = command(*arguments(people, copy))
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


# ----------------------------------------------------------------------------------------- runs that cannot go on


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
    done = command(*arguments(people, copy))
    assert "no intact checkpoint" in refuses(done, 4, copy, before)
    assert len([line for line in done.err.splitlines() if "skipped: model.safetensors" in line]) == 2


def test_another_backbone_is_refused_naming_both(copy: Path, people: Path, command: Command) -> None:
    before = tree(copy)
    line = refuses(command(*arguments(people, copy, "model.backbone=resnet50")), 4, copy, before)
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
    line = refuses(command(*arguments(people, copy, *places)), 4, copy, before)
    assert "antenna" in line
    assert name in line


def test_other_banks_are_refused(copy: Path, people: Path, command: Command) -> None:
    before = tree(copy)
    line = refuses(command(*arguments(people, copy, "loss.bank.enabled=false")), 4, copy, before)
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
    assert re.search(says, refuses(command(*arguments(people, copy, *overrides)), 4, copy, before))


def test_val_of_another_skeleton_is_refused_before_anything_runs(
    people: Path, tmp_path: Path, command: Command
) -> None:
    other = Path(shutil.copytree(people / "val", tmp_path / "val"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["skeleton"]["metric"] = "coco"
    (other / "manifest.json").write_bytes(hashed_json.sealed(manifest))
    done = command(*arguments(people, tmp_path / "runs", f"data.val={other}"))
    assert done.code == 3
    assert "scored by coco, but data.train has" in done.error
    assert not (tmp_path / "runs").exists()


def test_a_run_that_was_stopped_stays_stopped(people: Path, tmp_path: Path, command: Command) -> None:
    """The same command again has nothing to do; and an evaluated epoch is saved whatever the interval."""
    argv = arguments(people, tmp_path, "run.stop_after_epoch=1", "run.checkpoint_every=2")
    assert command(*argv).code == 0
    before = tree(tmp_path / "first" / "checkpoints")
    assert [path.name.split("-")[1] for path in checkpoints(tmp_path)] == ["00000004"]
    assert command(*argv).code == 0
    assert tree(tmp_path / "first" / "checkpoints") == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_not_replaced(people: Path, tmp_path: Path, command: Command) -> None:
    done = command(*arguments(people, tmp_path, "run.gpus_per_worker=1"))
    assert done.code == 7
    assert "run.gpus_per_worker=1: this machine has no GPU" in done.error


def test_a_loss_that_is_not_finite_ends_the_run(people: Path, tmp_path: Path, command: Command) -> None:
    done = command(*arguments(people, tmp_path, "optim.lr=1e17", "optim.warmup_steps=0", "run.max_skipped=2"))
    assert done.code == 6
    assert "the loss or its gradients are not finite, 2 steps in a row" in done.error
    assert "lower optim.lr" in done.error
    assert not (tmp_path / "first" / "checkpoints").exists(), "what has diverged is not saved"


def test_a_disk_that_fills_up_in_the_middle_of_a_run(copy: Path, people: Path, command: Command) -> None:
    """Exit code 5, all older checkpoints as they were and no half-written file; with room again the run goes on."""
    before, hard = tree(copy / "first" / "checkpoints"), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # of one file: weights do not fit, the log does
    try:
        done = command(*arguments(people, copy, "optim.epochs=3"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert done.code == 5
    assert re.search(r"checkpoints/step-00000012-.*: disk full \(File too large\); free some space", done.error)
    assert tree(copy / "first" / "checkpoints") == before
    assert not [path for path in copy.rglob("*") if ".partial" in path.name]
    again = command(*arguments(people, copy, "optim.epochs=3"))
    assert again.code == 0
    assert "resumed at step 8" in again.err


def test_divergence_that_shows_in_the_evaluation_ends_the_run(
    people: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heatmap, "flip_back", lambda maps, **_: maps * math.nan)
    done = command(*arguments(people, tmp_path))
    assert done.code == 6
    assert re.search(r"the poses of (\d+) of \1 people are not finite: the model has diverged; lower", done.error)


@pytest.mark.gpu
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_run_on_a_gpu(zero: int, people: Path, tmp_path: Path) -> None:
    """bf16, pinned memory, the bank on the device; in a process of its own, since NCCL's group lasts as long."""
    more = ("run.gpus_per_worker=1", f"run.zero={zero}", "data.loaders=1", "optim.ema=0")
    argv = [sys.executable, "-m", "icon_dist.train", *arguments(people, tmp_path, *more)]
    for end, last in (("stopped early: step 4 of 8", ["run.stop_after_epoch=1"]), ("complete: step 8 of 8", [])):
        done = subprocess.run([*argv, *last], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert end in done.stderr
