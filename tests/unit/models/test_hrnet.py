"""HRNet against the official code: names, sizes, cost."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from icon_dist.models import Heads, PoseNet, build_model


def paper(name: str) -> PoseNet:
    return build_model(name, Heads(joints=17, projection=None, input_hw=(256, 192)))


def names_and_shapes(model: PoseNet) -> str:
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs", "widths", "official"),
    [
        ("hrnet_w32", 28_536_113, 7.645, (32, 64, 128), "b6d62e0de98476db"),
        ("hrnet_w48", 63_595_745, 15.69, (48, 96, 192), "bf0c500246af9dc9"),
    ],
)
def test_is_the_official_network(
    name: str, parameters: int, gmacs: float, widths: tuple[int, int, int], official: str
) -> None:
    """``official``: hash of the sorted "name shape" lines of the official code's state_dict: weights load by name."""
    with FakeTensorMode():
        model = paper(name).eval()
        photo = torch.zeros(1, 256, 192, 3, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            model(photo)
        encoded = model.encode(model.normalize(photo))
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.005)
        assert encoded.final.shape == (1, widths[0], 64, 48)
        sizes = ((64, 48), (32, 24), (16, 12))
        assert [x.shape for x in encoded.shared] == [(1, w, *hw) for w, hw in zip(widths, sizes, strict=True)]
        assert names_and_shapes(model).startswith(official)


def test_names_that_weights_of_others_rely_on() -> None:
    with FakeTensorMode():
        shapes = {key: tuple(value.shape) for key, value in paper("hrnet_w32").state_dict().items()}
    expected = {
        "conv1.weight": (64, 3, 3, 3),
        "bn2.running_var": (64,),
        "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.bias": (256,),
        "layer1.3.bn3.num_batches_tracked": (),
        "transition1.0.0.weight": (32, 256, 3, 3),
        "transition1.1.0.0.weight": (64, 256, 3, 3),
        "transition2.2.0.0.weight": (128, 64, 3, 3),
        "transition3.3.0.1.weight": (256,),
        "stage2.0.branches.0.0.conv1.weight": (32, 32, 3, 3),
        "stage2.0.fuse_layers.0.1.0.weight": (32, 64, 1, 1),
        "stage2.0.fuse_layers.1.0.0.0.weight": (64, 32, 3, 3),
        "stage3.3.fuse_layers.2.0.0.0.weight": (32, 32, 3, 3),
        "stage3.3.fuse_layers.2.0.1.0.weight": (128, 32, 3, 3),
        "stage4.2.branches.3.3.bn2.weight": (256,),
        "stage4.2.fuse_layers.0.3.1.running_mean": (32,),
        "final_layer.weight": (17, 32, 1, 1),
        "final_layer.bias": (17,),
    }
    assert {key: shapes.get(key) for key in expected} == expected
    rows = {key.split(".")[3] for key in shapes if key.startswith("stage4.1.fuse_layers.")}
    last_rows = {key.split(".")[3] for key in shapes if key.startswith("stage4.2.fuse_layers.")}
    assert (rows, last_rows) == ({"0", "1", "2", "3"}, {"0"})
    assert "transition2.0.0.weight" not in shapes


def test_fuse_sums_every_branch_at_each_size() -> None:
    """Against the definition: out_i = relu(sum_j f_ij(branch_j(x_j)))."""
    torch.manual_seed(0)
    model = build_model("hrnet_small", Heads(joints=17, projection=None, input_hw=(64, 64))).eval()
    module = model.get_submodule("stage3.0")
    xs = [torch.randn(1, 16 * 2**b, 16 // 2**b, 16 // 2**b) for b in range(3)]
    part = module.get_submodule
    with torch.no_grad():
        ys = [part(f"branches.{b}")(x) for b, x in enumerate(xs)]
        down = part("fuse_layers.2.0")(ys[0]) + part("fuse_layers.2.1")(ys[1]) + ys[2]
        conv, norm = part("fuse_layers.0.2.0"), part("fuse_layers.0.2.1")
        wide = norm(conv(ys[2])).repeat_interleave(4, -1).repeat_interleave(4, -2)
        up = ys[0] + part("fuse_layers.0.1")(ys[1]) + wide
        out = module(xs)
    torch.testing.assert_close(out[2], down.relu())
    torch.testing.assert_close(out[0], up.relu())
