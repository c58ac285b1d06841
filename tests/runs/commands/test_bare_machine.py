"""What a bare machine lacks is asked for only by who needs it: training from disk on one GPU needs little."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from jaxtyping import UInt8

from icon_dist.datasets import load_skeleton
from icon_dist.errors import ClusterError
from icon_dist.images import jpeg
from icon_dist.metrics.score import require_evaluator
from tests.support.paths import ROOT

ABSENT = (
    *("boto3", "botocore", "tenacity", "pycocotools", "simplejpeg", "ray", "deepspeed", "optuna", "sklearn"),
    *("tensorboard", "jinja2", "webdataset", "psutil"),
)
BARE = f"""
import runpy, sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        absent = name.partition(".")[0] in {ABSENT!r}
        return None if absent else self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def bare(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run code where of our dependencies only torch, numpy, scipy, cv2, pyarrow, safetensors, jaxtyping, omegaconf and
    yaml can be imported."""
    command = [sys.executable, "-c", BARE + code, *words]
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def test_an_epoch_with_contrast(people: Path, tmp_path: Path) -> None:
    values = {
        "data.train": people / "train",
        "data.val": people / "val",
        "data.loaders": 1,
        "data.input": "32x32",
        "model.embedding": 16,
        "loss.bank.warmup": 1,
        "optim.epochs": 1,
        "optim.batch": 32,
        "optim.milestones": "[]",
        "optim.warmup_steps": 0,
        "eval.engine": "fast",
        "run.dir": tmp_path,
        "run.log_every": 1,
    }
    train = "runpy.run_module('icon_dist.train', run_name='__main__', alter_sys=True)"
    ended = bare(train, "--cfg", "people", *(f"{key}={value}" for key, value in values.items()))
    assert ended.returncode == 0, ended.stderr
    assert "note: no TensorBoard files" in ended.stderr
    assert "complete: step 2 of 2" in ended.stderr
    assert len((tmp_path / "people/metrics.jsonl").read_text().splitlines()) == 3


def test_what_s3_needs_is_named() -> None:
    ended = bare(
        "from icon_dist import command_exit, storage; command_exit.run_cli(lambda _: storage.exists('s3://bucket/key'))"
    )
    assert ended.stderr == "icon_dist: error: s3://: needs boto3, which is not here; pip install boto3 tenacity\n"
    assert ended.returncode == 7


def test_the_package_of_an_engine_is_asked_for_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycocotools", "pycocotools.cocoeval"):
        monkeypatch.setitem(sys.modules, name, None)
    coco, lsp = load_skeleton("coco"), load_skeleton("lsp")
    require_evaluator(coco, engine="fast")
    require_evaluator(lsp, engine="pycocotools")  # PCK
    with pytest.raises(ClusterError, match=r"engine=pycocotools .* needs pycocotools, .*; pip install pycocotools$"):
        require_evaluator(coco, engine="pycocotools")


def pixels(seed: int, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    small = np.random.default_rng(seed).integers(0, 256, (height // 9 + 2, width // 9 + 2, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height)), np.uint8)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_opencv_decodes_the_same_bits(monkeypatch: pytest.MonkeyPatch, subsampling: int, progressive: bool) -> None:
    from PIL import Image

    for seed, (width, height) in enumerate([(33, 41), (64, 64), (201, 97)]):
        sink = io.BytesIO()
        image = Image.fromarray(pixels(seed, width, height))
        image.save(sink, "JPEG", quality=60 + 15 * seed, subsampling=subsampling, progressive=progressive)
        for colorspace in ("RGBX", "BGR"):
            right = jpeg.decode_jpeg(sink.getvalue(), colorspace=colorspace)
            buffer = np.empty_like(right)
            with monkeypatch.context() as bare_machine:
                bare_machine.setattr(jpeg, "simplejpeg", None)
                found = jpeg.decode_jpeg(sink.getvalue(), colorspace=colorspace, buffer=buffer)
                assert found is buffer
                for cut in (len(sink.getvalue()) - 40, len(sink.getvalue()) - 2):
                    with pytest.raises(ValueError, match="Premature end"):
                        jpeg.decode_jpeg(sink.getvalue()[:cut], colorspace=colorspace)
            assert np.array_equal(found, right)
