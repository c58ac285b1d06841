"""What a command imports before it says anything, and what a signal or a missing package does meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import icon_dist
from icon_dist import cli
from icon_dist.config import load
from icon_dist.datasets import load_skeleton
from icon_dist.models import from_config
from tests.support.paths import ROOT

HEAVY = ("torch", "numpy", "ray", "optuna", "deepspeed", "pyarrow", "omegaconf", "cv2", "scipy", "boto3", "pandas")

# Help and a wrong option of every verb and script, one after the other in one process.
COMMANDS = f"""
import io, pathlib, runpy, sys
from contextlib import redirect_stderr, redirect_stdout
from icon_dist.__main__ import VERBS, dispatch
from icon_dist.command_exit import run_cli

def code_of(call, *args, **kwargs):
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            call(*args, **kwargs)
    except SystemExit as left:
        return left.code, bool(out.getvalue()), err.getvalue().count(chr(10))

wrong = []
for words in ([], *map(str.split, VERBS)):
    wrong += [words] * (code_of(run_cli, dispatch, [*words, "--help"]) != (0, True, 0))
    wrong += [words] * (code_of(run_cli, dispatch, [*words, "--wrong"]) != (2, False, 1))
for script in [*pathlib.Path("sweeps").glob("*.py"), *pathlib.Path("shards").glob("*.py"), "icon_dist/train.py"]:
    for word, right in (("--help", (0, True, 0)), ("--wrong", (2, False, 1))):
        sys.argv = [str(script), word]
        wrong += [script] * (code_of(runpy.run_path, str(script), run_name="__main__") != right)
heavy = set({HEAVY!r}) & set(sys.modules)
sys.exit(f"wrong {{wrong}}, imported {{heavy}}" if wrong or heavy else 0)
"""

# Something happens in the middle of an import, such as a signal.
MEANWHILE = """
import os, signal, sys

class Meanwhile:
    def find_spec(self, name, *_):
        if name == {module!r}:
            {what}

sys.meta_path.insert(0, Meanwhile())
from icon_dist.command_exit import run_cli
from icon_dist.train import main
run_cli(main)
"""


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=ROOT)


def dry_run(people: Path, tmp_path: Path) -> list[str]:
    places = [f"data.train={people}/train", f"data.val={people}/val", f"run.dir={tmp_path}"]
    return ["--cfg", "demo", *places, "--dry-run"]


def test_help_and_mistakes_import_nothing_that_is_slow() -> None:
    done = python(COMMANDS)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_imports_no_compiler_and_no_launcher(people: Path, tmp_path: Path) -> None:
    after = "import sys, atexit; atexit.register(lambda: print(*sys.modules))\n"
    done = python(after + MEANWHILE.format(module="", what="pass"), *dry_run(people, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "M parameters, trained" in done.stdout
    assert not {"torch._dynamo", "ray", "deepspeed", "optuna", "pandas"} & set(done.stdout.split())


@pytest.mark.parametrize("module", ["numpy", "torch"])
@pytest.mark.parametrize(("number", "code", "said"), [("SIGTERM", 75, "stopped by SIGTERM"), ("SIGINT", 130, "interr")])
def test_a_signal_while_packages_load(
    module: str, number: str, code: int, said: str, people: Path, tmp_path: Path
) -> None:
    # A shell starts what it puts into the background with SIGINT ignored, and this process's children inherit that.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    kill = f"os.kill(os.getpid(), signal.{number})"
    done = python(heard + MEANWHILE.format(module=module, what=kill), *dry_run(people, tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert done.stderr.startswith(f"icon_dist: {said}")


def test_an_import_that_takes_long_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with cli.loading("torch"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli, "QUIET_S", 0.01)
    with cli.loading("torch"):
        time.sleep(0.5)
    assert capsys.readouterr().err == "loading torch\n"


@pytest.mark.parametrize("module", ["torch", "omegaconf"])
def test_a_package_that_is_missing_is_one_line(module: str, people: Path, tmp_path: Path) -> None:
    absent = f"raise ModuleNotFoundError({f'No module named {module!r}'!r}, name={module!r})"
    done = python(MEANWHILE.format(module=module, what=absent), *dry_run(people, tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (7, "", 1), done.stderr
    assert done.stderr.startswith(f"icon_dist: error: {module} is not installed; pip install ")


@pytest.mark.parametrize("backbone", ["hrnet_small", "resnet18", "efficientnet_lite0", "opecnet_resnet18"])
@pytest.mark.parametrize("method", ["none", "sspose"])
def test_a_plan_counts_parameters_as_the_model_has_them(backbone: str, method: str) -> None:
    share = ["data.labelled=0.5"] if method == "sspose" else []
    config = load("coco", [f"model.backbone={backbone}", f"semi.method={method}", *share])
    skeleton = load_skeleton("coco")
    model, planned = from_config.build_trained(config, skeleton), from_config.shape(config, skeleton)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in planned.state_dict().items()} == shapes
    assert {name: p.numel() for name, p in planned.named_parameters()} == {
        name: p.numel() for name, p in model.named_parameters()
    }
    assert all(p.device == torch.device("meta") for p in planned.parameters())


def test_the_package_itself_is_light() -> None:
    code = """
import sys
before = set(sys.modules)
import icon_dist
print({"torch", "numpy", "cv2", "typing", "pathlib"} & (set(sys.modules) - before), "load" in dir(icon_dist))
icon_dist.IconLoss
print({"ray", "optuna", "deepspeed"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() True\nset()\n"
    with pytest.raises(AttributeError, match="module 'icon_dist' has no attribute 'laod'"):
        _ = icon_dist.laod
    assert icon_dist.__version__
