"""``icon_dist.evaluate`` against the numbers of the run itself, and against shards packed from the same boxes."""

from __future__ import annotations

import dataclasses
import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from icon_dist import config as configuration
from icon_dist import evaluate
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.codec import Codec, codec_of
from icon_dist.config import EvalConfig
from icon_dist.datasets import joined, load_skeleton, read
from icon_dist.datasets.detections import detected
from icon_dist.errors import CheckpointError, ConfigError, DataError, DivergedError
from icon_dist.fetch import main as fetch
from icon_dist.inference import predictor
from icon_dist.inference.boxes import first_photos
from icon_dist.models import from_config
from icon_dist.reports import evaluation
from icon_dist.shards.manifest import read_truth
from icon_dist.shards.reader import photo_source
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.tar import Settings
from icon_dist.shards.writer import SetInfo, build
from icon_dist.types import percent
from tests.support import small_sets
from tests.support.random_poses import truth_of
from tests.support.training import run_gang, tiny

LOOSE = Settings(max_input=None)


@pytest.fixture(scope="module")
def run(people: Path, module_path: Path) -> Path:
    """A run of one epoch on two ranks."""
    folder = module_path / "runs"
    folder.mkdir()
    run_gang(tiny(people, folder, run__name="short", optim__epochs=1), scratch=folder)
    return folder / "short"


def scores_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    evaluate.main([*arguments, "--loaders", "0"])
    return table_of(capsys.readouterr().out)


def table_of(printed: str) -> dict[str, float]:
    """The scores, of which each is a line whose value ends in one column; before and after them stand sentences."""
    lines = [
        line.rpartition(" ") for line in printed.splitlines() if ": " not in line and not line.startswith("wrote ")
    ]
    assert len({len("".join(line)) for line in lines}) == 1
    return {name.strip(): -1 if value == "-" else float(value) for name, _, value in lines}


def rounded(scores: dict[str, float]) -> Any:
    """Scores as they are printed: percent, one decimal."""
    return pytest.approx({name: percent(name, value) for name, value in scores.items()}, abs=0.0501)


