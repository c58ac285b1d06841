"""Bad calls of the commands that use a trained model: one line, the right exit code, nothing written.

``test_predict_command.py`` has those of predict.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from icon_dist.__main__ import dispatch
from icon_dist.command_exit import run_cli
from tests.support import small_sets
from tests.support.run_folders import write_run
from tests.support.small_models import CRATE, weights_file

CALLS: dict[str, tuple[int, str]] = {
    "export none -o m.onnx": (4, "none: nothing is there; check the path, and give the folder of a run"),
    "export runs -o m.onnx": (4, "runs: holds 3 runs and is none itself; give "),
    "export runs/empty -o m.onnx": (4, "a run that has no checkpoint yet; wait for its first (run.checkpoint_every)"),
    "export thing -o m.onnx": (4, "a shard set, no run; give it with --shards, and a run beside it"),
    "export study -o m.onnx": (4, "a sweep, no run; give some of its trials, such as "),
    "export x.yaml -o m.onnx": (4, "a config, no run; give the run that was trained with it"),
    "export a.txt -o m.onnx": (4, "a.txt: not written by icon-dist fetch, or cut"),
    "export old.onnx -o m.onnx": (4, "old.onnx: an exported model; give the run or the fetched .safetensors"),
    "export w.safetensors": (2, "required: -o/--out"),
    "export w.safetensors -o photos/": (2, "ends with none of .onnx, .pt2; name it FILE.onnx"),
    "export w.safetensors -o old.onnx": (2, "old.onnx exists already; give another name, or --force"),
    "export w.safetensors -o a.txt/m.onnx": (5, "a.txt: is a file, not a folder; write elsewhere"),
    "export w.safetensors -o /proc/m.onnx": (5, "/proc: no file can be made there; write elsewhere"),
    "export w.safetensors -o m.onnx --net 2": (2, "--net: w.safetensors is no run with several"),
    "export runs/a -o m.onnx --net 2": (4, "--net 2: holds one network; leave it out"),
    "export runs/a -o m.onnx --which 7": (4, "runs/a: has no checkpoint of step 7; it has 30"),
    "export w.safetensors crate.safetensors -o m.onnx": (2, "unrecognized arguments: crate.safetensors"),
    "compare none": (4, "none: nothing is there; check the path, and give the folder of a run (run.dir/run.name)"),
    "compare w.safetensors": (4, "w.safetensors: weights, no run; give the run that they are from"),
    "compare runs/a runs/crate --no-evaluation": (2, "crate: has 4 joints of crate, a 14 joints of thing"),
    "compare runs/a -o page.html": (2, "page.html exists already; give another name, or --force"),
    "compare runs/a -o /proc/p.html": (5, "/proc: no file can be made there; write elsewhere"),
    "compare runs/a --shards none": (3, "none: no shards here (manifest.json is missing)"),
    "compare runs/a --shards a.txt": (3, "a.txt: no shards here, it is a file; give the folder"),
    "compare runs/a --device tpu": (2, "--device tpu: "),
    "compare runs/crate --shards thing": (2, "thing: has 14 joints of thing, crate 4 joints of crate"),
    "fetch runs/a": (2, "-o FILE: missing; say where to write the weights, or use --list"),
    "fetch runs -o f.safetensors": (4, "runs: holds 3 runs and is none itself"),
    "fetch runs/empty -o f.safetensors": (4, "a run that has no checkpoint yet; wait for its first"),
    "fetch w.safetensors -o f.safetensors": (4, "weights, no run; give the run that they are from"),
    "fetch runs/a -o f.pt": (2, "name it .safetensors"),
    "fetch runs/a -o w.safetensors": (2, "w.safetensors exists already; give another name, or --force"),
    "fetch runs/a -o /proc/f.safetensors": (5, "/proc: no file can be made there; write elsewhere"),
    "fetch runs/a --step 3 -o f.safetensors": (4, "has no checkpoint of step 3; it has 30"),
    "fetch thing --list": (4, "a shard set, no run"),
    "evaluate runs": (4, "runs: holds 3 runs and is none itself"),
    "evaluate runs/empty": (4, "a run that has no checkpoint yet"),
    "evaluate runs/crate --shards thing": (4, "predicts 4 joints of crate, thing has 14 of thing"),
    "evaluate w.safetensors": (3, "data.val of w.safetensors: "),
    "evaluate w.safetensors --shards runs/a": (3, "runs/a: no shards here"),
    "evaluate w.safetensors --shards thing --net 2": (4, "--net 2: a file holds one network; leave it out"),
    "evaluate w.safetensors --shards thing --picture photos/": (2, "is drawn as PNG; name it FILE.png"),
    "evaluate w.safetensors --shards thing --json photos": (5, "photos: is a folder; name a file in it"),
    "evaluate w.safetensors --shards thing --json poses.json": (2, "poses.json exists already; give another name"),
    "evaluate w.safetensors --shards thing --diagnose /proc/x": (5, "/proc: no file can be made there"),
    "evaluate w.safetensors --shards thing --boxes none.json --images photos": (3, "none.json: no such file"),
    "evaluate w.safetensors --shards thing --boxes poses.json": (2, "needs --images DIR"),
    "evaluate w.safetensors --shards thing --boxes poses.json --images photos": (3, "poses.json: an empty list"),
    "evaluate w.safetensors --shards thing --refine-below 0.3": (2, "is hrnet_small, which does not refine joints"),
    "evaluate w.safetensors --shards thing --device cuda:99": (2, "--device cuda:99: "),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with a checkpoint, without, and of another skeleton; weights, shards, and files that are none of these."""
    root = tmp_path_factory.mktemp("world")
    shape = small_sets.skeleton("thing", joints=14)
    shards = small_sets.shards_of(shape, root)
    write_run(f"{root}/runs/a", skeleton=shape, scores=[{"AP": 0.5}], headline="AP", data__val=shards)
    write_run(f"{root}/runs/empty")
    write_run(f"{root}/runs/crate", skeleton=CRATE)
    weights_file(root / "w.safetensors", shape)
    weights_file(root / "crate.safetensors", CRATE)
    for name in ("a.txt", "page.html", "old.onnx", "x.yaml", "study/journal.log", "photos/0.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    (root / "poses.json").write_text("[]")
    return root


@pytest.mark.parametrize("line", CALLS)
def test_a_bad_call_is_one_line_and_writes_nothing(
    line: str, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    before = sorted(map(str, world.rglob("*")))
    with pytest.raises(SystemExit) as left:
        run_cli(dispatch, line.split())
    out, err = capsys.readouterr()
    code, says = CALLS[line]
    assert (left.value.code, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith("icon_dist: error: ")
    assert says in err
    assert sorted(map(str, world.rglob("*"))) == before
