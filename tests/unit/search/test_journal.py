"""The journal after accidents: killed drivers, half lines, stale locks, two drivers, another space; on disk and S3."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.errors import ConfigError, DataError, StorageError, TakenError
from icon_dist.search.journal import NAME, Journal, fail_running, finished, open_study, requeue
from icon_dist.search.results import Row, rows
from icon_dist.search.space import Range, with_values
from icon_dist.search.study import _open_sweep, enqueue_repeats, first_point, open_repeats
from tests.support.studies import SPACE, study_of


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "study") if request.param == "disk" else str(request.getfixturevalue("s3")) + "/study"


def test_what_was_under_way_is_handed_out_again_with_its_values(place: str) -> None:
    with Journal(place) as journal:
        study = study_of(journal)
        study.enqueue_trial({"loss.tau": 0.07}, user_attrs={"label": "first point"})
        first, second = study.ask(SPACE), study.ask(SPACE)
        assert first.params == {"loss.tau": 0.07}
        study.tell(first, 1.0)
        second.report(0.5, 1)
        journal.push()
    with Journal(place) as journal:  # as after a kill: nothing was told of the second
        study = study_of(journal)
        assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.WAITING]
        assert len(finished(study)) == 1
        again = study.ask(SPACE)
        assert (again.number, again.params) == (second.number, second.params)
        third = study.ask(SPACE)
        assert third.number == 2
        assert third.params not in (first.params, second.params)


def test_a_restart_does_not_draw_the_same_points(tmp_path: Path) -> None:
    drawn = set()
    for _ in range(4):
        with Journal(str(tmp_path / "study")) as journal:
            study = study_of(journal)
            trial = study.ask(SPACE)
            drawn.add(trial.params["loss.tau"])
            study.tell(trial, 0.0)
    assert len(drawn) == 4


def test_half_a_line_and_a_stale_lock_are_left_by_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with Journal(str(folder)) as journal:
        study_of(journal).ask(SPACE)
    whole = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(whole + b'{"op_code":4,"worker')
    (folder / f"{NAME}.lock").symlink_to(folder / NAME)
    with Journal(str(folder)) as journal:
        study = study_of(journal)
        assert (folder / NAME).read_bytes().startswith(whole)
        study.ask(SPACE)
        assert [t.state for t in study.trials] == [TrialState.RUNNING]
    with Journal(str(folder)) as journal:
        assert len(study_of(journal).trials) == 1


def test_the_last_line_is_left_out_and_the_rest_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "study"
    with Journal(str(folder)) as journal:
        study_of(journal).ask(SPACE)
    whole = (folder / NAME).read_bytes()
    for number, tail in enumerate((b'{"op_code":4,"worker', b"\0\0\0\n", b"\xff\xfe\n", b"{}\n", b"\n\n"), start=1):
        (folder / NAME).write_bytes(whole + tail)
        with Journal(str(folder)):
            assert (folder / NAME).read_bytes() == whole
        aside = f"{NAME}.damaged" + (f"-{number}" if number > 1 else "")
        assert (folder / aside).read_bytes() == whole + tail
        said = capsys.readouterr().err
        assert said.startswith(f"icon_dist: note: {folder}/{NAME}: left out ")
        assert said.endswith(f"; as it was: {aside}\n")
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"garbage", "not JSON"),
        (b"\xff{}", "not UTF-8 at byte 1"),
        (b"[1]", "[1] is no entry of a journal"),
        (b'{"op_code":99}', "op_code=99: no operation that a sweep writes"),
        (b'{"op_code":7,"worker_id":"a","trial_id":0,"step":1}', "intermediate_value: missing"),
        (b'{"op_code":7,"worker_id":"a","trial_id":0,"step":1,"intermediate_value":NaN}', "intermediate_value=nan"),
        (b'{"op_code":7,"worker_id":"a","trial_id":0,"step":-1,"intermediate_value":1}', "step=-1"),
        (b'{"op_code":7,"worker_id":"a","trial_id":9,"step":1,"intermediate_value":1}', "trial_id=9: no line before"),
        (b'{"op_code":8,"worker_id":"a","trial_id":0,"user_attr":{"set":{"loss.tau":[1]}}}', "user_attr="),
        (b'{"op_code":6,"worker_id":"a","trial_id":0,"state":1,"values":[1,2]}', "a complete trial has 1 of them"),
        (b'{"op_code":6,"worker_id":"a","trial_id":0,"state":1,"values":[1]}', "'datetime_complete'"),
        (b'{"op_code":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"op_code":' + b"[" * 5000 + b"}", "not JSON"),
        (b'"' + b"x" * (1 << 21) + b'"', "2097154 bytes, more than a line has"),
    ],
)
def test_damage_in_the_middle_is_refused_with_its_line(tmp_path: Path, line: bytes, says: str) -> None:
    folder = tmp_path / "study"
    with Journal(str(folder)) as journal:
        study_of(journal).ask(SPACE)
    lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:3], line, b"\n", *lines[3:]])
    (folder / NAME).write_bytes(damaged)
    with pytest.raises(DataError) as caught:
        Journal(str(folder))
    assert str(caught.value).startswith(f"{folder}/{NAME}:4: ")
    assert says in str(caught.value)
    assert str(caught.value).endswith("; restore the file from a copy, or give another --study")
    assert (folder / NAME).read_bytes() == damaged
    assert sorted(place.name for place in folder.iterdir()) == [NAME]


def test_a_line_written_twice_counts_once(tmp_path: Path) -> None:
    """Else the second trial would be the first one's double, and what follows would be said of the wrong trial."""
    folder = tmp_path / "study"
    with Journal(str(folder)) as journal:
        study = study_of(journal)
        for score in (1.0, 2.0):
            study.tell(study.ask(SPACE), score)
    lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    (folder / NAME).write_bytes(b"".join(line * 2 for line in lines))
    with Journal(str(folder)) as journal:
        assert [trial.value for trial in study_of(journal).trials] == [1.0, 2.0]
    (folder / NAME).write_bytes(b"".join([*lines, *lines[2:]]))
    with pytest.raises(DataError, match=r"journal.log:\d+: the same study or trial is created twice"):
        Journal(str(folder))


