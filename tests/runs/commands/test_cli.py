"""The command line as a stranger meets it: verbs, help, and bad lines of every kind, each one line and exit code 2."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from icon_dist import __version__, errors
from icon_dist.__main__ import VERBS, dispatch
from icon_dist.command_exit import run_cli
from tests.support.paths import ROOT

# What DeepSpeed and torch warn of on their import is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``icon-dist WORDS`` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            run_cli(dispatch, list(words))
        return Outcome(int(left.value.code or 0), *capfd.readouterr())

    return run


# ------------------------------------------------------------------------------------------------------------- verbs


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, command: Command) -> None:
    done = command(*verb.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: icon-dist {verb} ")
    assert "--debug" in done.out
    assert command("help", *verb.split()) == done


def test_the_list_of_verbs(command: Command) -> None:
    shown = command("--help")
    assert shown == command("help") == command("-h")
    assert all(f"  {verb} " in shown.out for verb in VERBS)
    assert command() == Outcome(2, shown.out, "")
    group = command("shards")
    assert (group.code, group.err) == (2, "")
    assert "  shards build " in group.out
    assert "  train " not in group.out
    assert command("shards", "--help") == Outcome(0, group.out, "")


def test_the_version(command: Command) -> None:
    assert command("--version") == command("-V") == Outcome(0, f"icon_dist {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("trian", "'trian': no such verb; did you mean icon-dist train?"),
        ("TRAIN", "did you mean icon-dist train?"),
        ("eval", "did you mean icon-dist evaluate?"),
        ("build", "did you mean icon-dist shards build?"),
        ("shard build", "'shard': no such verb"),
        ("shards biuld", "'biuld': no such verb; did you mean icon-dist shards build?"),
        ("shards train", "expected one of shards build, shards verify"),
        ("sweep lamdas --cfg demo", "'lamdas': no such search; did you mean lambdas?"),
        ("sweep ./none.yaml --cfg demo", "none.yaml: No such file or directory; shipped searches are"),
        ("--cfg coco train", "'--cfg' before a verb"),
        ("'' x", "no such verb"),
        ("\x1b[2J", "no such verb"),
    ],
)
def test_verbs_that_are_none(words: str, says: str, command: Command) -> None:
    done = command(*(word.strip("'") for word in words.split(" ")))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("icon_dist: error: ")
    assert says in done.err
    assert "\x1b" not in done.err


# ---------------------------------------------------------------------------------------------------- bad lines, made

# A line of each verb that would be parsed: the verb, its positionals, its options with values.
LINES: dict[str, tuple[list[str], dict[str, str]]] = {
    "train": (["loss.tau=0.1"], {"--cfg": "demo"}),
    "submit": ([], {"--address": "http://x", "--working-dir": "."}),
    "evaluate": (["a.safetensors"], {"--shards": "s", "--batch": "2", "--decode": "dark", "--refine-below": "0.2"}),
    "predict": (["a.safetensors", "p.jpg"], {"--boxes": "whole", "--out": "o", "--batch": "2"}),
    "compare": (["run"], {"--out": "p.html", "--limit": "3", "--batch": "2", "--shards": "s"}),
    "fetch": (["run"], {"--step": "3", "--net": "1", "--out": "a.safetensors"}),
    "export": (["a.safetensors"], {"--out": "a.onnx", "--for": "rtmlib", "--which": "3", "--decode": "dark"}),
    "shards build": (
        ["coco"],
        {"--annotations": "a.json", "--images": "i", "--out": "o", "--limit": "3", "--max-input": "none"},
    ),
    "shards verify": (["s"], {}),
    "shards view": (["s"], {"--out": "p.png", "--count": "3"}),
    "shards synthesize": ([], {"--out": "o", "--people": "3", "--difficulty": "hard"}),
    "sweep": (["lambdas"], {"--cfg": "demo", "--trials": "3", "--gpus-per-worker": "0"}),
    "paper": ([], {"--run": "T5", "--cfg": "demo", "--record": "r.csv", "--seeds": "1"}),
    "doctor": (["runs"], {}),
    "demo": (["loss.tau=0.1"], {"--out": "o"}),
}
WRITING = ("evaluate", "predict", "compare", "fetch", "export", "shards view")  # files that the user names


@pytest.mark.parametrize("verb", WRITING)
def test_who_writes_files_replaces_them_by_force_alone(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dispatch([*verb.split(), "--help"])
    assert "an existing file is an error, and stays" in " ".join(capsys.readouterr().out.split())


NUMBERS = {"--batch", "--step", "--limit", "--count", "--people", "--trials", "--gpus-per-worker", "--net", "--seeds"}
CHOICES = {
    "--decode": "dakr",
    "--for": "rtmlbi",
    "--which": "bets",
    "--difficulty": "hadr",
    "--net": "3",
    "--gpus-per-worker": "2",
}
HINTS = {
    "submit": "-- --cfg NAME: missing; the words of icon-dist train stand after --, such as: icon-dist submit -- --cfg",
    "submit --dry-run": "-- --cfg NAME: missing; the words of icon-dist train stand after --",
    "sweep lambdas --cfg demo --dry-run": "--dry-run: a sweep has none; icon-dist train --cfg ... --dry-run shows",
    "train coco": "coco: a preset is given with --cfg coco; see",
    "train --cfg train.json": "a JSON file, no config; annotations are packed with icon-dist shards build first",
    "submit -- --cfg train.json": "a JSON file, no config; annotations are packed with icon-dist shards build first",
    "train --cfg demo --data.train=x": "'--data.train': values of the config are written without dashes: data.train=x",
    "train --cfg demo -optim.lr 1": "'-optim.lr': values of the config are written without dashes: optim.lr=VALUE",
    "sweep lambdas --cfg demo --data.val=x": "written without dashes: data.val=x",
}


@pytest.mark.parametrize("line", HINTS)
def test_what_was_probably_meant_is_said(line: str) -> None:
    with pytest.raises(errors.ConfigError) as refused:
        dispatch(line.split())
    assert HINTS[line] in str(refused.value)


BY_US = (
    "no such preset",
    "no such row",
    "nothing is run",
    "--out\n",
    "give more",
    "Is a directory",
)  # not from the parser
NO_NUMBERS = ("010", "1_000", "٣", "+5", " 5", "1e3", "4.0", "0x10", "five", "9" * 30, "-1", "")


def bad_lines() -> Iterator[tuple[list[str], str]]:
    """Lines that are wrong in one way each, and a word that the message must have."""
    for verb, (positionals, options) in LINES.items():

        def line(*more: str, without: str = "", verb: str = verb, positionals: list[str] = positionals) -> list[str]:
            given = {name: value for name, value in LINES[verb][1].items() if name != without}
            return [*verb.split(), *positionals, *itertools.chain.from_iterable(given.items()), *more]

        yield line("--nope"), "'--nope': no such option"
        yield line("-q"), "'-q': no such option"
        yield line("—debug"), "begins with the dash U+2014, not with a hyphen; did you mean --debug?"
        for name, value in options.items():
            yield line(name, without=name), ": expected"
            if name != "--annotations":  # what is no file there is an error of data
                is_number = name in NUMBERS or name == "--refine-below"
                yield line(name, "", without=name), "is not a" if is_number else "is empty"
            yield line(f"{name}{name[-1]}", value, without=name), "no such option"
            if len(name) > 5:
                yield line(f"{name[:-2]}", value, without=name), f"no such option; did you mean {name}?"
                yield line(f"{name[1:]}", value, without=name), f"no such option; did you mean {name}?"
            if name == "--cfg":
                yield line(name, "coco"), "--cfg: given twice, 'demo' and 'coco'; give one"
            if name in NUMBERS:
                numbers = [number for number in NO_NUMBERS if (name, number) != ("--step", "-1")]  # no such checkpoint
                yield from ((line(name, number, without=name), name) for number in numbers)
            if name in CHOICES:
                yield line(name, CHOICES[name], without=name), "is none of"
        if verb in ("evaluate", "export", "fetch", "doctor") or verb.startswith("shards"):
            yield line("surplus", "words"), "unrecognized arguments: "
    yield ["train"], "required: --cfg"
    yield ["paper", "--seeds", "1", "--set", "loss.tau=1"], "--seeds, --set: nothing is run; name rows or tables"
    yield ["paper", "--run", "t5.skc"], "no such row or table; did you mean T5.skcc?"
    yield ["fetch"], "required: run"
    yield ["sweep", "--cfg", "demo"], "required: SEARCH"
    yield ["shards", "build", "cooc", "--annotations", "a", "--images", "b", "--out", "c"], "did you mean coco?"
    yield ["shards", "build"], "required: dataset, --annotations, --images, --out"
    yield ["shards", "build", "coco", "--out", "c"], "required: --annotations, --images"
    yield ["evaluate", "a", "--shards", "s", "--photos", "p"], "not allowed with"
    yield ["evaluate", "a", "--shards", "s", "--refine-below", "٠"], "is not a number"
    yield ["evaluate", "a", "--shards", "s", "--refine-below", "nan"], "is not a number"
    yield ["fetch", "run", "--best", "--last"], "not allowed with"
    yield ["submit", "--", "--cgf", "demo"], "did you mean --cfg?"
    yield ["submit", "--", "--cfg", "demo", "--cfg", "coco"], "given twice, 'demo' and 'coco'"
    yield ["demo", "run.dir=elsewhere"], "give it with --out"
    yield ["demo", "optim.epochs=4", "optim.milestones=[3]"], "the demo stops after 4 and resumes"
    yield ["paper", "--record", "/"], "/: Is a directory; give a CSV file"
    yield ["train", "--cfg", "demmo"], "no such preset; did you mean demo?"


def test_bad_lines_are_one_line_and_nothing_is_written(command: Command, tmp_path: Path) -> None:
    lines = list(bad_lines())
    assert len(lines) > 250
    for words, says in lines:
        done = command(*words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), (words, done)
        assert done.err.startswith("icon_dist: error: "), (words, done.err)
        assert says in done.err, (words, done.err)
        verb = " ".join(words[:2] if words[0] == "shards" else words[:1])
        assert f"see icon-dist {verb} --help" in done.err or any(one in done.err for one in BY_US), (words, done.err)
    assert list(tmp_path.iterdir()) == []


def test_options_may_follow_positionals(command: Command) -> None:
    printed = command("train", "--cfg", "demo", "loss.tau=0.2", "--print-config")
    assert printed.code == 0
    assert command("train", "loss.tau=0.2", "--print-config", "--cfg=demo") == printed


# ------------------------------------------------------------------------------------------------- packages, Python


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "cv2 is not installed; pip install 'opencv-python"),
        (ModuleNotFoundError("No module named 'ray.tune'", name="ray.tune"), "ray is not installed; pip install 'ray["),
        (ImportError("No module named 'sklearn'"), "sklearn is not installed; pip install 'scikit-learn"),
        (
            ImportError("libGL.so.1: cannot open", name="cv2"),
            "cv2 does not load (libGL.so.1: cannot open); pip install",
        ),
        (
            ModuleNotFoundError("No module named 'strange'", name="strange"),
            "strange is not installed; pip install strange",
        ),
    ],
)
def test_a_missing_package_is_one_line(
    error: ImportError, says: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = [
        "ray[default,train,tune]<3,>=2.60",
        "opencv-python-headless>=4.9",
        "scikit-learn>=1.5; extra == 'diagnose'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: needs)

    def verb(_: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        run_cli(verb, [])
    assert left.value.code == 7
    told = capfd.readouterr().err
    assert told.startswith(f"icon_dist: error: {says}")
    assert told.count("\n") == 1


def test_our_own_missing_module_is_a_fault_of_ours() -> None:
    def verb(_: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'icon_dist.tarin'", name="icon_dist.tarin")

    with pytest.raises(ModuleNotFoundError):
        run_cli(verb, [])


def test_shards_need_no_trainer(tmp_path: Path) -> None:
    """With Ray, DeepSpeed, Optuna and scikit-learn away, ``shards`` works and ``sweep`` says what it needs."""
    code = """
