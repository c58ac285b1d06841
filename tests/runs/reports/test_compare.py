"""``icon-dist compare``: its numbers against those of ``evaluate``, hand counts and naive loops; its refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icon_dist import compare, evaluate
from icon_dist.checkpoints import checkpoint
from icon_dist.config import load
from icon_dist.errors import CheckpointError, ConfigError, DataError
from icon_dist.reports.run_groups import arms_of, differing, method_of
from icon_dist.reports.runs import read_runs, short_names
from icon_dist.shards.shard_set import open_shards
from tests.support import small_sets as objects
from tests.support.run_folders import write_run
from tests.unit.reports.test_diagnosis import check_page

ARMS = {
    "base": {"loss__lambda_p": 0.0},
    "skcc": {"loss__lambda_1": 1.0, "loss__lambda_2": 0.0},
    "icon": {},
}
# score of each arm by seed
SCORES = {"base": {0: 60.0, 1: 62.0}, "skcc": {0: 61.0, 1: 63.5}, "icon": {0: 59.0, 2: 70.0}}


def compared(*words: str, out: Path) -> tuple[dict[str, Any], str]:
    """The numbers and the page of ``icon-dist compare WORDS``."""
    compare.main([*words, "--out", str(out / "page.html"), "--loaders", "0", "--force"])
    return json.loads((out / "page.json").read_text()), check_page((out / "page.html").read_text())


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Three arms over two seeds, without checkpoints."""
    return [
        write_run(
            f"{tmp_path}/runs/{arm}-{seed}",
            scores=[{"nose": 10.0, "PCK@0.2": score - 5}, {"nose": score, "PCK@0.2": score}],
            run__seed=seed,
            **ARMS[arm],
        )
        for arm, of in SCORES.items()
        for seed, score in of.items()
    ]


# ----------------------------------------------------------------------------------------------- what was recorded


def test_arms_over_seeds(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, text = compared(*runs, "--no-evaluation", out=tmp_path)
    assert [arm["name"] for arm in numbers["arms"]] == ["base", "skcc", "icon"]
    assert [arm["method"] for arm in numbers["arms"]] == ["base", "+SKCC", "ICON"]
    assert numbers["settings"] == {
        "loss.lambda_p": ["0", "0.1", "0.1"],
        "loss.lambda_1": ["0.3", "1", "0.3"],
        "loss.lambda_2": ["0.7", "0", "0.7"],
    }
    base, skcc, icon = numbers["scores"]["PCK@0.2"]
    assert (base["mean"], base["gain"], base["seeds"]) == (61, None, 2)
    assert base["half_width"] == pytest.approx(12.7062 * np.std([60, 62], ddof=1) / np.sqrt(2), rel=1e-5)
    assert (skcc["gain"], skcc["paired"]) == (pytest.approx(1.25), True)
    assert skcc["gain_half_width"] == pytest.approx(12.7062 * np.std([1, 1.5], ddof=1) / np.sqrt(2), rel=1e-5)
    assert (icon["gain"], icon["paired"]) == (pytest.approx(3.5), False)
    assert "skcc scores +1.25 ± 3.18 PCK@0.2 against base" in text
    assert "the interval holds 0, so it may be chance" in text
    assert "leave out --no-evaluation" in text
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path}/page.html: 6 runs, 3 arms; numbers in {tmp_path}/page.json\n"


def test_runs_of_different_lengths(tmp_path: Path) -> None:
    scores = [{"PCK@0.2": score} for score in (20.0, 40.0, 50.0, 60.0)]
    short = write_run(f"{tmp_path}/short", scores=scores[:3], loss__lambda_p=0.0)
    long = write_run(f"{tmp_path}/long", scores=scores)
    numbers, text = compared(short, long, "--no-evaluation", out=tmp_path)
    lengths = [arm["runs"][0]["step"] for arm in numbers["arms"]]
    assert lengths[0] < lengths[1]
    assert f"trained for {lengths[0]} to {lengths[1]} steps: a difference may be that of the lengths" in text
    equal = write_run(f"{tmp_path}/equal", scores=scores[:3])
    assert "that of the lengths" not in compared(short, equal, "--no-evaluation", out=tmp_path)[1]


