"""What a run leaves behind and what a person sees of it: metrics.jsonl, TensorBoard files, progress lines."""

from __future__ import annotations

import io
import json
import math
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from icon_dist import storage
from icon_dist.launch import progress as module
from icon_dist.launch import tensorboard
from icon_dist.launch.events import Done, Eval, Evaluating, Note, Recorded, Skip, Speed, Start, Tick, Train
from icon_dist.launch.progress import Progress
from icon_dist.launch.progress_bar import counter
from icon_dist.storage import segments

SCORES = {"PCK@0.2": 61.5, "head": 80.0}


def start(step: int = 0) -> Start:
    return Start(step, 100)


def train(step: int, *, lr: float = 1e-3, **more: float) -> Train:
    losses = {"total": 2.0 / step, "heatmap": 1.0 / step, "skcc": 3.0, "prcc": 4.0, "scale": 0.5}
    return Train(step, step / 10, lr, losses | more)


def evaluation(step: int) -> Eval:
    return Eval(step, 1, "split=val boxes=gt", ("PCK@0.2",), SCORES)


def lines(*events: Recorded) -> list[dict[str, object]]:
    return [event.record() for event in events]


def recorded(run: str) -> list[dict[str, Any]]:
    text = storage.read(f"{run}/metrics.jsonl").decode()
    assert text.endswith("\n") or not text

    def strict(constant: str) -> Any:
        pytest.fail(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=strict) for line in text.splitlines()]


def board(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), purge_orphaned_data=True)
    accumulator.Reload()
    return accumulator


def steps(folder: Path, tag: str) -> list[int]:
    return [scalar.step for scalar in board(folder).Scalars(tag)]


class Log(io.TextIOWrapper):
    """A text file in memory; io.StringIO lacks mode and name, which beartype wants of a TextIO."""

    mode, name = "w", "memory"

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding="utf-8", newline="")

    def text(self) -> str:
        self.flush()
        return self._bytes.getvalue().decode()


