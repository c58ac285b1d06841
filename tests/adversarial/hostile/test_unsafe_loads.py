"""Nothing that could run code from data is called anywhere: ruff's rules, proven to bite, and what they do not know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

SOURCES = [file for folder in ("icon_dist", "shards", "sweeps", "tests") for file in (ROOT / folder).rglob("*.py")]
UNSAFE = """\
import pickle
import marshal
import shelve
import dill
import joblib
import cloudpickle
import webdataset
pickle.loads(b"")
yaml.load("", Loader=yaml.Loader)
yaml.unsafe_load("")
yaml.full_load("")
eval("1")
exec("1")
subprocess.run("ls", shell=True)
os.system("ls")
os.popen("ls")
tarfile.open("a").extractall(".")
numpy.load("a", allow_pickle=True)
jinja2.Environment(loader=None)
"""
IMPORTS = "import os, subprocess, tarfile\nimport jinja2, numpy, yaml\n"


def ruff(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", *arguments],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_the_rules_bite() -> None:
    found = ruff("--stdin-filename", "icon_dist/some.py", "-", text=IMPORTS + UNSAFE)
    flagged = {int(m[1]) - 2 for m in re.finditer(r":(\d+):\d+: (?:S\d+|TID251) ", found)}
    missed = [line for number, line in enumerate(UNSAFE.splitlines(), start=1) if number not in flagged]
    assert not missed


def test_nothing_breaks_them() -> None:
    assert ruff("--select", "S102,S202,S302,S307,S506,S602,S604,S605,S701,TID251", *map(str, SOURCES)) == (
        "All checks passed!\n"
    )


def calls(text: str) -> Iterator[tuple[int, str, dict[str, object]]]:
    """Line, last name and literal keywords of every call."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            literal: dict[str, object] = {
                k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)
            }
            yield node.lineno, name, literal


def unsafe(text: str) -> list[int]:
    """Lines that unpickle, extract or leave the tar's word unchecked, which ruff does not know."""
    return [
        line
        for line, name, said in calls(text)
        if (name == "torch.load" and said.get("weights_only") is not True)
        or said.get("allow_pickle") is True
        or (name.endswith((".extract", ".extractall")) and "tar" in name)
        or name.endswith(("Unpickler", "load_checkpoint", "torch.jit.load", "torch.hub.load"))
    ]


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=flag)",
        "np.savez(f, allow_pickle=True)",
        "tar.extract(member)",
        "pickle.Unpickler(f)",
        "engine.load_checkpoint(folder)",
    ],
)
def test_the_own_rules_bite(line: str) -> None:
    assert unsafe(line) == [1]


def test_nothing_breaks_the_own_rules() -> None:
    found = {file.relative_to(ROOT).as_posix(): unsafe(file.read_text()) for file in SOURCES}
    assert not {file: lines for file, lines in found.items() if lines}
