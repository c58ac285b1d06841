"""Every row of the paper's tables is a config and a model that build; runs are recorded once."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from icon_dist import config as configuration
from icon_dist import paper
from icon_dist.datasets import coco, crowdpose, mpii
from icon_dist.errors import ConfigError, DataError
from icon_dist.models import build_model, from_config
from icon_dist.reports import paper_runs, paper_tables
from icon_dist.reports.paper_tables import Recipe, Result
from icon_dist.training.contrast_check import check_contrast
from icon_dist.training.driver import anchored
from tests.support.run_folders import write_run

TITLES, ROWS = paper_tables.read_recipes()
SKELETONS = {"coco": coco.SKELETON, "mpii": mpii.SKELETON, "crowdpose": crowdpose.SKELETON}
built = cache(build_model)  # dozens of rows mean the same few models
PAPER = [(row, cfg) for row in ROWS.values() for cfg in row.paper]


@pytest.mark.parametrize(("row", "cfg"), PAPER, ids=[f"{row.id}-{cfg}" for row, cfg in PAPER])
def test_every_row_of_the_paper_has_a_config_and_a_model(
    row: Recipe, cfg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration.load(cfg, paper_runs.overrides(row, cfg, seed=1))
    assert config.run.seed == 1
    for key, value in row.changes.items():
        got = configuration.get(config, key)
        assert got == value or str(value).startswith("@")
    skeleton = SKELETONS[config.data.dataset]
    check_contrast(config.loss, skeleton)
    monkeypatch.setattr(from_config, "build_model", built)
    with torch.device("meta"):
        model = from_config.build(config, skeleton)
    assert (model.projection is None) == (config.loss.lambda_p == 0)


def test_the_papers_numbers_are_those_of_the_method_notes() -> None:
    """The paper's tables, read column by column."""
    t5 = {row.id: row.paper for row in ROWS.values() if row.table == "T5"}
    assert [p["coco"] for p in t5.values()] == [74.4, 75.0, 75.3, 75.6, 76.1]
    assert [p["mpii"] for p in t5.values()] == [90.3, 90.7, 91.2, 91.6, 92.0]
    t8 = [row.paper["coco"] for row in ROWS.values() if row.table == "T8"]
    assert t8 == [74.6, 75.2, 75.7, 76.1, 75.9, 74.5, 75.3, 75.8, 76.1]
    t4 = [row.paper["coco_r50"] for row in ROWS.values() if row.table == "T4"]
    assert t4 == [
        *(49.2, 54.2, 58.3, 62.7),
        *(53.2, 57.3, 62.2, 66.8),
        *(57.5, 61.6, 64.5, 68.2),
        *(54.0, 58.3, 63.4, 68.3),
        *(58.5, 62.7, 65.6, 69.4),
    ]
    assert set(TITLES) >= {f"T{n}" for n in range(1, 9)}


def test_random_sampling_has_the_papers_ranges() -> None:
    loss = configuration.load("coco", paper_runs.overrides(ROWS["T7.skcc_random"], "coco", seed=0)).loss
    assert (loss.skcc.queries, loss.skcc.queries_to) == (6, 9)
    assert (loss.skcc.negatives, loss.skcc.negatives_to) == (5, 10)
    pair = configuration.load("coco", paper_runs.overrides(ROWS["T7.prcc_random"], "coco", seed=0)).loss.prcc
    assert (pair.query, pair.negatives, pair.negatives_to) == ("all", 4, 7)


def test_another_rows_run_is_named_by_its_id(tmp_path: Path) -> None:
    given = paper_runs.overrides(ROWS["T4.pseudo_30"], "coco_r50", seed=2, extra=["run.dir=s3://bucket/runs"])
    assert "semi.teacher=s3://bucket/runs/coco_r50-T4.sup_30-s2" in given
    assert "run.name=coco_r50-T4.pseudo_30-s2" in given
    preset = tmp_path / "taught.yaml"  # which is no config before it has its teacher
    preset.write_text("extends: people\ndata: {labelled: 0.5}\nsemi: {method: pseudo}\n")
    given = paper_runs.overrides(ROWS["T5.base"], str(preset), seed=0, extra=["semi.teacher=@T4.sup_5"])
    assert "semi.teacher=runs/taught-T4.sup_5-s0" in given


