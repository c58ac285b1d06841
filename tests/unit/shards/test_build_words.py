"""The words of ``shards build``: what is refused before any file is opened."""

from __future__ import annotations

import pytest

from icon_dist.errors import DataError
from icon_dist.shards.build import parse


@pytest.mark.parametrize(
    "words",
    [
        "coco --annotations a.json --images s3://bucket/photos",
        "coco --annotations s3://bucket/a.json --images photos",
        "yolo s3://bucket/data.yaml",
        "yolo data.yaml --images gs://bucket/photos",
        "labelstudio export.json --images https://host.example/photos",
        "coco a.json --images photos --boxes s3://bucket/boxes.json",
    ],
)
def test_what_is_read_lies_on_a_disk(words: str) -> None:
    with pytest.raises(
        DataError, match=r"--.*://.*: labels and photos are read from a disk; copy .* only --out may be s3"
    ):
        parse([*words.split(), "--out", "s3://bucket/shards"])
