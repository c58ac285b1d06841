"""Damaged journals of a sweep: lines cut, flipped, lost, doubled, moved, of other types; any number by seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from icon_dist import config as configuration
from icon_dist.search import results
from icon_dist.search.early_stopping import scheduler
from icon_dist.search.journal import Journal, finished, open_study
from icon_dist.search.outputs import publish
from icon_dist.search.space import Range, Space
from icon_dist.search.study import REPEATED, open_repeats
from tests.adversarial.fuzz import spoil

CHOICES: dict[str, BaseDistribution] = {
    "loss.tau": FloatDistribution(0.01, 1.0, log=True),
    "loss.bank.slots": IntDistribution(8, 64),
    "loss.skcc.query": CategoricalDistribution(("hard", "all")),
}
SPACE: Space = {
    "loss.tau": Range(0.01, 1.0, log=True),
    "loss.bank.slots": Range(8, 64),
    "loss.skcc.query": ("hard", "all"),
}
FIRST = {"loss.tau": 0.07, "loss.bank.slots": 32, "loss.skcc.query": "hard"}


def sweep_of(journal: Journal) -> optuna.Study:
    about = {"space": str(SPACE), "objectives": "AP"}
    return open_study(journal, "sweep", directions=["maximize"], seed=0, about=about, space=CHOICES)


def write(folder: Path) -> None:
    """A sweep of 14 trials of every end, one under way and one in the queue, and two repeats."""
    with Journal(str(folder)) as journal:
        sweep = sweep_of(journal)
        sweep.enqueue_trial(FIRST, user_attrs={"label": "paper"})
        for number in range(14):
            trial = sweep.ask(CHOICES)
            (folder / "trials" / f"{number:04d}").mkdir(parents=True)
            (folder / "trials" / f"{number:04d}" / "config.yaml").write_text("")
            for epoch in (1, 2):
                trial.report(40.0 + number + epoch, epoch)
            if number == 13:
                break
            ended = ("complete", "stopped", "failed")[number % 3 if number > 8 else 0]
            told = {"ended": ended, "epoch": 2.0, "step_ms": 3.5, "score": 42.0 + number, "why": "x"}
            for name, value in told.items():
                trial.set_user_attr(name, value)
            state = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}[ended]
            sweep.tell(trial, 42.0 + number if state == TrialState.COMPLETE else None, state=state)
        sweep.enqueue_trial(FIRST | {"loss.tau": 0.5}, user_attrs={"label": "preset"})
        repeats = open_repeats(journal)
        for seed in (1, 2):
            repeats.enqueue_trial({}, user_attrs={"of": "paper", "set": FIRST | {"run.seed": seed}})
        repeats.tell(repeats.ask({}), 50.0)


def go_on(folder: Path) -> list[tuple[int, str, Any]]:
    """What a driver that starts again reads, asks, tells and publishes; number, state and score of what had ended."""
    with Journal(str(folder)) as journal:
        sweep, repeats = sweep_of(journal), open_repeats(journal)
        rows = results.rows(sweep)
        ended = [(row.number, row.state, row.score) for row in rows if row.state not in ("waiting", "running")]
        scheduler(sweep, first_rung=1, epochs=9)
        for _ in range(3):
            sweep.tell(sweep.ask(CHOICES), 10.0)
        while len(finished(repeats)) < len(repeats.get_trials(deepcopy=False)):
            repeats.tell(repeats.ask({}), 10.0)
        results.rows(repeats, prefix=REPEATED)
        publish(journal, sweep, repeats, config=configuration.load("demo"), space=SPACE, metric="AP")
    return ended


def _line(change: Callable[[list[bytes], int, random.Random], object]) -> Callable[[bytes, random.Random], bytes]:
    def damage(data: bytes, rng: random.Random) -> bytes:
        lines = data.splitlines(keepends=True)
        at = rng.choice((rng.randrange(len(lines)), len(lines) - 1))
        change(lines, at, rng)
        return b"".join(lines)

    return damage


def _swap(lines: list[bytes], at: int, rng: random.Random) -> None:
    other = rng.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def _types(lines: list[bytes], at: int, rng: random.Random) -> None:
    lines[at] = spoil.dumps(spoil.tree(json.loads(lines[at]), rng)) + b"\n"


def _inside(lines: list[bytes], at: int, rng: random.Random) -> None:
    """A distribution is JSON within JSON."""
    at = rng.choice([number for number, line in enumerate(lines) if b'"distribution":' in line])
    log = json.loads(lines[at])
    log["distribution"] = json.dumps(spoil.tree(json.loads(log["distribution"]), rng))
    lines[at] = spoil.dumps(log) + b"\n"


def _operation(lines: list[bytes], at: int, rng: random.Random) -> None:
    log = json.loads(lines[at]) | {
        "op_code": rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1, "0", None, 1.0, True))
    }
    lines[at] = spoil.dumps(log) + b"\n"


def _bytes(lines: list[bytes], at: int, rng: random.Random) -> None:
    lines[at] = spoil.data(lines[at].rstrip(b"\n"), rng) + rng.choice((b"\n", b"\n", b""))


KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": lambda data, rng: data[: rng.randrange(len(data))],
    "file": spoil.data,
    "text": spoil.text,
    "whole": lambda _, rng: rng.choice(spoil.CONTENTS) + rng.choice((b"", b"\n")),
    "types": _line(_types),
    "distribution": _line(_inside),
    "operation": _line(_operation),
    "bytes": _line(_bytes),
    "lost": _line(lambda lines, at, _: lines.pop(at)),
    "double": _line(lambda lines, at, _: lines.insert(at, lines[at])),
    "moved": _line(lambda lines, at, rng: lines.insert(rng.randrange(len(lines)), lines.pop(at))),
    "copied": _line(lambda lines, at, rng: lines.insert(rng.randrange(len(lines)), lines[at])),
    "swapped": _line(_swap),
    "garbage": _line(lambda lines, at, rng: lines.insert(at, rng.choice(spoil.CONTENTS) + b"\n")),
    "zeros": _line(lambda lines, at, rng: lines.insert(at, bytes(rng.randrange(1, 4096)))),
    "tail": lambda data, rng: data + rng.choice((b"\0" * 512, b"{", b"\xff\n", b"[]\n", b"NaN\n", b'{"op_code":4}\n')),
    "huge": _line(lambda lines, at, _: lines.insert(at, b'{"op_code":"' + b"x" * 3_000_000 + b'"}\n')),
    "windows": lambda data, _: data.replace(b"\n", b"\r\n"),
    "unicode": lambda data, rng: data.decode().encode(rng.choice(("utf-16", "utf-32", "utf-8-sig"))),
}


def damaged(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """The name of a kind of damage, and ``data`` with it."""
    kind = rng.choice(list(KINDS))
    return kind, KINDS[kind](data, rng)
