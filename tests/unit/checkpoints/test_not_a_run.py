"""Whatever is given for a run gets the same words from all who load one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.datasets import load_skeleton
from icon_dist.errors import CheckpointError
from icon_dist.storage import hashed_json
from tests.support.run_folders import write_run


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("places")
    for name in ("runs/a", "runs/b"):
        write_run(str(root / name))
    write_run(str(root / "done"), skeleton=load_skeleton("lsp"))
    for file in ("study/journal.log", "shards/manifest.json", "photos/1.jpg", "own.yaml", "poses.json", "x/00000.tar"):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text("{}")
    return root


CASES = {
    "absent": "nothing is there; check the path, and give the folder of a run (run.dir/run.name)",
    "runs": "holds 2 runs and is none itself; give {}/a and others, or {}/*",
    "runs/a": "a run that has no checkpoint yet; wait for its first",
    "study": "a sweep, no run; give some of its trials, such as {}/trials/0000",
    "shards": "a shard set, no run; give it with --shards",
    "own.yaml": "a config, no run; give the run that was trained with it (run.dir/run.name)",
    "poses.json": "a JSON file, no run",
    "x/00000.tar": "a shard, no run; its set is for --shards",
    "done/config.yaml": "a part of a run, no run; give ",
    "done/checkpoints": "a part of a run, no run; give ",
    "photos": "no run (has none of config.yaml, metrics.jsonl, checkpoints); give the folder of a run",
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_given_for_a_run_is_named(name: str, places: Path) -> None:
    place = str(places / name)
    with pytest.raises(CheckpointError) as refused:
        stored_weights.load(place)
    assert str(refused.value).startswith(f"{place}: {CASES[name].replace('{}', place)}")
    with pytest.raises(CheckpointError) as by_fetch:
        stored_weights.find(place, "last")
    wanted = CASES[name].replace("{}", place)
    says = "no checkpoint is there; check the name" if name == "absent" else wanted
    assert str(by_fetch.value).startswith(f"{place}: {says}")


def test_a_manifest_that_names_weights_which_it_has_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Anybody can seal a manifest; the checkpoint is then a damaged one."""
    run = write_run(str(tmp_path / "run"), skeleton=load_skeleton("lsp"))
    (entry,) = checkpoint.entries(run)
    said = {key: value for key, value in manifests.read(entry).items() if key != "sha256"}
    wrong = {"evaluated": "ema"}, {"evaluated": ["ema"]}, {"files": {}}, {"versions": "2.13"}, {"skeleton": 3}
    for fields in wrong:
        Path(entry.uri, manifests.NAME).write_bytes(hashed_json.sealed(said | fields))
        with pytest.raises(CheckpointError, match="run: no intact checkpoint"):
            stored_weights.load(run, which="last")
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"icon_dist: warning: {entry.uri}: skipped: "), line
    json.loads(Path(entry.uri, manifests.NAME).read_bytes())
