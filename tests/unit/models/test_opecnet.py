"""OPEC-Net: its graph, where it reads features, and its shapes as published."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from icon_dist.codec import Codec
from icon_dist.datasets import coco, crowdpose, load_skeleton, mpii
from icon_dist.errors import ConfigError
from icon_dist.models import Heads, PoseNet, build_model
from icon_dist.models.graph_convolution import GraphConv, ResidualGraphConv, listening
from icon_dist.models.opecnet import FeatureCascade, OPECNet, ProgressiveGraph, centroids, read
from icon_dist.types import Skeleton

HW = (64, 96)
SKELETONS = [coco.SKELETON, crowdpose.SKELETON, mpii.SKELETON, load_skeleton("lsp")]
EDGES = [(0, 1), (1, 2), (1, 3)]  # a star of four joints


def built(
    skeleton: Skeleton, *, name: str = "opecnet_resnet18", projection: str | None = None, sigma: float = 2.0
) -> PoseNet:
    torch.manual_seed(0)
    bones, joints = skeleton.bones + skeleton.limbs, skeleton.num_joints
    heads = Heads(joints=joints, projection=projection, embedding=16, bones=bones, input_hw=HW, sigma=sigma)
    return build_model(name, heads)


def photos(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, *HW, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------------------------------------ graph


@pytest.mark.parametrize("skeleton", SKELETONS, ids=lambda s: s.name)
def test_attention_starts_as_the_normalized_adjacency(skeleton: Skeleton) -> None:
    k = skeleton.num_joints
    adjacency = torch.eye(k)
    for a, b in (*skeleton.bones, *skeleton.limbs):
        adjacency[a, b] = adjacency[b, a] = 1
    for row in adjacency:
        row /= row.sum()
    conv = GraphConv(3, 5, joints=k, edges=listening(k, skeleton.bones + skeleton.limbs))
    torch.testing.assert_close(conv.attention(), adjacency)
    reached = torch.linalg.matrix_power(adjacency, k) > 0
    assert reached[0].all(), "some joint hears nothing of the first"


def test_graph_convolution_equals_its_loop() -> None:
    torch.manual_seed(0)
    conv = GraphConv(3, 5, joints=4, edges=listening(4, EDGES)).double()
    nn.init.normal_(conv.logits)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    neighbors = {0: [0, 1], 1: [0, 1, 2, 3], 2: [1, 2], 3: [1, 3]}
    logit = dict(zip(listening(4, EDGES), conv.logits.tolist(), strict=True))
    assert set(logit) == {(i, j) for i, js in neighbors.items() for j in js}
    expected = torch.zeros(2, 4, 5, dtype=torch.float64)
    for i, js in neighbors.items():
        total = sum(math.exp(logit[i, j]) for j in js)
        for j in js:
            message = x[:, j] @ conv.weight[0 if i == j else 1]
            expected[:, i] += math.exp(logit[i, j]) / total * message
    torch.testing.assert_close(conv(x), expected + conv.bias)


def test_batch_norm_sees_all_joints_of_all_people() -> None:
    """As BatchNorm1d over [N D K], which is how the public code has it."""
    torch.manual_seed(0)
    block = ResidualGraphConv(8, joints=4, edges=listening(4, EDGES))
    x = torch.randn(3, 4, 8)
    before = x + block.expand(block.reduce(x))
    expected = nn.BatchNorm1d(8)(before.mT).mT.relu()
    gain = block.attend(expected.mean(1))
    torch.testing.assert_close(block(x), expected + expected * gain[:, :, None])


# ------------------------------------------------------------------------------------------------------ coordinates


def test_centroid_is_the_mean_under_the_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    for n in range(2):
        for k in range(3):
            mass = logits[n, k].exp() / logits[n, k].exp().sum()
            x = sum(mass[i, j] * j for i in range(4) for j in range(5))
            y = sum(mass[i, j] * i for i in range(4) for j in range(5))
            torch.testing.assert_close(centroids(logits)[n, k], torch.stack([torch.as_tensor(x), torch.as_tensor(y)]))


def test_features_are_read_bilinearly_at_the_joints() -> None:
    g = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 4, 6, generator=g, dtype=torch.float64)
    xy = torch.rand(2, 5, 2, generator=g, dtype=torch.float64) * torch.tensor([47.0, 31.0])  # some beyond (40, 24)
    found = read(features, xy, stride=8)
    for n in range(2):
        for k in range(5):
            u, v = min(xy[n, k, 0].item() / 8, 5), min(xy[n, k, 1].item() / 8, 3)
            i, j = min(int(v), 2), min(int(u), 4)
            a, b = v - i, u - j
            top = (1 - b) * features[n, :, i, j] + b * features[n, :, i, j + 1]
            bottom = (1 - b) * features[n, :, i + 1, j] + b * features[n, :, i + 1, j + 1]
            torch.testing.assert_close(found[n, k], (1 - a) * top + a * bottom)


# ------------------------------------------------------------------------------------------------------------ model


@pytest.mark.parametrize("skeleton", SKELETONS, ids=lambda s: s.name)
def test_joints_of_every_skeleton_in_input_pixels(skeleton: Skeleton) -> None:
    model = built(skeleton, projection="mlp").train()
    out = model(photos())
    assert out.joints is not None
    assert out.joints.shape == (4, 2, skeleton.num_joints, 2)
    assert out.joints.dtype == torch.float32
    where = out.joints[0]
    assert (where > 0).all()
    assert (where < torch.tensor([HW[1], HW[0]])).all()


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_without_offsets_the_joints_are_those_of_the_base(sigma: float) -> None:
    """As well as its heatmaps can be read: by DARK."""
    model = built(coco.SKELETON, sigma=sigma).eval()
    assert isinstance(model, OPECNet)
    for head in model.graph.heads:
        assert isinstance(head, GraphConv)
        nn.init.zeros_(head.weight)
    with torch.no_grad():
        out = model(photos())
    assert out.joints is not None
    xy, _ = Codec("msra", HW, 4, sigma).decode(out.heatmaps, method="dark")
    for stage in out.joints[1:]:
        torch.testing.assert_close(stage, xy)


def test_joints_stay_fp32_under_autocast() -> None:
    model = built(coco.SKELETON).eval()
    with torch.no_grad():
        expected = model(photos()).joints
        with torch.autocast("cpu", dtype=torch.bfloat16):
            joints = model(photos()).joints
    assert joints.dtype == torch.float32
    torch.testing.assert_close(joints[0], expected[0], rtol=0, atol=1)  # px; peaks of untrained maps may move


@pytest.mark.parametrize("base", ["resnet18", "hrnet_small"])
def test_the_base_keeps_its_names(base: str) -> None:
    plain = build_model(base, Heads(joints=17, projection=None, input_hw=HW)).state_dict()
    model = built(coco.SKELETON, name=f"opecnet_{base}")
    missing, unexpected = model.load_state_dict(plain, strict=False)
    assert unexpected == []
    assert {key.split(".")[0] for key in missing} == {"cascade", "graph"}
    reference = build_model(base, Heads(joints=17, projection=None, input_hw=HW)).eval()
    reference.load_state_dict(plain)
    with torch.no_grad():
        assert torch.equal(model.eval()(photos()).heatmaps, reference(photos()).heatmaps)


def test_the_projection_head_does_not_move_other_initial_weights() -> None:
    states = [built(coco.SKELETON, projection=projection).state_dict() for projection in (None, "mlp")]
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())


def test_a_skeleton_without_a_graph_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.backbone=opecnet_resnet18: the skeleton has no bones"):
        build_model("opecnet_resnet18", Heads(joints=17, projection=None, input_hw=HW))


THEIRS = [(0, 1), (0, 2), (2, 4), (1, 3), (3, 5), (0, 6), (1, 7), (6, 7), (6, 8), (8, 10), (7, 9), (9, 11)]


@pytest.mark.parametrize(
    ("base", "joints", "bones", "expected"),
    [
        ((512, 256, 128), 12, THEIRS, (2_210_956, 1_900_742)),  # as published
        ((256, 256, 256), 14, crowdpose.SKELETON.bones, (1_984_270, 1_901_678)),
        ((256, 256, 256), 16, mpii.SKELETON.bones, (1_986_576, 1_902_542)),
        ((256, 256, 256), 17, coco.SKELETON.bones, (1_987_729, 1_903_070)),
    ],
    ids=["published", "crowdpose", "mpii", "coco"],
)
def test_parameters_layer_by_layer(
    base: tuple[int, ...], joints: int, bones: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    """As in HM.py, helper.py and semgcn_helper.py of the public code; its up-sampling ends at the base's channels."""

    def conv(i: int, o: int, kernel: int) -> int:
        return i * o * kernel**2 + o

    def gate(o: int) -> int:
        return conv(2 * o, o, 1) + conv(o, o, 1)

    cascade = conv(base[0], 256, 3) + conv(base[1], 128, 3) + conv(base[2], 128, 3) + conv(128, joints, 3)
    cascade += conv(256, base[1], 2) + conv(128, base[2], 2) + gate(base[1]) + gate(base[2])

    def graph_conv(i: int, o: int) -> int:
        return 2 * i * o + (joints + 2 * len(bones)) + o

    def residual(width: int) -> int:
        down = graph_conv(width, width // 2) + 2 * (width // 2)
        attention = conv(width, width // 4, 1) + conv(width // 4, joints, 1)
        return down + graph_conv(width // 2, width) + 2 * width + attention

    graph = graph_conv(3, 128) + 2 * 128 + sum(residual(w) for w in (128, 384, 512, 640))
    graph += sum(graph_conv(w, 2) for w in (384, 512, 640))
    assert (cascade, graph) == expected
    assert count(FeatureCascade(base, joints=joints)) == cascade
    assert count(ProgressiveGraph((256, 128, 128), joints=joints, bones=bones)) == graph


def test_parameters_of_the_whole_model() -> None:
    with torch.device("meta"):
        assert count(built(crowdpose.SKELETON, name="opecnet_resnet101")) == 52_991_054 + 1_984_270 + 1_901_678


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