def test_one_run_is_its_report(runs: list[str], tmp_path: Path) -> None:
    numbers, text = compared(runs[0], "--no-evaluation", out=tmp_path)
    (run,) = numbers["arms"][0]["runs"]
    assert (run["best"], run["best_epoch"], run["last"], run["step"]) == (60, 2, 60, 30)
    assert numbers["settings"]["loss.lambda_p"] == ["0"]
    assert "run.name" not in numbers["settings"]
    assert "Run base-0" in text
    assert "difference" not in text


def test_what_a_run_that_trains_has_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A last line that is cut is being written; lines that are none are counted; a step written twice counts once."""
    scores = [{"PCK@0.2": 50.0}, {"PCK@0.2": None}]
    again = '{"kind": "train", "step": 30, "epoch": 3.0, "heatmap": NaN}\n'
    newer = '{"kind": "of a later version", "step": 1}\n'
    tail = f'{again}{newer}{{"kind": "eval"}}\nnot json\n{{"kind": "train", "step": 40, "epo'
    uri = write_run(f"{tmp_path}/a", scores=scores, tail=tail)
    (run,) = read_runs([uri])
    assert (len(run.train), run.train[-1]["step"], run.damaged) == (3, 30, 2)
    numbers, _ = compared(uri, "--no-evaluation", out=tmp_path)
    assert numbers["arms"][0]["runs"][0]["best"] == 50
    assert numbers["arms"][0]["runs"][0]["last"] is None
    assert f"{uri}/metrics.jsonl: 2 damaged lines left out" in capsys.readouterr().err


def test_runs_that_were_never_scored(tmp_path: Path) -> None:
    uris = [write_run(f"{tmp_path}/{name}", optim__lr=rate) for name, rate in (("a", 1e-3), ("b", 2e-3))]
    numbers, text = compared(*uris, out=tmp_path)
    assert (numbers["metric"], numbers["scores"], numbers["settings"]) == (None, {}, {"optim.lr": ["0.001", "0.002"]})
    assert "no run has a checkpoint yet" in text
    assert "score over epochs of a, b: not evaluated while training" in text


def test_records_of_other_conditions_are_not_compared_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one split name on two sets, and of some of the people."""
    scores = [{"PCK@0.2": 50.0}]
    whole = [write_run(f"{tmp_path}/{name}", scores=scores, data__val="a", run__seed=k) for k, name in enumerate("pq")]
    alike, _ = compared(*whole, "--no-evaluation", out=tmp_path)
    assert (len(alike["missing"]), alike["conditions"]) == (1, "split=val boxes=gt")
    capsys.readouterr()
    other = write_run(f"{tmp_path}/other", scores=scores, data__val="b")
    part = write_run(f"{tmp_path}/part", scores=scores, data__val="a", eval__limit=8)
    log = Path(part, "metrics.jsonl")
    log.write_text(log.read_text().replace("boxes=gt", "boxes=gt limit=8"))
    numbers, page = compared(*whole, other, part, "--no-evaluation", out=tmp_path)
    said = "p, q: split=val boxes=gt on a; other: split=val boxes=gt on b; part: split=val boxes=gt limit=8 on a"
    assert f"recorded theirs under different conditions ({said})" in numbers["missing"][-1]
    assert said in page
    assert said in capsys.readouterr().err
    assert numbers["conditions"] == "split=val boxes=gt | split=val boxes=gt limit=8"