def test_a_journal_that_lost_its_end_does_not_mix_runs(tmp_path: Path) -> None:
    """Another trial 1 would go on from the checkpoints of the one that is forgotten."""
    folder = tmp_path / "study"
    with Journal(str(folder)) as journal:
        study = study_of(journal)
        study.tell(study.ask(SPACE), 1.0)
        second = study.ask(SPACE)
        (folder / "trials" / f"{second.number:04d}").mkdir(parents=True)
        (folder / "trials" / f"{second.number:04d}" / "config.yaml").touch()
    lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    for lost, says in (
        (1, "trial 1 of sweep: it was run, and the journal has no loss.tau of it"),
        (2, "knows nothing"),
    ):
        (folder / NAME).write_bytes(b"".join(lines[:-lost]))
        with Journal(str(folder)) as journal, pytest.raises(DataError, match=says):
            study_of(journal)
        assert (folder / NAME).read_bytes() == b"".join(lines[:-lost])


def test_a_trial_of_another_space_is_no_trial_of_this_sweep(tmp_path: Path) -> None:
    other = {"loss.tau": FloatDistribution(0.02, 1.0)}
    for number, (change, says) in enumerate(
        [
            (lambda study: study.ask(other), "loss.tau has another range than this sweep's"),
            (lambda study: study.ask({"loss.points": other["loss.tau"]}), r"loss.points=[\d.]+: not in this sweep's"),
            (lambda study: study.enqueue_trial({"loss.tau": "x"}), "loss.tau='x': not in this sweep's space"),
        ]
    ):
        with Journal(str(tmp_path / str(number))) as journal:
            change(study_of(journal))
            with pytest.raises(DataError, match=says):
                study_of(journal)


