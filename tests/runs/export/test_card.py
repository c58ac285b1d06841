"""The card that ``icon-dist fetch`` writes beside a file, and the licence that shards hand on to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from icon_dist import fetch, storage
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints.card import MARK, card, place
from icon_dist.datasets import load_skeleton, skeleton_to_dict
from icon_dist.datasets.synthetic import generate
from icon_dist.errors import ConfigError
from icon_dist.shards import build, verify
from icon_dist.shards.shard_set import open_shards

SAID = {
    "config": {"model": {"backbone": "hrnet_w32"}, "data": {"input": "256x192", "codec": "udp", "sigma": 2}},
    "skeleton": skeleton_to_dict(load_skeleton("coco")),
    "score": 0.7612,
    "metrics": {"AP": 0.7612, "AP .5": 0.9},
    "evaluated": "ema",
    "conditions": "split=val2017 boxes=gt flip=yes decode=dark codec=udp evaluator=pycocotools",
    "data": {"dataset": "coco", "split": "train2017", "people": 149813, "licence": "CC BY 4.0 | photos: Flickr's"},
    "pretrained": {"kind": "ImageNet HRNet", "uri": "s3://b/hrnet_w32-36af842e.pth", "sha256": "36af842e" * 8},
    "versions": {"icon_dist": "0.1.0", "torch": "2.13.0"},
}


@pytest.fixture
def run(tmp_path: Path) -> str:
    place = str(tmp_path / "run")
    for step in (1, 2):
        weights = {"conv1.weight": torch.full((5, 3), float(step))}
        tensors = {"model": weights, "ema": weights, "optimizer": {}}
        checkpoint.save(place, step=step, attempt="a", tensors=tensors, state={}, manifest=SAID, keep=9)
    return place


def test_a_card_says_what_the_file_is(run: str, tmp_path: Path) -> None:
    out = tmp_path / "best.safetensors"
    fetch.main([run, "--last", "-o", str(out)])
    text = (tmp_path / "best.md").read_text()
    assert text.startswith("---\nlibrary_name: icon_dist\n")
    for words in (
        "# best.safetensors\n",
        "hrnet\\_w32 that finds 17 joints",
        "coco: nose, left\\_eye,",
        "256x192 (height x width), RGB; boxes padded by 1.25",
        "codec udp, sigma 2",
        "coco train2017: 149,813 people",
        "CC BY 4.0 \\| photos: Flickr's",
        f"ImageNet HRNet from s3://b/hrnet\\_w32-36af842e.pth, sha256 {'36af842e' * 8}",
        "| Scores, percent | AP 76.1, AP .5 90.0 (split=val2017 boxes=gt flip=yes decode=dark codec=udp evaluator=",
        "step 2 of ",
        "averaged over steps (EMA)",
        "icon\\_dist 0.1.0, torch 2.13.0",
        "15 numbers, sha256 `",
        "icon-dist export best.safetensors -o model.onnx",
        "icon-dist predict best.safetensors PHOTO.jpg -o out",
        'pose = icon_dist.load("best.safetensors")',
    ):
        assert words in text, words


def test_files_of_one_folder_have_a_card_each(run: str, tmp_path: Path) -> None:
    for step in ("1", "2"):
        fetch.main([run, "--step", step, "-o", str(tmp_path / f"s{step}.safetensors")])
    cards = {step: (tmp_path / f"s{step}.md").read_text() for step in "12"}
    assert all(f"step {step} of " in text for step, text in cards.items())


def test_a_card_is_replaced_and_a_text_of_somebody_stays(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, beside = tmp_path / "best.safetensors", tmp_path / "best.md"
    fetch.main([run, "--step", "1", "-o", str(out)])
    first = out.read_bytes()
    with pytest.raises(ConfigError, match=r"best\.safetensors exists already; give another name, or --force"):
        fetch.main([run, "--step", "2", "-o", str(out)])
    assert out.read_bytes() == first
    fetch.main([run, "--step", "2", "-o", str(out), "--force"])
    assert "step 2 of " in beside.read_text()
    assert capsys.readouterr().err == ""
    for theirs in (b"my notes\n", b"\xff\xfe", b"x" * (2 << 20)):
        beside.write_bytes(theirs)
        fetch.main([run, "-o", str(out), "--force"])
        assert beside.read_bytes() == theirs
        shown = capsys.readouterr().err
        assert "best.md: is not a card that icon-dist fetch wrote, and stays" in shown
        assert shown.count("\n") == 1


def test_a_card_on_s3(run: str, s3: str) -> None:
    fetch.main([run, "-o", f"{s3}/best.safetensors"])
    assert MARK in storage.read(f"{s3}/best.md").decode()


def test_what_a_checkpoint_does_not_say_is_left_out() -> None:
    text = card(
        {"config": {"model": None}, "skeleton": [], "data": "x"}, file="/a b/x y.safetensors", sha256="0", numbers=1
    )
    assert "Trained on" not in text
    assert "Start weights" not in text
    assert "not evaluated" in text
    assert "export FILE.safetensors" in text
    assert place("s3://b/a.b.safetensors") == "s3://b/a.b.md"


def test_names_of_others_are_no_markup() -> None:
    evil = "[a](javascript:x) <script>|`b`\n# c \x1b[2J"
    said = SAID | {"data": {"dataset": evil, "split": evil, "licence": evil}, "conditions": evil}
    text = card(said, file=f"{evil}.safetensors", sha256="0", numbers=1)
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "[a](" not in text.replace("\\[a\\](", "")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(len(row.replace("\\|", "").split("|")) == 4 for row in rows)


# ------------------------------------------------------------------------------------------------------- the licence


def test_the_licence_of_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is in the manifest and nowhere else: without the option a set keeps its bytes."""
    file = generate(tmp_path / "photos", people=4, seed=0)
    command = ["coco", "--annotations", str(file), "--images", str(file.parent / "images"), "--jobs", "1"]
    plain, licensed = tmp_path / "plain", tmp_path / "licensed"
    build.main([*command, "--out", str(plain)])
    build.main([*command, "--out", str(licensed), "--licence", "CC BY 4.0"])
    before, after = open_shards(str(plain)), open_shards(str(licensed))
    assert before.origin == {"dataset": "coco", "split": "annotations", "people": len(before), "licence": None}
    assert after.origin == before.origin | {"licence": "CC BY 4.0"}
    manifests = [{k: v for k, v in found.manifest.items() if k != "sha256"} for found in (before, after)]
    assert manifests[1] == manifests[0] | {"licence": "CC BY 4.0"}  # the sha256 of every other file too
    assert all((plain / name).read_bytes() == (licensed / name).read_bytes() for name in before.manifest["files"])
    capsys.readouterr()
    verify.main([str(licensed)])
    assert "licence of the data: CC BY 4.0\n" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="holds shards of another build \\(licence differ\\)"):
        build.main([*command, "--out", str(licensed), "--licence", "another"])
    for wrong in ("two\nlines", "x" * 201, " "):
        with pytest.raises(ConfigError, match="--licence: "):
            build.main([*command, "--out", str(tmp_path / "x"), "--licence", wrong])
