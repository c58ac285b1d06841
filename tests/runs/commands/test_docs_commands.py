"""What README and docs tell a reader to type runs as it stands: every ``icon-dist`` line and every Python block, in
the order of the page, on small data. Only sizes are ours: a training is made of one epoch of a small network.

A block below ``<!-- not run by tests: REASON -->`` is left out.
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3.session
import cv2
import pytest
import torch

from icon_dist.__main__ import dispatch
from icon_dist.command_exit import run_cli
from icon_dist.models import Heads, build_model
from tests.support.detector_files import with_nms
from tests.support.once import once
from tests.support.paths import ROOT

FIRST = ("README.md", "docs/getting-started.md")  # the others are for `make slow`
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"(?ms)^(?:<!-- not run by tests: ([^\n]+) -->\n)?```(console|python)\n(.*?)^```")
SMALL = [
    *("run.launcher=local", "run.workers=1", "run.gpus_per_worker=0", "run.zero=0", "data.loaders=0"),
    *("model.backbone=hrnet_small", "model.pretrained=", "model.embedding=16", "data.input=64x64"),
    *("optim.batch=4", "optim.micro_batch=4", "optim.epochs=1", "optim.milestones=[]", "optim.warmup_steps=0"),
    *("loss.bank.warmup=0", "loss.start_epoch=0", "loss.ramp_epochs=0", "eval.every=1", "data.streams=0"),
]


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each block of a page that is run."""
    for match in BLOCK.finditer(page.read_text()):
        if match[1] is None:
            yield match[2], match[3]


def lines(block: str) -> Iterator[list[str]]:
    """The ``icon-dist`` lines of a block as words, with wildcards filled in as a shell does."""
    for line in block.replace("\\\n", " ").splitlines():
        if re.match(r"(\$ )?icon-dist ", line):
            words = shlex.split(line.removeprefix("$ "), comments=True)[1:]
            yield [name for word in words for name in (sorted(glob.glob(word)) or [word])]


def run(words: list[str]) -> None:
    """One command as the console has it; trainings, crowds that are drawn and public weights are made small."""
    if "--people" in words:
        words[words.index("--people") + 1] = "24"
    if words[0] == "train" and "--print-config" not in words:
        set_here = {small.partition("=")[0] for small in SMALL}
        words = [word for word in words if word.partition("=")[0] not in set_here] + SMALL
    if words[0] == "fetch" and "--cfg" in words:
        words = [*words, "model.backbone=hrnet_small", "data.input=64x64"]
    with pytest.raises(SystemExit) as left:
        run_cli(dispatch, words)
    assert not left.value.code, f"icon-dist {shlex.join(words)} ended with {left.value.code}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages take for granted: photos, labels, a detector, and runs."""

    def make(folder: Path) -> None:
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            Path("photos").mkdir()
            for split, seed in (("train", "1"), ("val", "2")):
                synthesize = ["shards", "synthesize", "--people", "24", "--seed", seed, "--jobs", "1"]
                dispatch([*synthesize, "--out", f"set/{split}", "--photos", f"made/{split}"])
                labels = json.loads(Path(f"made/{split}/annotations.json").read_text())
                for image in labels["images"]:
                    name = f"{split}-{image['file_name']}"
                    next(Path(f"made/{split}").rglob(image["file_name"])).rename(f"photos/{name}")
                    image["file_name"] = name
                Path(f"{split}.json").write_text(json.dumps(labels))
            shutil.copy(next(Path("photos").iterdir()), "street.jpg")
            shutil.copy("train.json", "boxes.json")
            for name in ("rtmdet.onnx", "yolox.onnx"):
                with_nms(Path(name))
            torch.save(build_model("hrnet_small", Heads(joints=17, projection=None)).state_dict(), "hrnet_w32.pth")
            film(Path("match.mp4"), Path("street.jpg"))
            for split in ("train", "val"):
                os.symlink("photos", f"{split}2017")
                os.symlink(f"{split}.json", f"person_keypoints_{split}2017.json")
                packed = ["--annotations", f"{split}.json", "--images", "photos", "--out", f"data/coco/{split}"]
                run(["shards", "build", "coco", *packed, "--jobs", "1"])
            shutil.copytree("data/coco", "data/lsp")
            run(["train", "--cfg", "coco", "data.val=data/coco/val"])
            run(["fetch", "runs/coco", "--best", "-o", "best.safetensors"])
            for name in ("lsp", "base-0", "base-1", "icon-0", "icon-1"):
                shutil.copytree("runs/coco", f"runs/{name}")

    return once(tmp_path_factory, "desk", make)


def film(file: Path, photo: Path) -> None:
    """A video of four frames."""
    frame = cv2.imread(str(photo))
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10, frame.shape[1::-1])
    for _ in range(4):
        video.write(frame)
    video.release()


def upload(folder: Path, bucket: str, prefix: str) -> None:
    """A folder as objects."""
    client = boto3.session.Session().client("s3")
    for file in (path for path in folder.rglob("*") if path.is_file()):
        client.upload_file(str(file), bucket, f"{prefix}/{file.relative_to(folder)}")


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_what_a_page_says_can_be_typed(
    name: str, desk: Path, tmp_path: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = [*blocks(ROOT / name)]
    if not todo:
        return
    del s3_endpoint
    bucket = boto3.session.Session().resource("s3").create_bucket(Bucket="bucket")
    bucket.objects.all().delete()  # of other pages
    monkeypatch.chdir(shutil.copytree(desk, tmp_path / "desk", symlinks=True))
    if name == "docs/evaluation.md":
        upload(Path("data/coco/val"), "bucket", "coco/val")
    upload(Path("runs/coco"), "bucket", "runs/coco")
    if any(words[0] == "fetch" and "best.safetensors" in words for _, text in todo for words in lines(text)):
        Path("best.safetensors").unlink()  # the page writes it, and a file that is there is never replaced
    for language, text in todo:
        if language == "python":
            exec(compile(text, name, "exec"), {})  # noqa: S102
        else:
            for words in lines(text):
                run(words)