def test_a_driver_killed_while_it_says_what_the_study_is_about(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with Journal(str(folder)) as journal:
        study_of(journal)
    (folder / NAME).write_bytes((folder / NAME).read_bytes().splitlines(keepends=True)[0])
    with Journal(str(folder)) as journal:
        assert study_of(journal).user_attrs == {"space": "a"}
        with pytest.raises(DataError, match=r"study sweep has directions \['maximize'\], expected \['minimize'\]"):
            open_study(journal, "sweep", directions=["minimize"], seed=0, about={"space": "a"}, space=SPACE)


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    folder, other = tmp_path / "study", tmp_path / "others"
    folder.mkdir()
    other.write_text("theirs")
    (folder / NAME).symlink_to(other)
    with pytest.raises(StorageError, match=rf"{NAME}: a link, or no plain file; remove it, or give another --study"):
        Journal(str(folder))
    assert other.read_text() == "theirs"
    (folder / NAME).unlink()
    os.mkfifo(folder / NAME)
    with pytest.raises(StorageError, match="no plain file"):
        Journal(str(folder))


def test_a_driver_that_has_lost_its_study_changes_nothing(place: str) -> None:
    """It stood still for so long that another one has taken the study over."""
    old = Journal(place)
    study_of(old).ask(SPACE)
    storage.write(old.at(storage.LOCK), b'{"token": "another", "pid": 7, "host": "node7"}')
    before = storage.read(old.at(NAME))
    with pytest.raises(TakenError, match="study: is being written by pid 7 on node7"):
        old.push()
    with pytest.raises(TakenError, match="study: is being written by pid 7 on node7"):
        requeue(optuna.load_study(study_name="sweep", storage=old.storage), old)
    assert storage.read(old.at(NAME)) == before
    old.__exit__(None, None, None)
    assert storage.exists(old.at(storage.LOCK))


def test_another_space_is_another_study(place: str) -> None:
    with Journal(place) as journal:
        study_of(journal, space="a")
        with pytest.raises(ConfigError, match="a study with space a, not b; give another --study"):
            study_of(journal, space="b")


def test_another_precision_is_another_study(place: str) -> None:
    """What is the same by another name, or changes no result, is not."""

    def open_with(*given: str) -> None:
        config = configuration.load("demo", given)
        with Journal(place) as journal:
            _open_sweep(journal, {"loss.tau": Range(0.01, 1.0)}, SPACE, config, first={}, about={"objectives": "AP"})

    open_with()
    open_with("run.precision=fp32", "run.workers=2")
    with pytest.raises(ConfigError, match=r"another config: run.precision=bf16 \(was fp32\); give another --study"):
        open_with("run.precision=bf16")


def test_another_first_point_is_another_study(place: str) -> None:
    """It is tried once, in the beginning; repeats of it must not be of two points under one name."""
    space, base = {"loss.tau": Range(0.01, 1.0)}, configuration.load("demo")

    def open_with(paper: dict[str, float]) -> None:
        with Journal(place) as journal:
            _open_sweep(journal, space, SPACE, base, first=paper, about={"objectives": "AP"}).ask(SPACE)

    open_with({"loss.tau": 0.2})
    open_with({"loss.tau": 0.2})
    for other in ({"loss.tau": 0.3}, {}):
        with pytest.raises(ConfigError, match=r"first point is \{'loss.tau': 0.2\}, not .*; give another --study"):
            open_with(other)


def test_what_is_repeated_already_is_not_repeated_again(tmp_path: Path) -> None:
    """A trial that has ended knows more than what it was asked for."""
    found = [Row(4, "", "complete", 50.0, 1.0, 2, 9.0, {"loss.tau": 0.3}, "trials/0004", "")]
    base = configuration.load("demo")
    with Journal(str(tmp_path / "study")) as journal:
        repeats = study_of(journal)
        for seeds, expected in ((2, 6), (2, 6), (3, 9)):
            enqueue_repeats(repeats, found, first={"loss.tau": 0.07}, seeds=seeds, base=base)
            assert len(repeats.trials) == expected
            trial = repeats.ask()
            trial.set_user_attr("ended", "complete")
            repeats.tell(trial, 1.0)


@pytest.mark.parametrize("own", [0.07, 3.0])  # in the space and not
def test_a_search_without_a_first_point_repeats_the_config_once(own: float, tmp_path: Path) -> None:
    """Its own values are the first point: as one of the best trials too, they were trained twice with every seed."""
    space, base = {"loss.tau": Range(0.01, 1.0)}, configuration.load("demo", [f"loss.tau={own}"])
    first = first_point({}, space, base)
    with Journal(str(tmp_path / "study")) as journal:
        sweep = _open_sweep(journal, space, SPACE, base, first=first, about={"objectives": "AP"})
        for score in (3.0, 2.0):
            sweep.tell(sweep.ask(SPACE), score)
        _open_sweep(journal, space, SPACE, base, first=first_point({}, space, base), about={"objectives": "AP"})
        repeats = open_repeats(journal)
        enqueue_repeats(repeats, rows(sweep), first=first, seeds=1, base=base)
        points = [configuration.to_yaml(with_values(base, trial.user_attrs["set"])) for trial in repeats.trials]
    assert len({*points}) == len(points) == (3 if own == 0.07 else 4)  # a trial or two, the first point, no contrast


def test_a_trial_that_must_not_be_tried_again(tmp_path: Path) -> None:
    with Journal(str(tmp_path / "study")) as journal:
        study = study_of(journal)
        study.ask(SPACE)
        fail_running(study, "out of memory")
        assert [(t.state, t.user_attrs) for t in study.trials] == [
            (TrialState.FAIL, {"ended": "failed", "why": "out of memory"})
        ]
    with Journal(str(tmp_path / "study")) as journal:
        assert study_of(journal).ask(SPACE).number == 1
