"""A small shard set of photos made here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine people in three shards, of photos made here."""
    import cv2
    import numpy as np

    from icon_dist.datasets import load_skeleton
    from icon_dist.shards.tar import Settings
    from icon_dist.shards.writer import SetInfo, build
    from icon_dist.types import Annotations, Instance, TruthImage

    root = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    instances, images = list[Instance](), list[TruthImage]()
    for i in range(9):
        cv2.imwrite(str(root / f"{i}.jpg"), rng.integers(0, 255, (300, 200, 3), dtype=np.uint8))
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 300})
        keypoints = np.column_stack([rng.uniform(50, 150, (17, 2)), np.full(17, 2)]).astype(np.float32)
        box = (60.0 + i, 90.0, 50.0, 120.0)
        instances.append(Instance(i, i, f"{i}.jpg", (200, 300), box, 6000.0, keypoints))
    annotations = Annotations(load_skeleton("coco"), instances, {"images": images, "annotations": []})
    settings = Settings(per_shard=3, max_input=(64, 48))
    build(annotations, str(root), str(root / "out"), SetInfo(dataset="coco", split="made"), settings=settings)
    return root / "out"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))
