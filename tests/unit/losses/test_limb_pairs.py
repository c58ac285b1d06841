"""Chains along bones: each once, against all permutations of joints."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest

from icon_dist.config import LossConfig
from icon_dist.datasets import load_skeleton
from icon_dist.losses.limb_pairs import ORDERS, chains, relations
from icon_dist.losses.options import Options
from icon_dist.methods.objective import icon_of


@pytest.mark.parametrize("name", ["coco", "mpii", "crowdpose", "lsp"])
@pytest.mark.parametrize("relation", ["triplets", "quadruples"])
def test_every_path_is_there_once(name: str, relation: str) -> None:
    skeleton, order = load_skeleton(name), ORDERS[relation]
    links = {frozenset(bone) for bone in (*skeleton.limbs, *skeleton.bones)}
    paths = {
        joints
        for joints in itertools.permutations(range(skeleton.num_joints), order)
        if joints[0] < joints[-1] and all(frozenset(pair) in links for pair in itertools.pairwise(joints))
    }
    found = relations(skeleton, relation)
    assert len(found) == len(paths)
    assert set(found) == paths


def test_pairs_are_the_limbs_of_the_skeleton() -> None:
    skeleton = load_skeleton("coco")
    assert relations(skeleton, "pairs") == [*skeleton.limbs]
    assert chains([(0, 1)], 3) == []


@pytest.mark.parametrize(("relation", "categories"), [("pairs", 8), ("triplets", 31), ("quadruples", 50)])
def test_the_config_chooses(relation: Literal["pairs", "triplets", "quadruples"], categories: int) -> None:
    cfg = LossConfig(relation=relation)
    loss = icon_of(cfg, load_skeleton("coco"), dim=4, options=Options())
    assert loss is not None
    assert loss.state_dict()["prcc.features"].shape == (categories, 512, 4)
