"""What a run leaves behind: metrics.jsonl and TensorBoard files."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from icon_dist import storage
from icon_dist.loggers import logger as module
from icon_dist.loggers import tensorboard
from icon_dist.loggers.events import Eval, Note, Recorded, Saving, Skip, Speed, Train
from icon_dist.loggers.logger import Logger
from icon_dist.storage import append_log
from tests.support.progress import Clock, Log, board, evaluation, recorded, start, steps, train


def lines(*events: Recorded) -> list[dict[str, object]]:
    return [event.record() for event in events]


def until_the_next_second() -> None:
    """TensorBoard orders files by the second they were opened in; no run restarts within one."""
    time.sleep(1 - time.time() % 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else str(request.getfixturevalue("s3")) + "/run"


def test_the_lines_that_other_programs_read() -> None:
    """Names and order of metrics.jsonl, as files of earlier runs have them."""
    speed = Speed(500, "2026-01-02T03:04:05+00:00", img_s=3.0, step_ms=4.0, data_wait=5.0)
    scored = Eval(8, 2, "split=val", ("a/AP", "b/PCK@0.2"), {"a/AP": 0.5, "b/PCK@0.2": 60.0})
    assert [
        json.dumps(event.record()) for event in (Train(7, 1.5, 0.1, {"heatmap": 1.0}, speed), scored, Skip(9, 2))
    ] == [
        '{"kind": "train", "step": 7, "epoch": 1.5, "lr": 0.1, "heatmap": 1.0, "memory_mb": 500, '
        '"time": "2026-01-02T03:04:05+00:00", "img_s": 3.0, "step_ms": 4.0, "data_wait": 5.0}',
        '{"kind": "eval", "step": 8, "epoch": 2, "what": "split=val", "headline": "a/AP", '
        '"scores": {"a/AP": 0.5, "b/PCK@0.2": 60.0}, "headlines": ["a/AP", "b/PCK@0.2"]}',
        '{"kind": "skip", "step": 9, "skipped": 2}',
    ]
    assert '"headlines"' not in json.dumps(evaluation(1).record()), "of one set"


def test_events_become_lines_and_board_files(run: str, tmp_path: Path) -> None:
    logger = Logger(run, out=Log())
    events = [train(1), train(2), evaluation(2), train(3)]
    for event in [start(), *events]:
        logger(event)
    logger.close()
    assert recorded(run) == lines(*events)

    folder = tmp_path / "board"
    names = storage.listing(f"{run}/tensorboard")
    assert len(names) == 1
    storage.copy_to(f"{run}/tensorboard/{names[0]}", folder / names[0])
    found = board(folder)
    assert [(s.step, s.value) for s in found.Scalars("train/heatmap")] == [
        (1, 1.0),
        (2, 0.5),
        (3, pytest.approx(1 / 3)),
    ]
    assert [(s.step, s.value) for s in found.Scalars("eval/PCK@0.2")] == [(2, 61.5)]
    assert "train/step" not in found.Tags()["scalars"]
    assert set(found.Tags()["scalars"]) >= {"train/total", "train/skcc", "train/prcc", "train/lr", "eval/head"}


def test_an_evaluation_is_on_disk_at_once(tmp_path: Path) -> None:
    logger = Logger(str(tmp_path), out=Log())
    for event in (start(), train(1), evaluation(2)):
        logger(event)
    assert [e["step"] for e in recorded(str(tmp_path))] == [1, 2], "before close"
    assert steps(tmp_path / "tensorboard", "train/total") == [1]
    logger.close()


def test_what_a_checkpoint_holds_is_on_disk_before_it(tmp_path: Path) -> None:
    """A driver that is killed after it goes on from there, and would never write those lines."""
    logger = Logger(str(tmp_path), out=Log())
    for event in (start(), train(1), train(2), Saving(), train(3)):
        logger(event)
    assert [e["step"] for e in recorded(str(tmp_path))] == [1, 2], "before close"
    assert steps(tmp_path / "tensorboard", "train/total") == [1, 2]
    logger.close()


def test_a_long_epoch_is_written_every_so_often(tmp_path: Path, clock: Clock) -> None:
    logger = Logger(str(tmp_path), out=Log())
    logger(start())
    logger(train(1))
    first = recorded(str(tmp_path)) if (tmp_path / "metrics.jsonl").exists() else []
    clock.now += module.FLUSH_EVERY + 1
    logger(train(2))
    assert first == []
    assert [e["step"] for e in recorded(str(tmp_path))] == [1, 2]
    logger.close()


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    run = str(tmp_path)
    first = Logger(run, out=Log())
    for event in (start(), train(1), train(2), evaluation(2), train(3), train(4)):
        first(event)
    first.close()
    until_the_next_second()
    second = Logger(run, out=Log())
    again = [train(3, lr=0.5), train(4, lr=0.5)]
    for event in (start(2), *again):
        second(event)
    second.close()
    assert recorded(run) == lines(train(1), train(2), evaluation(2), *again)
    found = board(tmp_path / "tensorboard").Scalars("train/lr")
    assert [(s.step, s.value) for s in found] == [
        (1, pytest.approx(1e-3)),
        (2, pytest.approx(1e-3)),
        (3, 0.5),
        (4, 0.5),
    ]


def test_workers_that_start_again_lose_no_line_before_their_checkpoint(tmp_path: Path) -> None:
    """The driver lives on, and what it had not yet written counts as well."""
    logger = Logger(str(tmp_path), out=Log())
    for event in (start(), train(1), train(2), train(3)):
        logger(event)
    until_the_next_second()
    for event in (start(2), train(3, lr=0.5)):
        logger(event)
    logger.close()
    assert recorded(str(tmp_path)) == lines(train(1), train(2), train(3, lr=0.5))
    assert steps(tmp_path / "tensorboard", "train/total") == [1, 2, 3]


SOUND = json.dumps(train(1).record()).encode() + b"\n"
DAMAGED = {
    "cut": SOUND[:20],
    "garbage": b"\xff\x00\xfe\n",
    "blank": b"\n",
    "not json": SOUND.replace(b":", b";"),
    "no object": b"[1]\n",
    "no step": SOUND.replace(b"step", b"stop"),
    "no number": SOUND.replace(b'"step": 1', b'"step": "1"'),
    "no kind": SOUND.replace(b"train", b"trajn"),
    "deep": b"[" * 100_000 + b"\n",
    "long": b"9" * 10_000 + b"\n",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_lines_are_dropped_and_counted(kind: str, tmp_path: Path) -> None:
    more = json.dumps(evaluation(2).record()).encode() + b"\n"
    (tmp_path / "metrics.jsonl").write_bytes(SOUND + (DAMAGED[kind] if kind == "cut" else DAMAGED[kind] + more))
    out = Log()
    logger = Logger(str(tmp_path), out=out)
    logger(start(2))
    logger.close()
    assert recorded(str(tmp_path)) == lines(train(1), *([] if kind == "cut" else [evaluation(2)]))
    count = 2 if kind == "cut" else 3
    assert out.text() == f"warning: {tmp_path}/metrics.jsonl: 1 of {count} lines are damaged; left out\n"


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    logger = Logger(str(tmp_path), out=Log())
    for event in (start(), train(1, gradient_ratio=math.inf, total=math.nan)):
        logger(event)
    logger.close()
    (line,) = recorded(str(tmp_path))
    assert (line["gradient_ratio"], line["total"], line["heatmap"]) == (None, None, 1.0)


def test_what_a_flush_writes_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the metrics nor of TensorBoard's files; and nothing of them is lost, also when the run goes on."""
    monkeypatch.setattr(append_log, "SEGMENT", 2000)
    monkeypatch.setattr(tensorboard, "LARGEST_FILE", 4000)
    monkeypatch.setattr("os.fsync", lambda _: None)
    written: list[int] = []
    write = storage.write

    def counted(uri: str, data: bytes | Path) -> None:
        written[-1] += len(data) if isinstance(data, bytes) else data.stat().st_size
        write(uri, data)

    monkeypatch.setattr(storage, "write", counted)
    logger = Logger(str(tmp_path), out=Log())
    logger(start())
    for step in range(1, 201):
        logger(train(step))
        written.append(0)
        logger.flush()
    written.append(0)
    logger.close()
    assert max(written) < 2000 + 300 + 4000 + 600 < sum(map(len, map(str, lines(*map(train, range(1, 201)))))) / 4
    until_the_next_second()
    logger = Logger(str(tmp_path), out=Log())
    for event in (start(150), train(151)):
        logger(event)
    written.append(0)
    logger.close()
    events = [json.loads(line) for line in append_log.read(f"{tmp_path}/metrics.jsonl").splitlines()]
    assert events == lines(*map(train, range(1, 152)))
    assert len(append_log.places(f"{tmp_path}/metrics.jsonl")) > 10
    assert len(list((tmp_path / "tensorboard").iterdir())) > 10
    found = steps(tmp_path / "tensorboard", "train/total")  # files of one second are read in the order of their names
    assert sorted(found) == [*range(1, 152)]


def test_nothing_is_written_before_the_run_has_started(tmp_path: Path) -> None:
    out = Log()
    logger = Logger(str(tmp_path / "run"), out=out)
    logger(Note("hello"))
    logger.close()
    assert out.text() == "hello\n"
    assert not (tmp_path / "run").exists()
