"""Several sets as one: rows, ids and joints against loops over the sets."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from icon_dist.errors import ConfigError
from icon_dist.shards.label_split import refuse_leak, split
from icon_dist.shards.reader import ShardReader
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.shards.union import ShardUnion, describe, labels_of, union_notes, union_of
from tests.support import two_sets
from tests.support.two_sets import HANDS, HEADS, JOINTS


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardSet, ShardSet]:
    folder = tmp_path_factory.mktemp("union")
    return open_shards(two_sets.heads(folder)), open_shards(two_sets.hands(folder))


@pytest.fixture(scope="module")
def union(sets: tuple[ShardSet, ShardSet]) -> ShardUnion:
    found = union_of(sets)
    assert isinstance(found, ShardUnion)
    return found


def test_one_set_is_itself(sets: tuple[ShardSet, ShardSet]) -> None:
    assert union_of(sets[:1]) is sets[0]


def test_every_row_is_a_row_of_its_set(sets: tuple[ShardSet, ShardSet], union: ShardUnion) -> None:
    assert len(union) == 14
    assert union.starts.tolist() == [0, 8]
    reader, readers = ShardReader(union), [ShardReader(one) for one in sets]
    for row in range(len(union)):
        number, own = (0, row) if row < 8 else (1, row - 8)
        part = sets[number]
        assert union.key[row] == part.key[own]
        assert reader.read(row) == readers[number].read(own)
        for name in ("box", "area", "score", "window", "stored_wh", "photo_wh"):
            np.testing.assert_array_equal(getattr(union, name)[row], getattr(part, name)[own])
        np.testing.assert_array_equal(union.to_stored(np.array([row])), part.to_stored(np.array([own])))
        for joint, name in enumerate(JOINTS):
            found = union.keypoints[row, joint]
            if name in part.skeleton.joints:
                x, y, v = part.keypoints[own, part.skeleton.joints.index(name)]
                assert found.tolist() == [x, y, 2 if number else v]  # v = 1 is visible in the second set
            else:
                assert found.tolist() == [0, 0, 0]


def test_which_set_has_which_joint(union: ShardUnion) -> None:
    expected = [[name in one.joints for name in JOINTS] for one in (HEADS, HANDS)]
    assert union.has_joint.tolist() == expected
    assert union.has_halves.tolist() == [True] * 8 + [False] * 6


def test_ids_are_apart(sets: tuple[ShardSet, ShardSet], union: ShardUnion) -> None:
    assert len(np.unique(union.instance)) == 14
    np.testing.assert_array_equal(union.instance[:8], sets[0].instance)
    np.testing.assert_array_equal(union.instance[8:] - sets[1].instance, 8)  # past the largest, 7
    assert not {*union.image_id[:8].tolist()} & {*union.image_id[8:].tolist()}
    far = dataclasses.replace(sets[1], instance=sets[1].instance + (1 << 62))
    assert sorted(union_of([sets[0], far]).instance.tolist()) == [*range(14)]
    negative = dataclasses.replace(sets[1], instance=sets[1].instance - 100)
    assert len(np.unique(union_of([sets[0], negative]).instance)) == 14


def test_another_order_is_another_union(sets: tuple[ShardSet, ShardSet], union: ShardUnion) -> None:
    turned = union_of(sets[::-1])
    assert turned.skeleton.joints == ("neck", "right_hand", "left_hand", "tail", "nose", "left_eye", "right_eye")
    assert turned.index_sha256 != union.index_sha256
    assert turned.skeleton.metric == "pck"


def test_what_a_plan_and_a_card_say(sets: tuple[ShardSet, ShardSet], union: ShardUnion) -> None:
    assert describe(union) == [
        "joints      7: the 5 of heads, then neck, tail of hands",
        "            heads  8 people, 5 joints: without neck, tail",
        "            hands  6 people, 4 joints: without nose, left_eye, right_eye",
    ]
    assert not [*union_notes(union)]
    assert (union.origin["dataset"], union.origin["split"], union.origin["people"]) == ("custom", "heads + hands", 14)
    assert union.origin["licence"] is None
    again = union_of([sets[0], dataclasses.replace(sets[0], uri="elsewhere")])
    assert isinstance(again, ShardUnion)
    assert "elsewhere is a copy of" in next(iter(union_notes(again)))
    other = dataclasses.replace(sets[1], skeleton=dataclasses.replace(HANDS, sigmas=(0.05, 0.07, 0.07, 0.09)))
    found = union_of([sets[0], other])
    assert isinstance(found, ShardUnion)
    assert "hands has other sigmas" in next(iter(union_notes(found)))


@pytest.mark.parametrize(
    ("uris", "labels"),
    [
        (["/data/coco", "/data/lsp"], ("coco", "lsp")),
        (["/data/coco/train/", "s3://b/lsp/train"], ("coco/train", "lsp/train")),
        (["/a/x/train", "/b/x/train", "/a/y/train"], ("a/x/train", "b/x/train", "a/y/train")),
        (["s3://b/train", "/b/train"], ("s3:/b/train", "b/train")),
    ],
)
def test_short_names(uris: list[str], labels: tuple[str, ...]) -> None:
    assert labels_of(uris) == labels


def said(index: str, split_record: dict[str, Any], sets: list[dict[str, str]] | None = None) -> Any:
    return SimpleNamespace(split=split_record, index=index, data={"sets": sets} if sets else None)


def test_labels_that_another_run_has_seen(sets: tuple[ShardSet, ShardSet], union: ShardUnion) -> None:
    """Of the whole union, of one of its sets, or of a union with one of its sets."""
    half = split(union.instance, share=0.5, seed=0)
    everybody = {"share": 1.0, "seed": 0}
    refuse_leak("x", said(union.index_sha256, half.record()), half, union)
    refuse_leak("x", said("of others", everybody), half, union)
    for index, others in (
        (union.index_sha256, None),
        (sets[1].index_sha256, None),
        ("of another union", [{"index": sets[1].index_sha256}]),
    ):
        with pytest.raises(ConfigError, match=r"was trained with the labels of . people, unlabelled here"):
            refuse_leak("x", said(index, everybody, others), half, union)
        whole = split(union.instance, share=1.0, seed=0)
        refuse_leak("x", said(index, everybody, others), whole, union)
    alone = split(sets[1].instance, share=0.5, seed=0)
    with pytest.raises(ConfigError, match="was trained with the labels"):
        refuse_leak("x", said(union.index_sha256, half.record(), union.origin["sets"]), alone, sets[1])


def test_people_packed_again_are_known_by_their_ids(sets: tuple[ShardSet, ShardSet], union: ShardUnion) -> None:
    """Other options make another index of the same people, whose labels may then be known."""
    half = split(union.instance, share=0.5, seed=0)
    for part, first in ((union, 0), (sets[0], 0), (sets[1], 8)):
        known = split(part.instance, share=1.0, seed=0).record()
        hidden = len({*range(first, first + len(part))} - {*half.labelled.tolist()})
        text = refuse_leak("x", said("packed with other options", dict(known)), half, union)
        assert f"knows the labels of {hidden} p" in text
    theirs = dict(half.record())
    assert refuse_leak("x", said("packed with other options", theirs), half, union) == ""
    others = dict(split(union.instance + 100, share=1.0, seed=0).record())
    assert refuse_leak("x", said("of others", others), half, union) == ""
