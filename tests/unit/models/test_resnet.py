"""SimpleBaseline against the official code: names, sizes, cost."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from icon_dist.models import Heads, build_model


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs", "channels", "official"),
    [
        ("resnet18", 15_376_721, None, 256, "88eb993c4507b423"),
        ("resnet50", 33_999_697, 5.43, 1024, "2849bec1ec860dd1"),
        ("resnet101", 52_991_825, 9.06, 1024, "99da4ee0587f1444"),
        ("resnet152", 68_635_473, 12.70, 1024, "c530501af08a0d7c"),
    ],
)
def test_is_the_official_network(name: str, parameters: int, gmacs: float | None, channels: int, official: str) -> None:
    """``official``: hash of the sorted "name shape" lines of the official code's state_dict: weights load by name."""
    with FakeTensorMode():
        model = build_model(name, Heads(joints=17, projection=None, input_hw=(256, 192))).eval()
        photo = torch.zeros(1, 256, 192, 3, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            model(photo)
        encoded = model.encode(model.normalize(photo))
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert [x.shape for x in encoded.shared] == [(1, channels, 16, 12)]
        assert encoded.final.shape == (1, 256, 64, 48)
    if gmacs is not None:
        assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.005)
    lines = "\n".join(sorted(f"{key} {shape}" for key, shape in shapes.items()))
    assert hashlib.sha256(lines.encode()).hexdigest().startswith(official)


def test_names_that_weights_of_others_rely_on() -> None:
    with FakeTensorMode():
        model = build_model("resnet50", Heads(joints=17, projection=None, input_hw=(256, 192)))
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    expected = {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.running_mean": (1024,),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "deconv_layers.0.weight": (2048, 256, 4, 4),
        "deconv_layers.1.num_batches_tracked": (),
        "deconv_layers.6.weight": (256, 256, 4, 4),
        "deconv_layers.7.weight": (256,),
        "final_layer.weight": (17, 256, 1, 1),
    }
    assert {key: shapes.get(key) for key in expected} == expected
    assert not any("deconv_layers" in key and "bias" in key and shapes[key] != (256,) for key in shapes)


def test_the_stride_sits_in_the_3x3() -> None:
    """Not in the first 1x1 (the Caffe variant): same names and shapes, other numbers."""
    with FakeTensorMode():
        block = build_model("resnet50", Heads(joints=17, projection=None, input_hw=(256, 192))).get_submodule(
            "layer2.0"
        )
    assert [block.get_submodule(f"conv{i}").stride for i in (1, 2, 3)] == [(1, 1), (2, 2), (1, 1)]
