"""``python -m icon_dist.train`` as a user meets it: help, plans, one-line errors, a run, the same command again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icon_dist import __main__ as console
from icon_dist import train
from icon_dist.cli import presets
from icon_dist.config import load
from icon_dist.errors import StorageError
from icon_dist.shards.shard_set import open_shards
from icon_dist.training.plan import plan_run
from tests.support.commands import Command, Outcome, one_process, tree

# What DeepSpeed and torch warn of on DeepSpeed's import is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


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


@pytest.mark.parametrize("words", ["--help", "train --help", "paper", "--version"])
def test_output_onto_a_full_disk_is_said(words: str) -> None:
    with open("/dev/full", "w") as full:
        argv = [sys.executable, "-m", "icon_dist", *words.split()]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = "icon_dist: error: standard output: No space left on device; free some space or write elsewhere\n"
    assert (done.returncode, done.stderr) == (5, said)


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
    assert "1200 people would be rendered to" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_the_plan_and_touches_nothing(people: Path, tmp_path: Path, command: Command) -> None:
    before = tree(people)
    done = command(*one_process(people, tmp_path / "runs"), "--dry-run")
    config = load("demo", one_process(people, tmp_path / "runs")[2:])
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
        (["loss.skcc.queries=0"], 2, "loss.skcc.queries=0"),
        (["loss.skcc.negatives=17"], 2, "loss.skcc.negatives=17: skeleton"),
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
    done = command(*one_process(people, tmp_path / "runs", *overrides))
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


def test_whom_to_draw_is_said_to_be_late_where_people_are_there(command: Command, people: Path, tmp_path: Path) -> None:
    places = [f"data.train={people}/train", f"data.val={people}/val", f"run.dir={tmp_path}", "optim.batch=8"]
    count = len(open_shards(f"{people}/train"))
    about = f"nobody is drawn, because {people}/train and {people}/val are there, with {count} people to train on"
    done = command("--cfg", "demo", "--dry-run", *places, "data.generate=5000", "data.difficulty=hard")
    assert done.code == 0
    assert f"data.generate=5000: {about}" in done.err
    assert f"data.difficulty=hard: {about}" in done.err
    for same in (f"data.generate={count}", "data.generate=0"):
        assert "nobody is drawn" not in command("--cfg", "demo", "--dry-run", *places, same).err
    fresh = [f"data.train={tmp_path}/train", f"data.val={tmp_path}/val"]
    assert "nobody is drawn" not in command("--cfg", "demo", "--dry-run", *fresh, "data.difficulty=hard").err
