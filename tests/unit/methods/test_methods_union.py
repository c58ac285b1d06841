"""A joint that a set does not have teaches nothing on its people: gradients are exactly zero, banks stay empty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from icon_dist.codec import codec_of
from icon_dist.config import Config, load
from icon_dist.methods.from_config import method_of
from icon_dist.methods.supervised import JointsOfSets, present
from icon_dist.models import PoseNet, from_config
from icon_dist.models.two_students import Pair
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.union import ShardUnion, union_of
from icon_dist.types import Batch, Outputs
from tests.support import two_sets
from tests.support.small_sets import TRAINING
from tests.support.streams import eval_stream

CONTRAST = ("loss.skcc.query=all", "loss.skcc.negative=all", "loss.prcc.query=all", "loss.prcc.negative=all")


@pytest.fixture(scope="module")
def union(tmp_path_factory: pytest.TempPathFactory) -> ShardUnion:
    folder = tmp_path_factory.mktemp("union")
    found = union_of([open_shards(two_sets.heads(folder)), open_shards(two_sets.hands(folder))])
    assert isinstance(found, ShardUnion)
    return found


def people(union: ShardUnion, rows: list[int]) -> Batch:
    (batch,) = eval_stream(union, batch=len(rows), input_hw=(32, 32), rows=np.array(rows))
    return batch


def config(*more: str) -> Config:
    return load("lsp", [*TRAINING, "data.train=x", "loss.start_epoch=0", "loss.ramp_epochs=0", *CONTRAST, *more])


def rows_with_gradient(layer: torch.nn.Module) -> list[bool]:
    assert isinstance(layer.weight, Tensor)
    assert isinstance(layer.bias, Tensor)
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    weight, bias = layer.weight.grad.flatten(1).ne(0).any(1), layer.bias.grad.ne(0)
    assert torch.equal(weight, bias)
    return weight.tolist()


@pytest.mark.parametrize(("number", "rows"), [(0, [0, 1, 2, 3]), (1, [8, 9, 10, 11])])
@pytest.mark.parametrize("reads", ["heatmaps", "both"])
def test_head_rows_of_absent_joints_get_no_gradient(
    union: ShardUnion, number: int, rows: list[int], reads: str
) -> None:
    cfg = config(*(["loss.lambda_p=0"] if reads == "heatmaps" else []))
    torch.manual_seed(0)
    model = from_config.build_trained(cfg, union.skeleton)
    assert isinstance(model, PoseNet)
    method = method_of(cfg, union.skeleton, model, micro_batch=4, teacher=None)
    losses = method(model, people(union, rows), step=0, epoch=1.0, diagnose=False)
    losses.total.backward()
    assert (losses.skcc.item() > 0) == (losses.prcc.item() > 0) == (reads == "both")
    assert rows_with_gradient(model.final_layer) == union.has_joint[number].tolist()


def test_absent_joints_are_neither_queries_nor_keys_nor_limbs(union: ShardUnion) -> None:
    """Wherever the loss would read them, it says the same; and only those that are there enter the banks."""
    cfg = config()
    torch.manual_seed(0)
    model = from_config.build_trained(cfg, union.skeleton)
    found = []
    for noise in (0.0, 30.0):
        batch = people(union, [8, 9, 10, 11])
        batch.joints[:, ~torch.from_numpy(union.has_joint[1])] = noise
        method = method_of(cfg, union.skeleton, model, micro_batch=4, teacher=None)
        losses = method(model, batch, step=0, epoch=1.0, diagnose=False)
        method.commit()
        state = method.state_dict()
        found.append(torch.stack([losses.total, losses.skcc, losses.prcc]).detach())
        filled = {name: value for name, value in state.items() if "count" in name or "filled" in name}
        assert filled, state.keys()
        has = torch.from_numpy(union.has_joint[1])
        limbs = torch.tensor([bool(has[a] & has[b]) for a, b in union.skeleton.limbs])
        for name, value in filled.items():
            assert torch.equal(value > 0, limbs if "prcc" in name else has), name
    assert torch.equal(*found)


def test_people_of_both_sets_share_keys_of_joints_that_both_have(union: ShardUnion) -> None:
    cfg = config()
    model = from_config.build_trained(cfg, union.skeleton)
    method = method_of(cfg, union.skeleton, model, micro_batch=2, teacher=None)
    alone = method(model, people(union, [0, 0]), step=0, epoch=1.0, diagnose=False)
    assert alone.skcc.item() == 0  # one person twice
    pair = method(model, people(union, [0, 8]), step=0, epoch=1.0, diagnose=False)
    assert pair.skcc.item() > 0


def test_presence_by_row(union: ShardUnion) -> None:
    has = np.array([[True, False], [True, True], [False, True]])
    rows = torch.tensor([0, 4, 5, 8, 9, -1])
    batch = people(union, [0] * len(rows))
    batch.row = rows
    of_sets = JointsOfSets([0, 5, 9], has)
    assert of_sets(rows).tolist() == has[[0, 0, 1, 1, 2, 0]].tolist()
    there = present(batch, of_sets)
    assert there[:5].tolist() == has[[0, 0, 1, 1, 2]].tolist()
    assert there[5].tolist() == [False, False]


@pytest.mark.parametrize("how", ["pseudo", "sspose"])
def test_a_teacher_says_nothing_of_joints_that_a_set_does_not_have(union: ShardUnion, how: str) -> None:
    """The last two people have no labels and are of the second set; the teacher is sure of everything."""
    teaches = ["semi.teacher=x"] if how == "pseudo" else []
    cfg = config("loss.lambda_p=0", f"semi.method={how}", "data.labelled=0.5", *teaches)
    torch.manual_seed(0)
    model = from_config.build_trained(cfg, union.skeleton)
    batch = people(union, [8, 9, 10, 11])
    batch.labelled[:] = batch.visible[:] = False
    maps = torch.zeros(2, union.skeleton.num_joints, *codec_of(cfg).hw)
    maps[:, :, 4, 4] = 1.0
    of_sets = JointsOfSets(union.starts.tolist(), union.has_joint)
    teacher = (lambda _: Outputs(maps)) if how == "pseudo" else None
    method = method_of(cfg, union.skeleton, model, micro_batch=4, teacher=teacher, has_joint=of_sets)
    method(model, batch, step=0, epoch=1.0, diagnose=False).total.backward()
    for net in (model.net1, model.net2) if isinstance(model, Pair) else (model,):
        assert rows_with_gradient(net.final_layer) == union.has_joint[1].tolist()