def test_rows_and_tables_are_selected_by_name() -> None:
    assert [r.id for r in paper.select(["T5"], ROWS)] == ["T5.base", "T5.intra", "T5.skcc", "T5.prcc", "T5.both"]
    assert [r.id for r in paper.select(["T5.both", "T1.icon"], ROWS)] == ["T1.icon", "T5.both"]
    with pytest.raises(ConfigError, match=r"--run T5\.sckk: no such row or table"):
        paper.select(["T5.sckk"], ROWS)
    with pytest.raises(ConfigError, match="give a preset with --cfg"):
        paper.preset_of(ROWS["LP.0.1"], None)


RESULT = Result(
    recipe="T5.base",
    cfg="people",
    overrides="",
    seed=0,
    metric="PCK@0.2",
    score=70.0,
    gradient_ratio="",
    purity="",
    cosine="",
    over_chance="",
    steps=10,
    seconds=3,
    device="cpu",
    commit="abc",
    command="python -m icon_dist.train",
)


def test_results_are_listed_with_their_spread(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    paper_tables.append_results(file, [RESULT])
    paper_tables.append_results(file, [replace(RESULT, seed=1, score=72.0, purity="0.5")])
    results = paper_tables.read_results(file)
    assert results == [RESULT, replace(RESULT, seed=1, score=72.0, purity="0.5")]
    rows = [*ROWS.values()]
    text = paper_tables.listing(TITLES, rows, results, commands=False)
    assert "measured: people PCK@0.2 71.00 ± 1.41 (2)\n" in text
    assert all(title.split()[0] in text for title in TITLES.values())
    warm = replace(RESULT, overrides="model.pretrained=@WARM.base", score=80.0)
    cold, started = paper_tables.markdown(ROWS, [*results, warm]).split("\n\n")  # never in one mean
    assert "| `T5.base` no contrast | 71.00 ± 1.41 (2) |  | 0.50 |  |" in cold
    assert "`--cfg people --set model.pretrained=@WARM.base`" in started
    assert "| `T5.base` no contrast | 80.00 (1) |" in started


def test_ap_is_shown_in_percent_as_the_paper_has_it() -> None:
    ap = [replace(RESULT, cfg="coco", metric="AP", score=score) for score in (0.74, 0.76)]
    assert paper_tables.measured(ap) == ["measured: coco AP 75.00 ± 1.41 (2)"]
    assert "| `T5.base` no contrast | 75.00 ± 1.41 (2) |" in paper_tables.markdown(ROWS, ap)
    assert "# AP 75.00 ± 1.41 (2)" in paper_tables.listing(TITLES, [ROWS["T5.base"]], ap, commands=True)


def test_scores_on_several_sets_are_never_one_mean() -> None:
    sets = [replace(RESULT, metric=name, score=score) for name, score in (("a/PCK@0.2", 40.0), ("b/PCK@0.2", 60.0))]
    text = paper_tables.listing(TITLES, [ROWS["T5.base"]], sets, commands=True)
    assert text.endswith("# a/PCK@0.2 40.00 (1), b/PCK@0.2 60.00 (1)")


def test_the_list_has_100_columns_and_commands_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    paper.main([])
    whole = capsys.readouterr().out
    assert max(map(len, whole.splitlines())) <= 100
    assert all(f"  {row.id} " in whole for row in ROWS.values())
    for row in ROWS.values():
        assert all(f"{cfg} {paper_tables.figures(value)}" in whole for cfg, value in row.paper.items()), row.id
    assert "$ " not in whole
    paper.main(["--commands", "T4.sup_30", "T1"])
    shown = capsys.readouterr().out
    assert "      $ icon-dist paper --run T1.icon\n" in shown
    assert "      $ icon-dist paper --run T4.sup_30 --cfg lsp_light --seeds " in shown
    assert "T5.base" not in shown
    with pytest.raises(ConfigError, match=r"--commands T9: no such row or table"):
        paper.main(["--commands", "T9"])


@pytest.mark.parametrize("listing", ["--commands", "--markdown"])
def test_a_list_and_runs_are_not_asked_for_at_once(listing: str) -> None:
    with pytest.raises(ConfigError, match=r"--dry-run"):
        paper.main(["--run", "T5.both", listing])


def test_a_dry_run_prints_what_would_be_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.csv"
    paper_tables.append_results(file, [RESULT])
    paper.main(["--run", "T5.base", "--cfg", "people", "--seeds", "0", "1", "1", "--record", str(file), "--dry-run"])
    out, err = capsys.readouterr()
    assert out.startswith("icon-dist train --cfg people loss.lambda_p=0")
    assert out.endswith("run.seed=1 run.name=people-T5.base-s1\n")
    assert out.count("\n") == 1
    assert err.startswith("icon_dist: people-T5.base-s0 is recorded already")
    assert paper_tables.read_results(file) == [RESULT]
    with pytest.raises(ConfigError, match="--dry-run: nothing is run"):
        paper.main(["--dry-run"])


def test_a_file_that_is_no_table_of_results_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="not a table of results"):
        paper_tables.read_results(file)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("run.seed=3", r"--set run.seed=3: the seeds of rows are given with --seeds"),
        ("run.name=mine", r"--set run.name=mine: rows name their runs"),
        ("data.val=", r"people: has no data.val, so there would be no score to record"),
        ("model.pretrained=@WARM.bse", r"@WARM.bse: no such row; did you mean WARM.base\?"),
        ("model.pretrained=@WARM.base", r"people-WARM.base-s0, which is not there; run WARM.base first"),
    ],
)
def test_what_runs_would_not_get_is_refused_before_the_first(given: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        paper.main(["--run", "T5.base", "--cfg", "people", "--set", given, f"run.dir={tmp_path}"])
    assert [*tmp_path.iterdir()] == []


def test_a_start_that_is_not_over_is_refused(tmp_path: Path) -> None:
    write_run(str(tmp_path / "people-WARM.base-s0"), optim__epochs=7)
    with pytest.raises(ConfigError, match=r"people-WARM.base-s0, which stands at epoch 3 of 7; bring it to its end"):
        paper.main(
            ["--run", "T5.base", "--cfg", "people", "--set", "model.pretrained=@WARM.base", f"run.dir={tmp_path}"]
        )
    teacher = f"semi.teacher={tmp_path}"  # in place of the row's own
    assert paper_runs.Run(ROWS["T4.pseudo_30"], "people", 0, [teacher]).starts_from == {}


def test_seeds_that_start_from_runs_of_other_values_are_not_averaged(tmp_path: Path) -> None:
    file, given = tmp_path / "results.csv", ["model.pretrained=@WARM.base", f"run.dir={tmp_path}"]
    paper_tables.append_results(file, [replace(RESULT, overrides=" ".join(given))])
    for seed, lr in enumerate((0.1, 0.1, 0.2)):
        write_run(
            f"{tmp_path}/people-WARM.base-s{seed}", run__seed=seed, optim__lr=lr, optim__epochs=3, optim__milestones=[]
        )
    words = ["--run", "T5.base", "--cfg", "people", "--record", str(file), "--set", *given, "--seeds"]
    paper.main([*words, "0"])
    with pytest.raises(ConfigError, match=r"s2, was trained with other values than .*s0: optim.lr=0.2 \(was 0.1\)"):
        paper.main([*words, "2"])


def test_a_value_that_a_row_is_named_for_is_not_replaced_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    paper.main(["--run", "T5", "--cfg", "people", "--set", "loss.lambda_p=0.3", "loss.lambda_2=0", "--dry-run"])
    assert capsys.readouterr().err.splitlines() == [
        "icon_dist: note: T5.base, no contrast: --set loss.lambda_p=0.3 replaces the row's own loss.lambda_p=0"
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_preset_that_has_changed_is_not_averaged_with_what_it_was(seed: int, tmp_path: Path) -> None:
    """Neither told to be recorded already, nor another seed of what is recorded."""
    preset, file = tmp_path / "mine.yaml", tmp_path / "results.csv"
    preset.write_text(f"extends: people\nrun: {{dir: {tmp_path}/runs}}\nloss: {{tau: 0.1}}\n")
    paper_tables.append_results(file, [replace(RESULT, recipe="T5.both", cfg=str(preset))])
    config = configuration.load(str(preset), ["loss.tau=0.07"])
    kept = tmp_path / "runs/mine-T5.both-s0/config.yaml"
    kept.parent.mkdir(parents=True)
    kept.write_text(configuration.to_yaml(anchored(config)))
    with pytest.raises(ConfigError, match=r"s0: was trained with other values: loss.tau=0.1 \(was 0.07\); add run.dir"):
        paper.main(["--run", "T5.both", "--cfg", str(preset), "--seeds", str(seed), "--record", str(file)])
    preset.write_text(f"extends: people\nrun: {{dir: {tmp_path}/runs, precision: bf16}}\n")
    with pytest.raises(ConfigError, match=r"other values: run.precision=bf16 \(was fp32\)"):
        paper.main(["--run", "T5.both", "--cfg", str(preset), "--record", str(file)])


def test_recorded_runs_of_another_version_stay_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, kept = tmp_path / "results.csv", tmp_path / "people-T5.base-s0/config.yaml"
    given = f"run.dir={tmp_path}"
    paper_tables.append_results(file, [replace(RESULT, overrides=given)])
    kept.parent.mkdir()
    kept.write_text("loss: {gone: 1}\n")
    paper.main(["--run", "T5.base", "--cfg", "people", "--set", given, "--record", str(file)])
    assert capsys.readouterr().err == "icon_dist: people-T5.base-s0 is recorded already\n"
    kept.unlink()  # a record may be of a preset of that name in another folder
    paper.main(["--run", "T5.base", "--cfg", "people", "--set", given, "--record", str(file)])
    says = f"people-T5.base-s0 is recorded already; its run is not here: {kept.parent}\n"
    assert capsys.readouterr().err.endswith(says)


def test_a_record_is_of_whole_lines_and_of_the_last_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged line is left out; the score of an earlier step is not that of the run."""
    monkeypatch.setattr(paper, "_commit", lambda: "abc")
    run = paper_runs.Run(ROWS["T5.base"], "people", 0, [f"run.dir={tmp_path}"])
    place = write_run(f"{tmp_path}/{run.name}", scores=[{"PCK@0.2": score} for score in (3.0, 5.0, 4.0)])
    log = Path(place, "metrics.jsonl")
    log.write_text(log.read_text().replace('"total"', '"step_ms": 400.0, "total"') + "no event\n")
    (result,) = paper.figures(run, configuration.load(run.cfg, run.overrides))
    assert (result.score, result.steps, result.seconds, result.device) == (4.0, 30, 12, "cpu")
    assert "1 damaged line left out" in capsys.readouterr().err
    log.write_text("".join(line for line in log.read_text().splitlines(True) if "4.0}" not in line))
    with pytest.raises(DataError, match=r"metrics.jsonl has no score of its last step, 30; remove its newest"):
        paper.figures(run, configuration.load(run.cfg, run.overrides))


def test_a_record_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--record .*absent.csv: no such file"):
        paper.main(["--record", str(tmp_path / "absent.csv")])


def test_a_preset_is_one_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("extends: people\n")
    shown = []
    for path in ("mine.yaml", "./mine.yaml", ".//mine.yaml"):
        paper.main(["--run", "T5.base", "--cfg", path, "--dry-run"])
        shown.append(capsys.readouterr().out)
    assert len({*shown}) == 1
    assert " --cfg mine.yaml " in shown[0]
