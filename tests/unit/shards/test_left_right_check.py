"""Exchanged sides are found in real labels, and real labels are not accused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from icon_dist import datasets
from icon_dist.shards.left_right_check import signs, wrong_flips
from icon_dist.types import Skeleton

SETS = [
    ("coco", "coco/person_keypoints_val2017_rebuilt.json.gz", None),
    ("crowdpose", "crowdpose/crowdpose_val.json.gz", None),
    ("custom", "lsp/lspet_full14.json", "lsp"),
    ("custom", "lsp/lspet_partial.json", "lsp"),
    ("custom", "lsp/lsp_train.json", "lsp"),
]


@pytest.fixture(scope="module", params=SETS, ids=[s[1] for s in SETS])
def real(request: pytest.FixtureRequest, shared: Path) -> tuple[NDArray[np.float32], Skeleton]:
    name, file, skeleton = request.param
    found = datasets.read(name, shared / file, skeleton=skeleton)
    return np.stack([p.keypoints for p in found.instances]), found.skeleton


def alarms(keypoints: NDArray[np.float32], skeleton: Skeleton) -> str:
    return "; ".join(sign.what for sign in signs(keypoints, skeleton) if sign.alarming)


def test_real_labels_pass(real: tuple[NDArray[np.float32], Skeleton]) -> None:
    keypoints, skeleton = real
    judged = signs(keypoints, skeleton)
    assert not alarms(keypoints, skeleton)
    assert sum(sign.people > 100 for sign in judged) >= 6, "nothing was judged"


@pytest.mark.parametrize("part", ["elbow", "knee", "ankle", "hip", "shoulder", "wrist"])
def test_one_exchanged_pair_is_found(real: tuple[NDArray[np.float32], Skeleton], part: str) -> None:
    keypoints, skeleton = real
    pairs = [p for p in skeleton.flips if part in skeleton.joints[p[0]]]
    assert pairs
    for a, b in pairs:
        exchanged = keypoints.copy()
        exchanged[:, [a, b]] = keypoints[:, [b, a]]
        assert part in alarms(exchanged, skeleton)


def test_whole_bodies_exchanged_are_found(real: tuple[NDArray[np.float32], Skeleton]) -> None:
    keypoints, skeleton = real
    exchanged = keypoints.copy()
    for a, b in skeleton.flips:
        exchanged[:, [a, b]] = keypoints[:, [b, a]]
    assert alarms(exchanged, skeleton).startswith("left shoulder on the right")


def test_a_fifth_of_the_photos_mirrored_is_found_with_faces(shared: Path) -> None:
    found = datasets.read("coco", shared / SETS[0][1])
    keypoints = np.stack([p.keypoints for p in found.instances])
    keypoints[::5, :, 0] = 640 - keypoints[::5, :, 0]
    assert "nose and eyes" in alarms(keypoints, found.skeleton)


def test_few_people_are_not_judged(real: tuple[NDArray[np.float32], Skeleton]) -> None:
    keypoints, skeleton = real
    exchanged = keypoints[:10].copy()
    for a, b in skeleton.flips[:2]:
        exchanged[:, [a, b]] = exchanged[:, [b, a]]
    assert not alarms(exchanged, skeleton)


def test_flips_follow_the_names() -> None:
    for name in ("coco", "mpii", "crowdpose", "lsp"):
        assert not wrong_flips(datasets.load_skeleton(name))
    coco = datasets.load_skeleton("coco")
    wrong = dataclasses.replace(coco, flips=((1, 4), (3, 2), *coco.flips[2:]))
    assert len(wrong_flips(wrong)) == 2
    assert "left_eye and right_eye are not a pair" in wrong_flips(wrong)[0]
    assert len(wrong_flips(dataclasses.replace(coco, flips=coco.flips[1:]))) == 1
    exchanged = datasets.load_skeleton("mpii")  # whose names are rank, lkne ...
    exchanged = dataclasses.replace(exchanged, flips=((0, 4), (1, 5), *exchanged.flips[2:]))
    assert [text.partition(": ")[2][:13] for text in wrong_flips(exchanged)] == ["rank and lank", "rkne and lkne"]


def test_animals_are_not_upright(shared: Path) -> None:
    """People with exchanged sides are found; quadrupeds face the camera either way, and have other joints."""
    found = datasets.read("coco", shared / SETS[0][1])
    keypoints = np.stack([p.keypoints for p in found.instances])[:, found.skeleton.mirrored]
    assert "left shoulder on the right" in alarms(keypoints, found.skeleton)
    animal = {"wrist": "front_paw", "ankle": "back_paw"}
    names = tuple(next((n.replace(k, v) for k, v in animal.items() if k in n), n) for n in found.skeleton.joints)
    assert not alarms(keypoints, dataclasses.replace(found.skeleton, joints=names))
    tail = (*found.skeleton.joints[:-1], "tail")
    assert not alarms(keypoints, dataclasses.replace(found.skeleton, joints=tail))