def test_a_run_that_changed_its_values_on_the_way_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is in the arm of what it ended with."""
    said = "from step 8 on: optim.lr=0.1 (was 0.2)"
    runs = [write_run(f"{tmp_path}/{name}-{seed}", run__seed=seed) for seed, name in enumerate("aa")]
    about = {"config": dataclasses.asdict(load(f"{runs[1]}/config.yaml")), "changed": [said]}
    checkpoint.save(runs[1], step=30, attempt="a", tensors={}, state={}, manifest=about, keep=1)
    numbers, page = compared(*runs, "--no-evaluation", out=tmp_path)
    assert [run["changed"] for run in numbers["arms"][0]["runs"]] == [[], [said]]
    assert said in page
    assert f"a-1: is in the arm of its last values, and was trained with others; {said}" in capsys.readouterr().err


def test_the_best_is_of_the_scores_that_can_be_compared(tmp_path: Path) -> None:
    """Scores before ``eval.limit`` or the set had changed do not count once there are new ones, as for checkpoints."""
    uri = write_run(f"{tmp_path}/a", scores=[{"PCK@0.2": score} for score in (90.0, 60.0, 60.0, 55.0)])
    config = dataclasses.asdict(load(f"{uri}/config.yaml"))
    for step, since, best in ((10, 0, 90), (20, 10, 60), (40, 40, 60)):
        about = {"config": config, "scored_since": since}
        checkpoint.save(uri, step=step, attempt="a", tensors={}, state={}, manifest=about, keep=9)
        numbers, _ = compared(uri, "--no-evaluation", out=tmp_path)
        run = numbers["arms"][0]["runs"][0]
        assert (run["best"], run["best_epoch"]) == (best, {90: 1, 60: 3}[best])  # of equals the last
        assert numbers["scores"]["PCK@0.2"][0]["mean"] == best


def test_names_tell_runs_apart() -> None:
    names = short_names(["/x/a/run", "/x/b/run", "s3://bucket/run", "/x/other", "/"])
    assert names == {
        "/x/a/run": "a/run",
        "/x/b/run": "b/run",
        "s3://bucket/run": "bucket/run",
        "/x/other": "other",
        "/": "/",
    }


def test_arms_leave_out_the_seed_in_places(tmp_path: Path) -> None:
    """``icon-dist paper`` starts each seed from the warm run of its seed."""
    uris = [
        write_run(f"{tmp_path}/lsp-T5.skcc-s{seed}", run__seed=seed, model__pretrained=f"runs/lsp-WARM.base-s{seed}")
        for seed in (1, 11)
    ]
    other = write_run(f"{tmp_path}/lsp-T5.base-s1", run__seed=1, model__pretrained="runs/lsp-WARM.base-s11")
    arms = arms_of(read_runs([*uris, other]))
    assert [(arm.name, len(arm.runs)) for arm in arms] == [("lsp-T5.skcc", 2), ("lsp-T5.base-s1", 1)]
    assert differing(arms) == {"model.pretrained": ["runs/lsp-WARM.base-s*", "runs/lsp-WARM.base-s11"]}


def test_values_that_differ_in_the_last_digit_are_two_arms(tmp_path: Path) -> None:
    """As those of a sweep's trials, near its best."""
    rates = {"a": 0.0012345678, "b": 0.0012345679, "c": 0.0012345678}
    arms = arms_of(read_runs([write_run(f"{tmp_path}/{name}", optim__lr=rate) for name, rate in rates.items()]))
    assert [[run.name for run in arm.runs] for arm in arms] == [["a", "c"], ["b"]]
    assert differing(arms) == {"optim.lr": ["0.0012345678", "0.0012345679"]}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"loss.lambda_p": 0.0}, "base"),
        ({"loss.lambda_1": 0.0, "loss.lambda_2": 0.0}, "base"),
        ({"loss.lambda_1": 0.0}, "+PRCC"),
        ({"loss.contrast": "intra", "loss.lambda_2": 0.0, "loss.bank.slots": 0}, "intra-image contrast"),
    ],
)
def test_the_papers_names(settings: dict[str, Any], name: str) -> None:
    assert method_of(load("coco", settings)) == name


# ------------------------------------------------------------------------------------------------ what is measured


