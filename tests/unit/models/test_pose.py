"""Normalization, heads and the feature they read."""

from __future__ import annotations

import pytest
import torch

from icon_dist.models import Heads, build_model
from icon_dist.models.heads import concatenate, upsample
from icon_dist.models.projection import ProjectionHead

HW = (64, 64)


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_normalize_against_totensor_and_normalize(channel_order: str) -> None:
    """Naively, pixel by pixel; mean and std go by position, as in the official BGR models."""
    model = build_model("hrnet_small", Heads(joints=14, projection=None, input_hw=HW))
    model.channel_order = channel_order
    image = torch.tensor([[[[255, 128, 0], [10, 20, 30]]]], dtype=torch.uint8)
    x = model.normalize(image)
    for column in range(2):
        pixel = image[0, 0, column].tolist()
        if channel_order == "bgr":
            pixel = pixel[::-1]
        for c, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
            assert x[0, c, 0, column].item() == pytest.approx((pixel[c] / 255 - mean) / std, abs=1e-5)


def test_input_of_the_convolutions_is_channels_last() -> None:
    model = build_model("hrnet_small", Heads(joints=14, projection=None, input_hw=HW))
    x = model.normalize(torch.zeros(2, *HW, 3, dtype=torch.uint8))
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_state_dict_holds_no_constants() -> None:
    keys = build_model("hrnet_small", Heads(joints=14, projection="mlp", input_hw=HW)).state_dict()
    tops = {key.split(".")[0] for key in keys}
    stages = {"transition1", "stage2", "transition2", "stage3", "transition3", "stage4"}
    assert tops == {"conv1", "bn1", "conv2", "bn2", "layer1", "final_layer", "projection", *stages}


def test_projection_heads() -> None:
    mlp = [type(layer).__name__ for layer in ProjectionHead("mlp", 32, 8)]
    assert mlp == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    shapes = {key: tuple(p.shape) for key, p in ProjectionHead("mlp", 32, 8).named_parameters()}
    assert shapes == {
        "0.weight": (8, 32, 1, 1),
        "1.weight": (8,),
        "1.bias": (8,),
        "3.weight": (8, 8, 1, 1),
        "3.bias": (8,),
    }
    assert [tuple(p.shape) for p in ProjectionHead("linear", 32, 8).parameters()] == [(8, 32, 1, 1), (8,)]


def test_an_embedding_has_a_direction_where_all_features_are_dead() -> None:
    """A zero bias in the last layer would give the zero vector there."""
    torch.manual_seed(0)
    for kind in ("mlp", "linear"):
        head = ProjectionHead(kind, 32, 8).eval()
        assert head(torch.zeros(1, 32, 1, 1)).norm() > 1e-3


@pytest.mark.parametrize(
    ("name", "feature", "channels", "stride"),
    [
        ("hrnet_small", "default", 16, 4),
        ("hrnet_small", "all", 16 + 32 + 64, 4),
        ("hrnet_w32", "all", 32 + 64 + 128, 4),
        ("resnet18", "default", 256, 16),
        ("resnet50", "default", 1024, 16),
        ("resnet18", "deconv", 256, 4),
    ],
)
def test_feature_that_is_read(name: str, feature: str, channels: int, stride: int) -> None:
    model = build_model(name, Heads(joints=14, projection="linear", feature=feature, embedding=8, input_hw=HW)).train()
    out = model(torch.randint(0, 256, (2, *HW, 3), dtype=torch.uint8))
    assert model.embedding_stride == stride
    assert model.state_dict()["projection.0.weight"].shape == (8, channels, 1, 1)
    assert out.embedding is not None
    assert out.embedding.shape == (2, 8, HW[0] // stride, HW[1] // stride)
    for loss in (out.heatmaps.square().sum(), out.embedding[:, 0].sum()):
        assert torch.autograd.grad(loss, out.feature, retain_graph=True)[0].norm() > 0


@pytest.mark.parametrize("factor", [2, 4])
def test_upsample_has_no_half_pixel(factor: int) -> None:
    """A ramp stays the same ramp in input pixels, and repeats its last value beyond the last center."""
    coarse = torch.arange(4.0).expand(1, 1, 3, 4)
    fine = upsample(coarse, factor=factor)
    expected = (torch.arange(4.0 * factor) / factor).clamp(max=3)
    torch.testing.assert_close(fine, expected.expand(1, 1, 3 * factor, 4 * factor))
    torch.testing.assert_close(
        upsample(coarse.mT, factor=factor), expected[:, None].expand(1, 1, 4 * factor, 3 * factor)
    )


def test_concatenate_brings_maps_to_the_first() -> None:
    maps = [torch.randn(2, 3, 8, 12), torch.randn(2, 5, 4, 6), torch.randn(2, 7, 2, 3)]
    out = concatenate(maps)
    assert out.shape == (2, 15, 8, 12)
    assert torch.equal(out[:, :3], maps[0])
    torch.testing.assert_close(out[:, 3:8, ::2, ::2], maps[1])
    torch.testing.assert_close(out[:, 8:, ::4, ::4], maps[2])
