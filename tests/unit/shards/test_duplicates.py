"""Photos that are in two sets: found when cut, scaled and encoded again, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from icon_dist.errors import DataError
from icon_dist.shards import verification
from icon_dist.shards.duplicates import likeness, near_twins
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.writer import SetInfo, build
from icon_dist.types import Annotations, Instance
from tests.support.small_sets import skeleton

Photo = np.ndarray
COUNT = 12


def scene(seed: int) -> Photo:
    """240 x 180 px with structure of all sizes, as photos have it."""
    random, picture = np.random.default_rng(seed), np.zeros((180, 240, 3), np.float32)
    for side in (3, 6, 12, 24, 48, 96):
        noise = random.normal(0, 20, (side, side * 4 // 3, 3)).astype(np.float32)
        picture += cv2.resize(noise, (240, 180), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def shards_of(photos: list[Photo], folder: Path) -> str:
    """A set of one thing a photo, in all of it."""
    folder.mkdir()
    things, images, entries = [], [], []
    for number, photo in enumerate(photos):
        cv2.imwrite(str(folder / f"{folder.name}{number}.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, 92])
        height, width = photo.shape[:2]
        points = np.array([[width / 3, height / 3, 2], [width / 2, height / 2, 2]], np.float32)
        box = (5.0, 5.0, width - 10.0, height - 10.0)
        file = f"{folder.name}{number}.jpg"
        things.append(Instance(number, number, file, (width, height), box, 9000.0, points))
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        entry = {"id": number, "image_id": number, "category_id": 1, "bbox": [*box], "area": 9000.0, "iscrowd": 0}
        entries.append(entry | {"num_keypoints": 2, "keypoints": points.ravel().tolist()})
    whole = Annotations(skeleton("thing", joints=2), things, {"images": images, "annotations": entries})
    build(whole, str(folder), str(folder / "out"), SetInfo(dataset="custom", split=folder.name))
    return str(folder / "out")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A set, and another of which photos 2, 5 and 7 are its 0, 1 and 2: encoded again, smaller, and cut."""
    root = tmp_path_factory.mktemp("sets")
    mine = [scene(seed) for seed in range(COUNT)]
    theirs = [scene(100 + seed) for seed in range(COUNT)]
    theirs[2] = cv2.imdecode(cv2.imencode(".jpg", mine[0], [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    theirs[5] = cv2.resize(mine[1], None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    theirs[7] = mine[2][10:168, 20:235]
    return shards_of(mine, root / "mine"), shards_of(theirs, root / "theirs")


def test_twins_are_named(sets: tuple[str, str]) -> None:
    mine, theirs = map(open_shards, sets)
    found = list(near_twins(mine, theirs))
    for number, other in ((0, 2), (1, 5), (2, 7)):
        assert sum(line.startswith(f"mine{number}.jpg is theirs{other}.jpg of {theirs.uri}, ") for line in found) == 1
    assert len(found) == 3
    assert "(person 0 and 2)" in found[0]


def test_others_are_not_alike() -> None:
    small = [cv2.resize(cv2.cvtColor(scene(seed), cv2.COLOR_BGR2GRAY), (64, 48)) for seed in range(8)]
    assert max(likeness(a, b) for a in small[:4] for b in small[4:]) < 0.6
    assert likeness(small[0], small[0]) > 0.99
    flat = np.full((48, 64), 90, np.uint8)
    assert likeness(flat, flat) == likeness(flat, small[0]) == 0


def test_verify_finds_them(sets: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    mine, theirs = sets
    with pytest.raises(DataError, match="3 findings, listed above"):
        verification.run(mine, against=theirs)
    assert capsys.readouterr().out.count("FOUND mine") == 3
    with pytest.raises(DataError, match=r"--against .*: is the same set; give the other split"):
        verification.run(mine, against=mine)