def test_measured_numbers_are_those_of_evaluate(people: Path, tmp_path: Path) -> None:
    skeleton, shards = open_shards(f"{people}/val").skeleton, f"{people}/val"
    rates = {"a": 2e-3, "b": 3e-3}
    places = [
        write_run(f"{tmp_path}/{name}", skeleton=skeleton, weights_seed=k, optim__lr=rate, data__val=shards)
        for k, (name, rate) in enumerate(rates.items())
    ]
    numbers, text = compared(*places, "--limit", "6", out=tmp_path)
    assert numbers["conditions"].endswith("limit=6")
    words = [places[1], "--shards", shards, "--limit", "6", "--loaders", "0", "--json", f"{tmp_path}/e.json"]
    evaluate.main([*words, "--diagnose", f"{tmp_path}/d"])
    scores = json.loads((tmp_path / "e.json").read_text())["scores"]
    diagnosis = json.loads((tmp_path / "d" / "diagnosis.json").read_text())
    assert numbers["scores"]["PCK@0.2"][1]["mean"] == pytest.approx(scores["PCK@0.2"])
    for joint in skeleton.joints:
        assert numbers["joints"]["rows"][joint][1]["mean"] == pytest.approx(scores[joint])
    for kind, share in diagnosis["errors"]["share"].items():
        assert numbers["diagnosis"]["share"][kind][1]["mean"] == pytest.approx(share)
    assert numbers["diagnosis"]["recall"]["peak"]["0.3"][1]["mean"] == diagnosis["recall"]["peak"][2]
    assert numbers["diagnosis"]["embedding"]["purity"][1]["mean"] == diagnosis["embedding"]["purity"]
    better, worse = numbers["changed"]["better"], numbers["changed"]["worse"]
    assert better + worse
    assert all(one["before"] < one["after"] for one in better)
    assert all(one["before"] > one["after"] for one in worse)
    assert all(f"instance {one['instance']}: OKS" in text for one in better + worse)
    steps = [one["after"] - one["before"] for one in better]
    assert steps == sorted(steps, reverse=True)


def test_a_thing_of_four_joints_and_a_run_that_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as where it is not installed
    shape = objects.skeleton("thing", joints=4, metric="pck", torso=(0, 2))
    shards = objects.shards_of(shape, tmp_path)
    common = {"skeleton": shape, "data__dataset": "custom", "data__val": shards, "data__augment__half_body_p": 0.0}
    common |= {"loss__lambda_2": 0.0}
    uris = [
        write_run(f"{tmp_path}/a", **common),
        write_run(f"{tmp_path}/diverged", broken=True, optim__lr=9e-3, **common),
        write_run(f"{tmp_path}/b", weights_seed=3, optim__lr=3e-3, **common),
    ]
    numbers, text = compared(*uris, out=tmp_path)
    headline = "PCK@0.2"
    assert numbers["metric"] == headline
    assert [row is None for row in numbers["scores"][headline]] == [False, True, False]
    assert list(numbers["joints"]["rows"]) == list(shape.joints)
    assert "principal components. Left and right" in text
    assert "diverged: the poses of 8 of 8 people are not finite" in text
    place = next((tmp_path / "b" / "checkpoints").glob("*/model.safetensors"))
    place.write_bytes(b"x" * place.stat().st_size)
    numbers, text = compared(*uris[::2], out=tmp_path)
    assert numbers["scores"][headline][1] is None
    assert f"b: {uris[2]}: no intact checkpoint" in text


def test_runs_and_page_on_s3(s3: str, tmp_path: Path) -> None:
    uris = [
        write_run(f"{s3}/{name}", scores=[{"AP": 0.5}], headline="AP", run__seed=seed)
        for name, seed in (("a", 0), ("b", 1))
    ]
    compare.main([*uris, "-o", f"{s3}/page.html", "--no-evaluation"])
    with pytest.raises(ConfigError, match=r"page\.html and 1 more exist already; give another name, or --force"):
        compare.main([*uris, "-o", f"{s3}/page.html", "--no-evaluation"])
    numbers, text = compared(*uris, "--no-evaluation", out=tmp_path)
    assert numbers["scores"]["AP"][0]["seeds"] == 2
    assert numbers["scores"]["AP"][0]["mean"] == 0.5, "as metrics.jsonl has it"
    assert "50.00" in text, "as people read it"


# ------------------------------------------------------------------------------------------------------- refusals


def test_places_that_are_no_runs_are_named_together(runs: list[str], people: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "journal.log").touch()
    cases = {
        f"{tmp_path}/absent": "nothing is there; check the path, and give the folder of a run",
        f"{tmp_path}/file": "no run (has none of config.yaml, metrics.jsonl, checkpoints)",
        f"{tmp_path}/study": f"a sweep, no run; give some of its trials, such as {tmp_path}/study/trials/0000",
        f"{runs[0]}/config.yaml": f"a part of a run, no run; give {runs[0]}",
        f"{people}/val": "a shard set, no run; give it with --shards",
        f"{tmp_path}/runs": f"holds 6 runs and is none itself; give {tmp_path}/runs/base-0 and others",
    }
    for place, says in cases.items():
        with pytest.raises(CheckpointError) as refused:
            read_runs([runs[0], place])
        assert str(refused.value).startswith(f"{place}: ")
        assert says in str(refused.value)
    with pytest.raises(CheckpointError) as refused:
        read_runs([f"{tmp_path}/absent", runs[0], f"{tmp_path}/file"])
    assert "absent: nothing" in str(refused.value)
    assert "; also " in str(refused.value)


