"""What every backbone must do; a new file in icon_dist/models is tested here as soon as it lists its names."""

from __future__ import annotations

import copy
import functools
import re

import pytest
import torch
from torch import nn

from icon_dist.errors import ConfigError
from icon_dist.models import Heads, PoseNet, backbone_names, build_model
from icon_dist.models.batch_norm import BatchNorm2d

CONCRETE = [name for name in backbone_names() if re.fullmatch(r"\w+", name)]  # not the pattern hrnet_wN (...)
LARGE = ("w32", "w48", "101", "152", "vit_b", "vit_s6")  # seconds each; their small siblings are of the same code
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name.endswith(LARGE) else name for name in CONCRETE]
NAMES.append("hrnet_w18")
JOINTS, DIM, HW = 14, 16, (64, 96)
BONES = tuple((k, k + 1) for k in range(JOINTS - 1))


@functools.cache
def built(name: str) -> PoseNet:
    """One model per backbone: no test here changes weights, only batch statistics."""
    torch.manual_seed(0)
    return build_model(name, Heads(joints=JOINTS, projection="mlp", embedding=DIM, bones=BONES, input_hw=HW))


def photos(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, *HW, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_suite_sees_every_family() -> None:
    assert {
        "efficientnet_lite0",
        "hrnet_small",
        "hrnet_w32",
        "hrnet_w48",
        "resnet18",
        "resnet50",
        "resnet101",
        "resnet152",
        "vit_s",
        "vit_b",
        "movenet_thunder",
    } <= set(CONCRETE)


@pytest.mark.parametrize("name", NAMES)
def test_training_outputs_and_gradients(name: str) -> None:
    model = built(name).train()
    model.zero_grad()
    out = model(photos())
    assert model.backbone_name == name
    assert model.stride == 4
    assert out.heatmaps.shape == (2, JOINTS, HW[0] // 4, HW[1] // 4)
    assert out.embedding is not None
    assert out.feature is not None
    assert out.tap is not None
    assert out.embedding.shape == (2, DIM, *(side // model.embedding_stride for side in HW))
    assert out.feature.shape[2:] == out.embedding.shape[2:]
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(out.embedding[:, 0].shape))
    heatmap = (out.heatmaps - 1).square().sum()
    if out.joints is not None:
        heatmap = heatmap + (out.joints - 20).abs().sum()
    contrast = (out.embedding[0] * out.embedding[1].roll(1, -1)).sum()
    alone = torch.autograd.grad(heatmap, out.feature, retain_graph=True)[0]
    out.feature.retain_grad()
    out.tap.retain_grad()
    (heatmap + contrast).backward()
    unreached = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []
    # The probe of types.Outputs: one backward separates both gradients on the shared feature.
    assert out.feature.grad is not None
    assert out.tap.grad is not None
    assert out.tap.grad.norm() > 0
    torch.testing.assert_close(out.feature.grad - out.tap.grad, alone, rtol=1e-3, atol=1e-5 * alone.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_has_only_heatmaps(name: str) -> None:
    model = built(name).eval()
    with torch.no_grad():
        out = model(photos(1))
    assert out.heatmaps.shape == (1, JOINTS, HW[0] // 4, HW[1] // 4)
    assert (out.embedding, out.feature, out.tap) == (None, None, None)
    assert out.heatmaps.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_autocast_keeps_what_losses_read_in_fp32(name: str) -> None:
    model = built(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(photos())
    assert out.embedding is not None
    assert out.feature is not None
    assert (out.heatmaps.dtype, out.embedding.dtype) == (torch.float32, torch.float32)
    # Otherwise autocast was not in force and this proves nothing; sums and norms of a transformer stay fp32.
    assert out.feature.dtype == (torch.float32 if name.startswith("vit_") else torch.bfloat16)
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(out.embedding[:, 0].shape))


@pytest.mark.parametrize("name", ["hrnet_small", "resnet18", "efficientnet_lite0"])
def test_memory_format_of_the_weights_does_not_matter(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, Heads(joints=JOINTS, projection="linear", embedding=DIM, input_hw=HW)).eval()
    with torch.no_grad():
        expected = model(photos()).heatmaps
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        heatmaps = model(photos()).heatmaps
    assert heatmaps.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(heatmaps, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["hrnet_small", "resnet18", "efficientnet_lite0", "vit_s"])
def test_the_head_does_not_move_other_initial_weights(name: str) -> None:
    """Baseline and contrast start from the same net, so that they can be compared at equal seeds."""
    states = []
    for projection in (None, "mlp", "linear"):
        torch.manual_seed(7)
        states.append(build_model(name, Heads(joints=JOINTS, projection=projection, input_hw=HW)).state_dict())
    baseline = states[0]
    assert not any(key.startswith("projection") for key in baseline)
    for state in states[1:]:
        assert [key for key in state if key not in baseline] == [k for k in state if k.startswith("projection.")] != []
        assert all(torch.equal(state[key], value) for key, value in baseline.items())


@pytest.mark.parametrize("name", ["hrnet", "hrnet_w0", "hrnet_w33", "resnet34", "vit_x", "pose", "blocks", ""])
def test_unknown_names_are_answered_with_the_known(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model.backbone={name}: not one of .*hrnet_w32.*resnet152"):
        build_model(name, Heads(joints=JOINTS, projection=None, input_hw=HW))


def test_input_must_divide_by_the_coarsest_stride() -> None:
    with pytest.raises(ConfigError, match=r"data.input=250x192: .* multiples of 32, e.g. 256x192"):
        build_model("hrnet_small", Heads(joints=JOINTS, projection=None, input_hw=(250, 192)))


@pytest.mark.parametrize(("name", "feature"), [("hrnet_small", "deconv"), ("resnet18", "all"), ("resnet18", "layer3")])
def test_unknown_feature(name: str, feature: str) -> None:
    with pytest.raises(ConfigError, match=rf"model.feature={feature}: {name} has default, "):
        build_model(name, Heads(joints=JOINTS, projection="mlp", feature=feature, input_hw=HW))


def test_unknown_projection() -> None:
    with pytest.raises(ConfigError, match=r"model.projection=conv: not one of mlp, linear"):
        build_model("resnet18", Heads(joints=JOINTS, projection="conv", input_hw=HW))


@pytest.mark.parametrize("name", ["hrnet_small", "resnet18", "efficientnet_lite0", "opecnet_hrnet_small"])
def test_batches_are_counted_as_torch_counts_them(name: str) -> None:
    """One launch counts for all norms: statistics, gradients and counts are those of torch's own batch norm."""
    ours, torchs = built.__wrapped__(name).train(), built.__wrapped__(name).train()  # which have counted nothing yet
    for part in torchs.modules():
        if isinstance(part, BatchNorm2d):
            part.__class__ = nn.BatchNorm2d
    torchs.norms = []  # they count by themselves
    for model in (ours, torchs):
        for _ in range(2):
            out = model(photos())
        out.heatmaps.sum().backward()
    right = torchs.state_dict()
    assert any(name.endswith("num_batches_tracked") and count == 2 for name, count in right.items())
    assert [name for name, tensor in ours.state_dict().items() if not torch.equal(tensor, right[name])] == []
    pairs = zip(ours.parameters(), torchs.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs if a.grad is not None)


def test_outside_training_nothing_is_counted() -> None:
    model = copy.deepcopy(built("hrnet_small"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.eval()(photos())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