import sys
sys.modules.update(dict.fromkeys(("ray", "deepspeed", "optuna", "sklearn")))
from icon_dist.__main__ import dispatch
from icon_dist.command_exit import run_cli
for words in (["shards", "verify", "none"], ["sweep", "lambdas", "--cfg", "demo"]):
    try:
        run_cli(dispatch, words)
    except SystemExit as left:
        print(left.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "3\n7\n"
    first, second = done.stderr.splitlines()
    assert "none: no shards here" in first
    assert "is not installed; pip install" in second or "does not load" in second


@pytest.mark.parametrize(
    ("own", "turns"),
    [
        ({}, "10000"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"),
        # two more of what the user has set, 2 s of imports each
        pytest.param({"GOMP_SPINCOUNT": "7"}, "7", marks=pytest.mark.slow),
        pytest.param({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000", marks=pytest.mark.slow),
    ],
)
def test_threads_of_torch_sleep_when_they_wait_for_long(own: dict[str, str], turns: str) -> None:
    """By what libgomp says of itself when torch loads it; what the user has set holds."""
    code = "from icon_dist.command_exit import run_cli\nrun_cli(lambda _: print(__import__('torch').__name__))"
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = clean | own | {"OMP_DISPLAY_ENV": "VERBOSE"}
    ran = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(ran, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    assert f"GOMP_SPINCOUNT = '{turns}'" in done.stderr


def test_an_old_python_is_one_line() -> None:
    code = "import sys; sys.version_info = (3, 10, 4); import icon_dist"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 7
    assert done.stderr == "icon_dist: error: Python 3.10: 3.11 or later is needed; make the venv with a newer Python\n"


# ------------------------------------------------------------------------------------------------------------ words


def test_a_count_and_its_noun_agree() -> None:
    said = [errors.plural(count, noun) for count in (0, 1, 2) for noun in ("shard", "person", "category")]
    assert said == [
        *("0 shards", "0 people", "0 categories"),
        *("1 shard", "1 person", "1 category"),
        *("2 shards", "2 people", "2 categories"),
    ]
    assert errors.plural(2, "index", "indices") == "2 indices"


def test_debug_is_ours_before_a_double_hyphen_only() -> None:
    seen = []
    for words in (["--debug", "a"], ["a", "--debug", "--", "b"], ["a", "--", "--debug"]):
        with pytest.raises(SystemExit):
            run_cli(lambda argv: seen.append(argv), words)
    assert seen == [["a"], ["a", "--", "b"], ["a", "--", "--debug"]]


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("--cfg demo run.name=x", "icon-dist submit -- --cfg demo run.name=x"),
        ("--follow --cfg=demo", "icon-dist submit --follow -- --cfg=demo"),
        ("--address http://h loss.tau=1 --dry-run", "icon-dist submit --address http://h -- loss.tau=1 --dry-run"),
    ],
)
def test_words_of_the_training_before_the_dashes(words: str, right: str, command: Command) -> None:
    done = command("submit", *words.split())
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.endswith(f"is for the training, whose words stand after --; type: {right}\n")
