"""What is prepared for a bare machine is what the originals say, only smaller."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from icon_dist.shards.manifest import read_truth
from icon_dist.shards.shard_set import open_shards
from tests.gpu import prepare


def test_small_photos_with_their_joints(tmp_path: Path) -> None:
    """Of white squares on black, around joints: they are found where the shards say."""
    photos, sizes = tmp_path / "lsp", [(300, 448), (120, 90)]
    (photos / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, first in (("lspet_full14", 1), ("lsp_train", 11)):
        images, people = [], []
        for number, (width, height) in enumerate(sizes, start=first):
            xy = rng.integers(20, (width - 20, height - 20), (14, 2))
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[xy[0, 1] - 4 : xy[0, 1] + 5, xy[0, 0] - 4 : xy[0, 0] + 5] = 255
            cv2.imwrite(str(photos / "images" / f"{number}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])
            images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
            joints = np.column_stack([xy, np.full(14, 2)]).ravel().tolist()
            person = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "num_keypoints": 14}
            people.append({**person, "bbox": [10, 10, width - 20, height - 20], "area": 5000, "keypoints": joints})
        document = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
        (photos / f"{name}.json").write_text(json.dumps(document))
    prepare.main(["--photos", str(photos), "--out", str(tmp_path / "out")])
    for split in ("train", "val"):
        shards = open_shards(str(tmp_path / "out" / split), input_hw=(256, 192))
        assert sorted(map(tuple, shards.photo_wh.tolist())) == [(120, 90), (150, 224)]
        for row, person in enumerate(shards.instance.tolist()):
            x, y, _ = shards.keypoints[row, 0]
            stored = shards.to_stored(np.array([row]))[0] @ [x, y, 1]
            data = (tmp_path / "out" / split / shards.shard_names[0]).read_bytes()
            crop = data[shards.offset[row] : shards.offset[row] + shards.size[row]]
            gray = cv2.imdecode(np.frombuffer(crop, np.uint8), cv2.IMREAD_GRAYSCALE) > 128
            center = np.argwhere(gray).mean(0)[::-1]
            assert center == pytest.approx(stored, abs=0.3), person
        truth = read_truth(str(tmp_path / "out" / split))
        assert sorted(round(one["area"]) for one in truth["annotations"]) == [1250, 5000]
