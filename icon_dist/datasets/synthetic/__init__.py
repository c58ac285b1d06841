"""Generated people: seeded photos with COCO-17 labels, for the demo and for tests without data.

Photo ``i`` is a pure function of (seed, i, difficulty), so any number of processes draws the same set. Pictures come
from scene (people and labels) < place, body (clothes) < pose (kinematics), canvas (z-buffer).
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from icon_dist import storage
from icon_dist.datasets import coco
from icon_dist.datasets.annotation_file import Faults, load
from icon_dist.datasets.coco_json import people_of
from icon_dist.datasets.synthetic.scene import LEVELS, render
from icon_dist.errors import ConfigError
from icon_dist.types import Annotations, Label, Skeleton, TruthImage, TruthPerson

__all__ = ["SKELETON", "generate", "read", "render"]

SKELETON: Skeleton = replace(coco.SKELETON, name="synthetic", metric="pck", torso=(5, 12))
JPEG_QUALITY = 92
AHEAD = 64  # photos per round: how many may be drawn in vain at the end

Photo = tuple[bytes, tuple[int, int], list[Label]]  # JPEG, width and height, annotations without ids


def read(annotations: str | Path, *, images: str | Path | None = None, drop_invalid: bool = False) -> Annotations:
    """The ``annotations.json`` of :func:`generate`; people hardly in sight stay in the truth only."""
    return people_of(load(annotations), Faults(annotations, drop=drop_invalid), skeleton=SKELETON, images=images)


def generate(
    out: Path,
    *,
    people: int,
    seed: int,
    difficulty: str = "easy",
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``out/images/*.jpg``, then ``out/annotations.json`` with at least ``people`` labelled people.

    The last photo is kept whole, so there may be up to three more. The same set already there is left as it is.
    ``progress`` gets (people so far, people wanted). Bytes depend on the arguments only, not on ``jobs``.
    """
    if people < 1 or seed < 0 or jobs < 1 or difficulty not in LEVELS:
        given = f"people={people} seed={seed} difficulty={difficulty} jobs={jobs}"
        raise ConfigError(f"{given}: people and jobs start at 1, seed at 0, difficulty is {' or '.join(LEVELS)}")
    file = out / "annotations.json"
    info = {"description": "icon_dist generated people", "people": people, "seed": seed, "difficulty": difficulty}
    if file.exists():
        if _info(file) != info:
            raise ConfigError(f"{file}: holds other annotations than {info}; give another folder, or delete it first")
        return file

    images: list[TruthImage] = []
    annotations: list[TruthPerson] = []
    count = 0
    with _mapping(jobs) as map_photos:
        for index, (jpeg, (width, height), labels) in enumerate(_photos(map_photos, seed=seed, difficulty=difficulty)):
            name = f"{index:06d}.jpg"
            storage.write(str(out / "images" / name), jpeg)
            images.append({"id": index, "file_name": name, "width": width, "height": height})
            annotations += [{"id": len(annotations) + k, "image_id": index, **a} for k, a in enumerate(labels)]
            count += sum(a["num_keypoints"] > 0 for a in labels)
            if progress is not None:
                progress(min(count, people), people)
            if count >= people:
                break
    category = {"id": 1, "name": "person", "keypoints": list(SKELETON.joints)}
    category["skeleton"] = [[a + 1, b + 1] for a, b in SKELETON.bones]
    document = {"info": info, "images": images, "annotations": annotations, "categories": [category]}
    storage.write(str(file), json.dumps(document).encode())
    return file


def _info(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())["info"]
    except (ValueError, KeyError, TypeError):
        return None


def _photos(map_photos: Callable[..., Iterator[Photo]], *, seed: int, difficulty: str) -> Iterator[Photo]:
    """Photos 0, 1, 2, ... without end, drawn a round at a time."""
    draw = partial(_photo, seed=seed, difficulty=difficulty)
    start = 0
    while True:
        yield from map_photos(draw, range(start, start + AHEAD))
        start += AHEAD


def _photo(index: int, *, seed: int, difficulty: str) -> Photo:
    image, labels = render(seed, index, difficulty=difficulty)
    done, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return jpeg.tobytes(), (image.shape[1], image.shape[0]), labels


@contextmanager
def _mapping(jobs: int) -> Iterator[Callable[..., Iterator[Photo]]]:
    """``map`` in this process or over ``jobs`` others, forked from a fresh one: the caller may have threads."""
    if jobs == 1:
        yield map
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch comes with it: imported once, not once a process
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield partial(pool.map, chunksize=4)