@pytest.mark.parametrize("text", ["", "- 1", "run: {nmae: x}", "a: *b", "\x00", "run: {seed: !!python/object:os.x {}}"])
def test_a_config_that_is_none(text: str, tmp_path: Path) -> None:
    uri = write_run(f"{tmp_path}/a")
    (tmp_path / "a" / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"a/config\.yaml is not one of this icon_dist \("):
        read_runs([uri])


def test_runs_of_other_joints(tmp_path: Path) -> None:
    three, four = (objects.skeleton(name, joints=n) for name, n in (("three", 3), ("four", 4)))
    uris = [write_run(f"{tmp_path}/{shape.name}", skeleton=shape) for shape in (three, four)]
    with pytest.raises(
        ConfigError, match="four: has 4 joints of four, three 3 joints of three; compare runs of one skeleton"
    ):
        compare.main([*uris, "-o", f"{tmp_path}/page.html"])
    shards = objects.shards_of(objects.skeleton("thing", joints=4), tmp_path)
    with pytest.raises(ConfigError, match="thing: has 4 joints of thing, three 3 joints of three"):
        compare.main([uris[0], "--shards", shards, "-o", f"{tmp_path}/page.html"])
    assert not (tmp_path / "page.html").exists()


def test_shards_that_cannot_be_read(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skeleton = open_shards(f"{people}/val").skeleton
    uri = write_run(f"{tmp_path}/a", skeleton=skeleton, data__val=f"{tmp_path}/gone")
    with pytest.raises(DataError, match="no shards here"):
        compare.main([uri, "--shards", f"{tmp_path}/nothing", "-o", f"{tmp_path}/page.html"])
    numbers, text = compared(uri, out=tmp_path)
    assert numbers["diagnosis"] is None
    assert "cannot be read here; give its place with --shards URI" in text
    assert f"data.val={tmp_path}/gone" in capsys.readouterr().err
    other = write_run(f"{tmp_path}/b", skeleton=skeleton, data__val=f"{people}/val")
    _, text = compared(uri, other, out=tmp_path)
    assert "the runs have different data.val; give one set for all with --shards URI" in text


def test_the_same_run_twice_counts_once(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, _ = compared(runs[0], f"{runs[0]}/", "--no-evaluation", out=tmp_path)
    assert len(numbers["arms"][0]["runs"]) == 1
    assert f"note: {runs[0]}: given more than once; counts once" in capsys.readouterr().err
    shutil.copytree(runs[0], tmp_path / "copy")
    numbers, _ = compared(runs[0], str(tmp_path / "copy"), "--no-evaluation", out=tmp_path)
    assert numbers["scores"]["PCK@0.2"][0]["seeds"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-o", "page.png"], "-o page.png: is written as HTML; name it FILE.html"),
        (["-o", "page.html"], "page.html exists"),
        (["-o", "other.html"], "other.json exists"),
        (["-o", "x.html", "--no-evaluation", "--shards", "s"], "--no-evaluation: does not go with --shards or --limit"),
    ],
)
def test_lines_that_are_refused(words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.html").touch()
    (tmp_path / "other.json").touch()
    with pytest.raises(ConfigError, match=says):
        compare.main([str(write_run(f"{tmp_path}/run")), *words])


def test_names_are_no_markup(tmp_path: Path) -> None:
    scores = [{"PCK@0.2": 50.0, "<b>": 1.0}]
    uris = [
        write_run(f"{tmp_path}/<img src=x onerror=alert(1)>", scores=scores),
        write_run(f"{tmp_path}/{{{{ n }}}}\"'&", scores=scores, optim__lr=3e-3),
    ]
    _, text = compared(*uris, "--no-evaluation", out=tmp_path)
    assert "<img src=x onerror=alert(1)>" in text
    assert "<b>" in text
