"""Every command on sound input, on every bad flag, and on some random bad input of every family."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adversarial.fuzz import attack, cases, world
from tests.adversarial.fuzz.cases import Case
from tests.support.paths import ROOT


@pytest.fixture(scope="session")
def sound_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz") / "world"
    world.make(root)
    return root


@pytest.fixture
def here(sound_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, and no S3 in reach."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return cases.copy(sound_world, tmp_path)


def faults(case: Case, root: Path) -> list[str]:
    return attack.run(case, root)[2]


@pytest.mark.parametrize("case", cases.SOUND, ids=lambda case: f"{case.script}-{case.what}")
def test_sound_input_works(case: Case, here: Path) -> None:
    assert faults(case, here) == []
    assert not case.writes or (here / case.writes).exists()


@pytest.mark.parametrize("number", range(len(cases.BAD_FLAGS)))
def test_bad_flags(number: int, here: Path) -> None:
    command, arguments, code = cases.BAD_FLAGS[number]
    assert faults(Case("flags", command, arguments, frozenset({code}), "" if code else "out"), here) == []


@pytest.mark.parametrize("family", [name for name in cases.FAMILIES if name != "flags"])
def test_random_bad_input(family: str, sound_world: Path, here: Path, tmp_path: Path) -> None:
    wrong = []
    for number in range(int(os.environ.get("FUZZ_CASES", "3"))):
        root = cases.copy(sound_world, tmp_path / str(number)) if number else here
        case = cases.FAMILIES[family](random.Random(f"ci {family} {number}"), root)
        wrong += [f"{number} {case.script} {case.what}: {fault}" for fault in faults(case, root)]
    assert wrong == []


def test_the_attack_notices_what_is_wrong(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that fails in each of the ways must be told of."""

    def bad(argv: list[str]) -> int:
        (here / "left.partial").touch()
        (here / "coco.json").write_text("{}")
        if argv:
            raise KeyError("people")
        print("something else", file=sys.stderr)
        return 1

    monkeypatch.setattr(attack, "main_of", lambda _: bad)
    assert [f.split()[0] for f in faults(Case("", "x", (), frozenset({2})), here)] == [
        "exit",
        "not",
        "changed",
        "leftover",
    ]
    assert [f.split(" at ")[0] for f in faults(Case("", "x", ("a",), frozenset({2})), here)] == ["traceback KeyError"]


@pytest.mark.slow  # its cases are those of the other tests
def test_the_campaign_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.adversarial.fuzz", "--cases", "10", "--seed", "ci"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 cases, seed ci, " in done.stdout
    assert "tracebacks 0, wrong exit codes 0, leftovers 0, hangs 0, others 0" in done.stdout
    assert list(tmp_path.iterdir()) == []