def test_one_process_scores_what_two_ranks_scored(
    run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = next(event for event in events if event["kind"] == "eval")
    fetch([str(run), "--best", "-o", str(tmp_path / "best.safetensors")])
    capsys.readouterr()
    result, picture = tmp_path / "result.json", tmp_path / "poses.png"
    for checkpoint in (run, tmp_path / "best.safetensors"):
        found = scores_of(
            *(capsys, str(checkpoint), "--shards", f"{people}/val"),
            *("--json", str(result), "--picture", str(picture), "--force"),
        )
        assert found == rounded(logged["scores"])
    written = json.loads(result.read_text())
    assert written["scores"] == pytest.approx(logged["scores"])
    assert "split=val boxes=gt flip=yes decode=quarter evaluator=" in written["conditions"]
    drawn = cv2.imread(str(picture))
    assert drawn is not None
    assert drawn.shape[0] > 256


def test_two_outputs_are_not_one_file(tmp_path: Path) -> None:
    for words, one in (
        (["--json", f"{tmp_path}/d/diagnosis.json", "--diagnose", f"{tmp_path}/d/"], "--json"),
        (["--json", f"{tmp_path}/s.json", "--results", f"{tmp_path}/x/../s.json"], "--json"),
        (["--json", f"{tmp_path}/run/calibration.json", "--calibrate"], "--calibrate"),
    ):
        with pytest.raises(ConfigError, match=rf"^--.*: {one}.* writes that file too; give another name"):
            evaluate.main([f"{tmp_path}/run", *words])


def test_codec_and_sigma_are_the_checkpoints(
    run: Path, people: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = stored_weights.load(str(run))
    data = dataclasses.replace(weights.config.data, codec="udp", sigma=1.5)
    weights = dataclasses.replace(weights, config=dataclasses.replace(weights.config, data=data))
    monkeypatch.setattr(stored_weights, "load", lambda _, **__: weights)
    asked = {}

    def told(*_: object, codec: Codec, settings: EvalConfig, **__: object) -> NoReturn:
        asked.update(codec=codec.name, sigma=codec.sigma, decode=settings.decode)
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "predict", told)
        with pytest.raises(InterruptedError):
            evaluate.main([str(run), "--shards", f"{people}/val", "--loaders", "0", "--decode", "dark"])
    assert asked == {"codec": "udp", "sigma": 1.5, "decode": "dark"}
    evaluate.main([str(run), "--shards", f"{people}/val", "--loaders", "0", "--decode", "dark", "--limit", "4"])
    assert "flip=yes decode=dark codec=udp evaluator=" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.slow
def test_a_run_with_udp_scores_the_same_afterwards(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(people, tmp_path, run__name="udp", data__codec="udp", eval__decode="dark", optim__epochs=1)
    run_gang(config, scratch=tmp_path, world=1)
    events = [json.loads(line) for line in (tmp_path / "udp" / "metrics.jsonl").read_text().splitlines()]
    logged = next(event for event in events if event["kind"] == "eval")
    assert "decode=dark codec=udp" in logged["what"]
    found = scores_of(capsys, str(tmp_path / "udp"), "--shards", f"{people}/val", "--decode", "dark")
    assert found == rounded(logged["scores"])


def test_what_is_printed(run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Conditions once, the scores aligned, what it comes to, the files."""
    files = ["--json", str(tmp_path / "scores.json"), "--picture", str(tmp_path / "poses.png")]
    few = ["--no-flip", "--decode", "argmax", "--limit", "5", "--loaders", "0"]
    evaluate.main([str(run), *few, *files])  # on the run's own data.val
    printed = capsys.readouterr().out
    first, *_, summary, written = printed.splitlines()
    assert first == "conditions: split=val boxes=gt flip=no decode=argmax evaluator=icon_dist limit=5"
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert table_of(printed) == rounded(scores)
    shards = open_shards(f"{people}/val")
    rows = first_photos(shards, 5)
    boxes = f"{len(rows)} boxes in {len(np.unique(shards.image_id[rows]))} images of val"
    assert (
        summary
        == f"{run}, step {len(open_shards(f'{people}/train')) // 16}: PCK@0.2 {scores['PCK@0.2']:.1f} on {boxes}"
    )
    assert written == f"wrote {files[1]}, {files[3]}"


def test_shards_of_the_runs_own_that_are_not_there(run: Path, tmp_path: Path) -> None:
    weights = stored_weights.load(str(run))
    for val, kind, told in (
        ("", ConfigError, "its run had no data.val; say what to score it on with --shards URI"),
        (f"{tmp_path}/gone", DataError, rf"data.val of .*fetched.safetensors: {tmp_path}/gone.*; give --shards URI"),
    ):
        data = dataclasses.replace(weights.config.data, val=val)
        other = dataclasses.replace(weights, config=dataclasses.replace(weights.config, data=data))
        (tmp_path / "fetched.safetensors").write_bytes(stored_weights.encode(other))
        with pytest.raises(kind, match=told):
            evaluate.main([str(tmp_path / "fetched.safetensors")])


def test_another_metric_than_the_skeletons(run: Path, people: Path, tmp_path: Path) -> None:
    """People that are scored by PCK, as COCO's are: its ten numbers, its file of results."""
    results, scores = tmp_path / "poses.json", tmp_path / "scores.json"
    shards = open_shards(f"{people}/val")
    arguments = [str(run), "--shards", f"{people}/val", "--loaders", "0", "--results", str(results)]
    evaluate.main([*arguments, "--metric", "coco", "--json", str(scores)])
    written = json.loads(scores.read_text())
    assert list(written["scores"])[:3] == ["AP", "AP .5", "AP .75"]
    assert len(written["scores"]) == 10
    assert "evaluator=pycocotools" in written["conditions"]
    assert len(json.loads(results.read_text())) == len(shards.instance)
    with pytest.raises(ConfigError, match="no test server takes poses of synthetic"):
        evaluate.main([*arguments, "--force"])
    assert evaluation.measured_by(None, shards.skeleton) == shards.skeleton
    with pytest.raises(ConfigError, match="--metric pck: skeleton coco names no torso to measure by"):
        evaluation.measured_by("pck", dataclasses.replace(load_skeleton("coco"), torso=(0, 0)))


def test_weights_that_answer_with_no_number(run: Path, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = stored_weights.load(str(run))
    for tensor in weights.tensors.values():
        if tensor.is_floating_point():
            tensor.mul_(1e30)  # each of them is finite
    monkeypatch.setattr(stored_weights, "load", lambda _, **__: weights)
    with pytest.raises(DivergedError, match="people are not finite"):
        evaluate.main([str(run), "--shards", f"{people}/val", "--loaders", "0", "--limit", "4"])


def test_a_limit_takes_whole_photos(people: Path) -> None:
    shards = open_shards(f"{people}/val")
    for limit in (1, 3, 10, len(shards)):
        rows = first_photos(shards, limit)
        inside = np.isin(shards.image_id, shards.image_id[rows])
        assert inside.nonzero()[0].tolist() == rows.tolist(), "a photo with part of its people"
        assert limit <= len(rows) <= limit + 3


def test_a_detectors_boxes_on_photos_and_in_shards_agree(
    run: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four = shared / "coco" / "four"
    truth = read("coco", four / "person_keypoints.json", images=four / "images")
    build(truth, str(four / "images"), str(tmp_path / "gt"), SetInfo(dataset="coco", split="four"), settings=LOOSE)
    boxes = detected(truth, str(four / "detections.json"))
    packed = str(tmp_path / "boxes")
    build(
        boxes, str(four / "images"), packed, SetInfo(dataset="coco", split="four", boxes="detections"), settings=LOOSE
    )

    weights = stored_weights.load(str(run))
    config, model = weights.config, from_config.restore(weights).eval()
    ours = []
    for people in (photo_source(str(four / "images"), boxes.instances, skeleton=truth.skeleton), open_shards(packed)):
        codec, settings = codec_of(config), config.eval
        with closing(predictor.eval_stream(people, codec, settings, loaders=0, device="cpu")) as stream:
            _, predictions = predictor.evaluate(
                model, stream, truth_of(truth), codec=codec, settings=settings, device="cpu"
            )
        ours.append(predictions)
    photos, shards = ours
    np.testing.assert_array_equal(photos.instance, shards.instance)
    np.testing.assert_allclose(photos.box_score, shards.box_score)
    assert len(set(photos.box_score.tolist())) > 10, "the detector's own scores"
    moved = np.linalg.norm((photos.keypoints - shards.keypoints)[..., :2], axis=-1) / np.sqrt(photos.area)[:, None]
    assert np.median(moved) < 1e-3  # JPEG windows against whole photos: of so weak a net, some peaks jump a pixel
    assert np.mean(moved < 0.1) > 0.8

    arguments = ["--shards", str(tmp_path / "gt"), "--boxes", str(four / "detections.json"), "--images"]
    evaluate.main([str(run), *arguments, str(four / "images"), "--loaders", "0"])
    assert "split=four boxes=detections.json flip=yes" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--images DIR"):
        evaluate.main([str(run), *arguments[:-1]])


@pytest.fixture(scope="module")
def coco(run: Path, shared: Path, module_path: Path) -> tuple[Path, Path]:
    """The same weights, said to predict COCO's 17 joints, and four photos as shards."""
    folder = module_path / "coco"
    folder.mkdir()
    weights = dataclasses.replace(stored_weights.load(str(run)), skeleton=load_skeleton("coco"))
    (folder / "weights.safetensors").write_bytes(stored_weights.encode(weights))
    four = shared / "coco" / "four"
    truth = read("coco", four / "person_keypoints.json", images=four / "images")
    build(truth, str(four / "images"), str(folder / "shards"), SetInfo(dataset="coco", split="four"), settings=LOOSE)
    return folder / "weights.safetensors", folder / "shards"


def test_results_for_the_test_server(
    coco: tuple[Path, Path], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, shards = coco
    four = shared / "coco" / "four"
    detector = ["--boxes", str(four / "detections.json"), "--images", str(four / "images"), "--loaders", "0"]
    with_truth, without = tmp_path / "with.json", tmp_path / "without.json"
    scores = tmp_path / "scores.json"
    arguments = [str(weights), "--shards", str(shards), *detector, "--engine", "fast", "--json", str(scores)]
    evaluate.main([*arguments, "--results", str(with_truth)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "conditions: split=four boxes=detections.json flip=yes decode=quarter evaluator=fast"
    truth = COCO(str(four / "person_keypoints.json"))
    official = COCOeval(truth, truth.loadRes(str(with_truth)), "keypoints")
    official.evaluate()
    official.accumulate()
    official.summarize()
    assert list(json.loads(scores.read_text())["scores"].values()) == pytest.approx(official.stats.tolist())

    images = json.loads((four / "person_keypoints.json").read_text())["images"]
    (tmp_path / "image_info_four.json").write_text(json.dumps({"images": images, "categories": []}))
    capsys.readouterr()
    photos = [str(weights), "--photos", str(tmp_path / "image_info_four.json"), "--results", str(without)]
    evaluate.main([*photos, *detector])
    assert without.read_bytes() == with_truth.read_bytes()
    first, summary, written = capsys.readouterr().out.splitlines()
    assert "split=image_info_four boxes=detections.json flip=yes" in first
    assert summary.startswith(f"{weights}, step ")
    assert re.search(r": poses of \d+ boxes in 4 images of image_info_four$", summary)
    assert written == f"wrote {without}"
    refused = {"give --results": photos[:3], "needs --images": photos, "--boxes FILE": [*photos, *detector[2:]]}
    for what, missing in refused.items():
        with pytest.raises(ConfigError, match=what):
            evaluate.main([*missing, "--force"])
    with pytest.raises(ConfigError, match=r"poses of coco are a \.json file"):
        evaluate.main([*photos[:-1], "pred.mat", *detector])


def test_diagnose_writes_a_page_its_numbers_and_pictures(
    run: Path, people: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([str(run), "--shards", f"{people}/val", "--loaders", "0", "--diagnose", str(tmp_path / "all")])
    whole = json.loads((tmp_path / "all" / "diagnosis.json").read_text())
    assert "split=val boxes=gt flip=yes" in whole["conditions"]
    assert whole["errors"]["poses"] > 0
    assert len(whole["recall"]["peak"]) == 9
    assert whole["embedding"]["people"] >= 24
    assert (tmp_path / "all" / "worst-miss.png").exists()
    assert "worst-miss" not in (tmp_path / "all" / "diagnosis.html").read_text(), "the page stands alone"
    with pytest.raises(ConfigError, match=r"--diagnose .*all: .*diagnosis.html and 1 more exist already; give another"):
        evaluate.main([str(run), "--shards", f"{people}/val", "--diagnose", str(tmp_path / "all")])
    evaluate.main([str(run), "--shards", f"{people}/val", "--limit", "5", "--diagnose", str(tmp_path / "some")])
    some = json.loads((tmp_path / "some" / "diagnosis.json").read_text())
    assert 5 <= some["embedding"]["people"] <= 8

    four = shared / "coco" / "four"
    truth = read("coco", four / "person_keypoints.json", images=four / "images")
    build(truth, str(four / "images"), str(tmp_path / "gt"), SetInfo(dataset="coco", split="four"), settings=LOOSE)
    boxes = ["--boxes", str(four / "detections.json"), "--images", str(four / "images"), "--loaders", "0"]
    evaluate.main([str(run), "--shards", str(tmp_path / "gt"), *boxes, "--diagnose", str(tmp_path / "boxes")])
    detected = json.loads((tmp_path / "boxes" / "diagnosis.json").read_text())
    assert detected["recall"] is None, "which needs ground-truth boxes"
    assert "Not measured" in (tmp_path / "boxes" / "diagnosis.html").read_text()
    capsys.readouterr()


def test_refusals(run: Path, people: Path, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is there; check the path, and give the folder of a run"):
        evaluate.main([str(tmp_path / "none"), "--shards", f"{people}/val"])
    with pytest.raises(DataError, match="icon-dist shards build"):
        evaluate.main([str(run), "--shards", str(tmp_path / "none")])
    lsp = joined.first(read("custom", shared / "lsp" / "lsp_train.json", skeleton="lsp"), 4)
    build(lsp, str(shared / "lsp" / "images"), str(tmp_path / "lsp"), SetInfo(dataset="custom", split="lsp"))
    with pytest.raises(CheckpointError, match=r"predicts 17 joints of synthetic.*14 of lsp"):
        evaluate.main([str(run), "--shards", str(tmp_path / "lsp")])


def test_what_would_be_scored_in_vain_is_said_before_it_is_predicted(
    coco: tuple[Path, Path], run: Path, people: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, shards = coco
    four = shared / "coco" / "four"
    boxes, images = str(four / "detections.json"), ["--images", str(four / "images")]
    theirs = [str(weights), "--shards", str(shards), "--loaders", "0", "--boxes"]
    entries = json.loads((four / "detections.json").read_text())
    (tmp_path / "cat0.json").write_text(json.dumps([{**entry, "category_id": 0} for entry in entries]))
    with pytest.raises(DataError, match=rf"0 of {len(entries)} boxes have category_id 1, .* are 0 \({len(entries)}\)"):
        evaluate.main([*theirs, str(tmp_path / "cat0.json"), *images])
    with pytest.raises(DataError, match=r"none of 4 photos is there, such as 0"):
        evaluate.main([*theirs, boxes, "--images", str(tmp_path)])
    with pytest.raises(DataError, match="no such images folder"):
        evaluate.main([*theirs, boxes, "--images", str(tmp_path / "none")])
    with pytest.raises(DataError, match=r"boxes=detections\.json: pck measures the annotated people"):
        evaluate.main([*theirs, boxes, *images, "--metric", "pck"])
    capsys.readouterr()
    evaluate.main([str(run), "--shards", f"{people}/val", "--loaders", "0", "--limit", "999", *images])
    ignored, limited = capsys.readouterr().err.splitlines()[:2]
    assert "is not read, because shards hold their people; it goes with --boxes FILE" in ignored
    assert (
        limited
        == f"icon_dist: note: --limit 999: the set has {len(open_shards(f'{people}/val'))} boxes; all of them count"
    )


def test_shards_of_another_skeleton_with_as_many_joints(run: Path, people: Path) -> None:
    skeleton = stored_weights.load(str(run)).skeleton
    theirs = open_shards(f"{people}/val").skeleton
    evaluation.require_same_joints(skeleton, theirs, checkpoint="run", shards="val")
    renamed = dataclasses.replace(skeleton, joints=("snout", *skeleton.joints[1:]))
    with pytest.raises(CheckpointError, match=r"17 joints of synthetic, .* \(joint 0 is 'nose', not 'snout'\)"):
        evaluation.require_same_joints(renamed, theirs, checkpoint="run", shards="val")
    with pytest.raises(CheckpointError, match="mirrors other joints"):
        evaluation.require_same_joints(dataclasses.replace(skeleton, flips=()), theirs, checkpoint="run", shards="val")


def test_things_of_one_joint_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By both engines, and by pycocotools on the file of results: poses without extent count."""
    shards = small_sets.shards_of(small_sets.skeleton("point", joints=1), tmp_path)
    places = [f"data.train={shards}", f"run.dir={tmp_path}", "run.name=point", "loss.lambda_p=0"]
    run_gang(configuration.load("coco", [*small_sets.TRAINING, *places]), scratch=tmp_path, world=1)
    found = []
    for engine in ("pycocotools", "fast"):
        more = ["--engine", engine, "--json", str(tmp_path / "scores.json"), "--results", str(tmp_path / "poses.json")]
        evaluate.main([str(tmp_path / "point"), "--shards", shards, "--loaders", "0", *more, "--force"])
        assert "poses of one joint have no size" in capsys.readouterr().err
        found.append(json.loads((tmp_path / "scores.json").read_text())["scores"])
    assert found[0] == found[1]
    truth = COCO()
    truth.dataset = read_truth(shards) | {"categories": [{"id": 1, "name": "point"}]}
    for number, thing in enumerate(truth.dataset["annotations"], start=1):
        thing["id"] = number  # pycocotools takes a match with annotation 0 for none
    truth.createIndex()
    official = COCOeval(truth, truth.loadRes(str(tmp_path / "poses.json")), "keypoints")
    official.params.kpt_oks_sigmas = np.array([0.05])
    official.evaluate()
    official.accumulate()
    official.summarize()
    assert list(found[0].values()) == pytest.approx(official.stats.tolist())