class Terminal(Log):
    def isatty(self) -> bool:
        return True


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def until_the_next_second() -> None:
    """TensorBoard orders files by the second they were opened in; no run restarts within one."""
    time.sleep(1 - time.time() % 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def shown(screen: Log) -> list[str]:
    """The lines a terminal shows: a carriage return starts the line again, longer old text stays behind."""
    lines = []
    for raw in screen.text().split("\n"):
        line = ""
        for part in raw.split("\r"):
            line = part + line[len(part) :]
        lines.append(line.rstrip())
    return lines


# ------------------------------------------------------------------------------------------------------------ files


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
    progress = Progress(run, out=Log())
    events = [train(1), train(2), evaluation(2), train(3)]
    for event in [start(), *events]:
        progress(event)
    progress.close()
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
    progress = Progress(str(tmp_path), out=Log())
    for event in (start(), train(1), evaluation(2)):
        progress(event)
    assert [e["step"] for e in recorded(str(tmp_path))] == [1, 2], "before close"
    assert steps(tmp_path / "tensorboard", "train/total") == [1]
    progress.close()


def test_a_long_epoch_is_written_every_so_often(tmp_path: Path, clock: Clock) -> None:
    progress = Progress(str(tmp_path), out=Log())
    progress(start())
    progress(train(1))
    first = recorded(str(tmp_path)) if (tmp_path / "metrics.jsonl").exists() else []
    clock.now += module.FLUSH_EVERY + 1
    progress(train(2))
    assert first == []
    assert [e["step"] for e in recorded(str(tmp_path))] == [1, 2]
    progress.close()


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    run = str(tmp_path)
    first = Progress(run, out=Log())
    for event in (start(), train(1), train(2), evaluation(2), train(3), train(4)):
        first(event)
    first.close()
    until_the_next_second()
    second = Progress(run, out=Log())
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
    progress = Progress(str(tmp_path), out=Log())
    for event in (start(), train(1), train(2), train(3)):
        progress(event)
    until_the_next_second()
    for event in (start(2), train(3, lr=0.5)):
        progress(event)
    progress.close()
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
    progress = Progress(str(tmp_path), out=out)
    progress(start(2))
    progress.close()
    assert recorded(str(tmp_path)) == lines(train(1), *([] if kind == "cut" else [evaluation(2)]))
    count = 2 if kind == "cut" else 3
    assert out.text() == f"warning: {tmp_path}/metrics.jsonl: 1 of {count} lines are damaged; left out\n"


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    progress = Progress(str(tmp_path), out=Log())
    for event in (start(), train(1, gradient_ratio=math.inf, total=math.nan)):
        progress(event)
    progress.close()
    (line,) = recorded(str(tmp_path))
    assert (line["gradient_ratio"], line["total"], line["heatmap"]) == (None, None, 1.0)


def test_nothing_is_written_before_the_run_has_started(tmp_path: Path) -> None:
    out = Log()
    progress = Progress(str(tmp_path / "run"), out=out)
    progress(Note("hello"))
    progress.close()
    assert out.text() == "hello\n"
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------ lines


def test_a_log_gets_whole_lines_some_seconds_apart(tmp_path: Path, clock: Clock) -> None:
    out = Log()
    progress = Progress(str(tmp_path), out=out)
    progress(start())
    for step in range(1, 31):
        clock.now += 1
        progress(train(step))
    progress(train(100))  # the last one is shown whenever it comes
    progress(evaluation(30))
    progress(Done("complete"))
    progress.close()
    text = out.text()
    assert "\r" not in text
    assert text.endswith("\n")
    said = text.splitlines()
    assert [line.split()[1] for line in said[:3]] == ["1/100", "11/100", "21/100"]
    assert said[0] == "step 1/100  epoch 0.10  heatmap 1.0000  skcc 3.000  prcc 4.000"
    # one step a second; the first event is where the clock of the rate starts
    assert said[1] == "step 11/100  epoch 1.10  heatmap 0.0909  skcc 3.000  prcc 4.000  1:29 left"
    assert said[3].startswith("step 100/100  epoch 10.00  heatmap 0.0100")
    assert said[4:] == ["epoch 1  PCK@0.2 61.5  split=val boxes=gt", "complete"]


def test_between_two_steps_that_are_logged(tmp_path: Path, clock: Clock) -> None:
    """Ticks and evaluations in progress are seen, and not kept."""
    out = Log()
    progress = Progress(str(tmp_path), out=out)
    moment = "2026-01-02T03:04:05+00:00"
    figures = Speed(1210, moment, img_s=85.2, step_ms=187.6, data_wait=2.6)
    first, later = (Tick(step, step / 100, figures) for step in (1, 31))
    for event in (start(), first, replace(train(20), speed=figures), later, Evaluating(40, 63), evaluation(31)):
        progress(event)
        clock.now += 10
    progress.close()
    local = datetime.fromisoformat(moment).astimezone()
    speed = f"85 img/s  188 ms  3 % data wait  1210 MB  {local:%H:%M:%S}"
    assert out.text().splitlines() == [
        f"step 1/100  epoch 0.01  {speed}",
        f"step 20/100  epoch 2.00  heatmap 0.0500  skcc 3.000  prcc 4.000  {speed}  0:42 left",
        f"step 31/100  epoch 0.31  heatmap 0.0500  skcc 3.000  prcc 4.000  {speed}  0:46 left",
        "evaluated 40/63 boxes",
        "epoch 1  PCK@0.2 61.5  split=val boxes=gt",
    ]
    assert [event["step"] for event in recorded(str(tmp_path))] == [20, 31]
    assert steps(tmp_path / "tensorboard", "train/img_s") == [20]


def test_contrast_that_is_off_is_not_shown(tmp_path: Path, clock: Clock) -> None:
    out = Log()
    progress = Progress(str(tmp_path), out=out)
    progress(start())
    for step in (1, 2):
        clock.now += 1
        progress(train(step, scale=0.0))
    progress.close()
    assert "skcc" not in out.text()
    assert "heatmap 1.0" in out.text()


def test_a_terminal_has_one_line_that_changes(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    screen = Terminal()
    progress = Progress(str(tmp_path), out=screen)
    progress(start())
    for step in (1, 2, 3):
        clock.now += 1
        progress(train(step))
    assert screen.text().count("\n") == 0
    assert [part.split()[1] for part in screen.text().split("\r")[1:]] == ["1/100", "2/100", "3/100"]
    assert all(len(part) < 60 for part in screen.text().split("\r")), "a full line would wrap"
    progress(Note("a note"))
    progress(train(4))
    progress(evaluation(4))
    progress(Done("complete"))
    progress.close()
    lines = shown(screen)
    assert [line.split()[1] for line in lines[::2][:2]] == ["3/100", "4/100"]
    assert lines[1] == "a note"
    assert lines[3:] == ["epoch 1  PCK@0.2 61.5  split=val boxes=gt", "complete", ""]


def test_an_error_after_half_a_line_begins_a_new_one(tmp_path: Path, clock: Clock) -> None:
    screen = Terminal()
    progress = Progress(str(tmp_path), out=screen)
    progress(start())
    for step in (1, 2):
        clock.now += 1
        progress(train(step))
    assert not screen.text().endswith("\n")
    progress.close()
    assert screen.text().endswith("\n")
    progress.close()
    assert screen.text().count("\n") == 1


@pytest.mark.parametrize("kind", [Log, Terminal])
def test_a_counter_ends_its_line(kind: type[Log]) -> None:
    out = kind()
    show = counter("people", out=out)
    for done in range(101):
        show("drawn", done, 100)
    assert out.text().endswith("drawn 100/100 people\n")
    assert out.text().count("\n") == (1 if out.isatty() else 11)
    assert shown(out)[-2] == "drawn 100/100 people"


# ---------------------------------------------------------------------------------------------------------- long runs


def test_what_a_flush_writes_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the metrics nor of TensorBoard's files; and nothing of them is lost, also when the run goes on."""
    monkeypatch.setattr(segments, "SEGMENT", 2000)
    monkeypatch.setattr(tensorboard, "LARGEST_FILE", 4000)
    monkeypatch.setattr("os.fsync", lambda _: None)
    written: list[int] = []
    write = storage.write

    def counted(uri: str, data: bytes | Path) -> None:
        written[-1] += len(data) if isinstance(data, bytes) else data.stat().st_size
        write(uri, data)

    monkeypatch.setattr(storage, "write", counted)
    progress = Progress(str(tmp_path), out=Log())
    progress(start())
    for step in range(1, 201):
        progress(train(step))
        written.append(0)
        progress.flush()
    written.append(0)
    progress.close()
    assert max(written) < 2000 + 300 + 4000 + 600 < sum(map(len, map(str, lines(*map(train, range(1, 201)))))) / 4
    until_the_next_second()
    progress = Progress(str(tmp_path), out=Log())
    for event in (start(150), train(151)):
        progress(event)
    written.append(0)
    progress.close()
    events = [json.loads(line) for line in segments.read(f"{tmp_path}/metrics.jsonl").splitlines()]
    assert events == lines(*map(train, range(1, 152)))
    assert len(segments.places(f"{tmp_path}/metrics.jsonl")) > 10
    assert len(list((tmp_path / "tensorboard").iterdir())) > 10
    found = steps(tmp_path / "tensorboard", "train/total")  # files of one second are read in the order of their names
    assert sorted(found) == [*range(1, 152)]


def test_what_takes_long_is_said_again_until_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_S", 0.02)
    out = io.StringIO()
    progress = Progress(str(tmp_path), out=out)
    with progress.waiting("starting Ray") as over:
        while out.getvalue().count("starting Ray, 0 s so far\n") < 2:
            time.sleep(0.01)
        over.set()
        time.sleep(0.1)
        told = out.getvalue()
        time.sleep(0.1)
        assert out.getvalue() == told
    with progress.waiting("loading"):
        pass
    assert out.getvalue() == told
