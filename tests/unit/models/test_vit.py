"""ViTPose against a naive forward pass of its public code, against transformers, and every file it starts from."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from icon_dist.errors import CheckpointError
from icon_dist.models import Heads, PoseNet, build_model, vit
from icon_dist.models.drop_path import crop_keys, survivors
from icon_dist.models.pretrained import Adapted, adapt, load
from icon_dist.models.vit import KERNEL, POSITIONS, Layout

State = dict[str, Tensor]
HW = (64, 48)
SMALL = Layout(width=64, heads=2, depth=2)


def model_of(layout: Layout = SMALL, *, hw: tuple[int, int] = HW, drop_path: float = 0.0, joints: int = 17) -> PoseNet:
    torch.manual_seed(0)
    heads = Heads(joints=joints, input_hw=hw, drop_path=drop_path)
    return vit.VisionTransformer("vit_b", heads, layout)


@functools.cache
def _official() -> State:
    """Names and shapes of ViTPose's public code (mmpose/models/backbones/vit.py and topdown_heatmap_simple_head.py)."""
    torch.manual_seed(1)
    width, patches = SMALL.width, (HW[0] // 16) * (HW[1] // 16)
    state = {
        "backbone.pos_embed": torch.randn(1, patches + 1, width),
        "backbone.patch_embed.proj.weight": torch.randn(width, 3, 16, 16) / 16,
        "backbone.patch_embed.proj.bias": torch.randn(width),
    }
    for i in range(SMALL.depth):
        sizes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        sizes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, size in sizes.items():
            state[f"backbone.blocks.{i}.{name}.weight"] = torch.randn(size) / 8
            state[f"backbone.blocks.{i}.{name}.bias"] = torch.randn(size[0])
        for name in ("norm1", "norm2"):
            state[f"backbone.blocks.{i}.{name}.weight"] = 1 + torch.randn(width) / 4
            state[f"backbone.blocks.{i}.{name}.bias"] = torch.randn(width)
    state |= {"backbone.last_norm.weight": 1 + torch.randn(width) / 4, "backbone.last_norm.bias": torch.randn(width)}
    for i, inputs in ((0, width), (3, 256)):
        state[f"keypoint_head.deconv_layers.{i}.weight"] = torch.randn(inputs, 256, 4, 4) / 16
        norm = f"keypoint_head.deconv_layers.{i + 1}"
        state |= {f"{norm}.{name}": torch.rand(256) + 0.5 for name in ("weight", "running_var")}
        state |= {f"{norm}.{name}": torch.randn(256) for name in ("bias", "running_mean")}
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    final = {"weight": torch.randn(17, 256, 1, 1) / 16, "bias": torch.randn(17)}
    return state | {f"keypoint_head.final_layer.{name}": value for name, value in final.items()}


def official() -> State:
    return dict(_official())


def naive_tokens(state: State, x: Tensor, *, padding: int, heads: int = SMALL.heads) -> Tensor:
    """The public code's ``forward_features`` up to its last norm, one head and one line at a time; [N, patches, D]."""
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    tokens = F.conv2d(x, kernel, bias, stride=kernel.shape[-1], padding=padding).flatten(2).transpose(1, 2)
    if "pos_embed" in state:
        tokens = tokens + state["pos_embed"][:, 1:] + state["pos_embed"][:, :1]
    width = tokens.shape[2]
    for i in range(SMALL.depth):
        part = {name.removeprefix(f"blocks.{i}."): v for name, v in state.items() if name.startswith(f"blocks.{i}.")}
        y = F.layer_norm(tokens, (width,), part["norm1.weight"], part["norm1.bias"], 1e-6)
        qkv_bias = part["attn.qkv.bias"] * part.get("attn.qkv.bias_mask", torch.ones(()))
        qkv = y @ part["attn.qkv.weight"].T + qkv_bias
        each, size = [], width // heads
        for head in range(heads):
            q, k, v = (qkv[..., n * width + head * size : n * width + (head + 1) * size] for n in range(3))
            each.append((q @ k.transpose(1, 2) / size**0.5).softmax(-1) @ v)
        y = torch.cat(each, -1) @ part["attn.proj.weight"].T + part["attn.proj.bias"]
        tokens = tokens + part.get("ls1.gamma", torch.ones(())) * y
        y = F.layer_norm(tokens, (width,), part["norm2.weight"], part["norm2.bias"], 1e-6)
        y = F.gelu(y @ part["mlp.fc1.weight"].T + part["mlp.fc1.bias"])
        tokens = tokens + part.get("ls2.gamma", torch.ones(())) * (y @ part["mlp.fc2.weight"].T + part["mlp.fc2.bias"])
    norm = "last_norm" if "last_norm.weight" in state else "norm"
    return F.layer_norm(tokens, (width,), state[f"{norm}.weight"], state[f"{norm}.bias"], 1e-6)


def naive(state: State, x: Tensor) -> Tensor:
    """Heatmaps of the public code."""
    inner = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    maps = naive_tokens(inner, x, padding=2).transpose(1, 2).reshape(len(x), -1, HW[0] // 16, HW[1] // 16)
    head = {name.removeprefix("keypoint_head."): value for name, value in state.items()}
    for i in (0, 3):
        maps = F.conv_transpose2d(maps, head[f"deconv_layers.{i}.weight"], stride=2, padding=1)
        norm = (head[f"deconv_layers.{i + 1}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        maps = F.batch_norm(maps, *norm).relu()
    return F.conv2d(maps, head["final_layer.weight"], head["final_layer.bias"])


def crops(count: int = 2, *, hw: tuple[int, int] = HW) -> Tensor:
    return torch.randint(0, 256, (count, *hw, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def started(state: State, model: PoseNet) -> Adapted:
    adapted = adapt(state, model, name="x.pth")
    load(adapted, model.eval())
    return adapted


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_official_weights_give_the_official_heatmaps() -> None:
    model = model_of()
    adapted = started(official(), model)
    assert (adapted.kind.name, adapted.new, adapted.dropped) == ("ViTPose", [], [])
    with torch.no_grad():
        assert_near(model(crops()).heatmaps, naive(official(), model.normalize(crops())))


@pytest.mark.parametrize(
    ("name", "backbone", "whole"), [("vit_s", 21_663_744, 24_290_577), ("vit_b", 85_794_816, 89_994_513)]
)
def test_sizes(name: str, backbone: int, whole: int) -> None:
    """ViTPose's paper, Table 1: 86 M in the backbone of ViTPose-B; its public code: 24 M in all of ViTPose-S."""
    with FakeTensorMode():
        model = build_model(name, Heads(joints=17, projection=None, input_hw=(256, 192)))
        sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(size for name, size in sizes.items() if name.startswith("backbone.")) == backbone
    assert sum(sizes.values()) == whole


def test_transformers_has_the_same_network_under_the_same_names() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: no outside oracle")
    model = model_of()
    started(official(), model)
    size = {"hidden_size": SMALL.width, "num_hidden_layers": SMALL.depth, "num_attention_heads": SMALL.heads}
    inside = transformers.VitPoseBackboneConfig(
        **size, image_size=list(HW), layer_norm_eps=1e-6, out_indices=[SMALL.depth]
    )
    config = transformers.VitPoseConfig(backbone_config=inside, use_simple_decoder=False, num_labels=17)
    theirs = transformers.VitPoseForPoseEstimation(config).eval()
    for value in theirs.state_dict().values():
        value.copy_(torch.rand(value.shape) / 4) if value.is_floating_point() else value.fill_(3)
    adapted = started(theirs.state_dict(), model)
    assert (adapted.kind.name, adapted.new, adapted.dropped) == ("transformers VitPose", [], [])
    with torch.no_grad():
        assert_near(model(crops()).heatmaps, theirs(model.normalize(crops())).heatmaps)


def test_embeddings_are_read_at_the_centers_of_the_patches() -> None:
    model = model_of().eval()
    x = model.normalize(crops(1)).contiguous().requires_grad_()
    patches = model.get_submodule("backbone.embeddings.patch_embeddings.projection")(x)
    for row, column in ((1, 1), (2, 1)):
        (seen,) = torch.autograd.grad(patches[0, :, row, column].square().sum(), x, retain_graph=True)
        ys, xs = seen[0].abs().sum(0).nonzero(as_tuple=True)
        middle = ((xs.min() + xs.max()) / 2, (ys.min() + ys.max()) / 2)
        where = (model.embedding_origin + model.embedding_stride * torch.tensor([column, row])).tolist()
        assert [float(m) for m in middle] == where


# ---------------------------------------------------------------------------------------------------- other weights


def inside(state: State) -> State:
    """The backbone alone under timm's names."""
    own = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    return {name.replace("last_norm", "norm"): value for name, value in own.items()}


def mae() -> State:
    """mae_pretrain_vit_base.pth: encoder and class token, positions of 14x14 patches of 224x224."""
    state = inside(official()) | {"pos_embed": torch.randn(1, 197, SMALL.width)}
    return state | {"cls_token": torch.randn(1, 1, SMALL.width)}


def dino(version: int) -> State:
    """dinov2_vitb14_pretrain.pth (patches of 14 px at 518x518) and dinov3_vitb16_pretrain (no positions)."""
    state, width = mae(), SMALL.width
    for i in range(SMALL.depth):
        state |= {f"blocks.{i}.ls{n}.gamma": torch.randn(width) for n in (1, 2)}
        if version == 3:
            mask = torch.ones(3 * width)
            mask[width : 2 * width] = 0
            state[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    state["mask_token"] = torch.zeros(1, width)
    if version == 2:
        state |= {"pos_embed": torch.randn(1, 37 * 37 + 1, width)}
        state |= {"patch_embed.proj.weight": torch.randn(width, 3, 14, 14), "register_tokens": torch.zeros(1, 4, width)}
        return state
    del state["pos_embed"]
    return state | {"storage_tokens": torch.zeros(1, 4, width), "rope_embed.periods": torch.ones(16)}


def mmpose_1() -> State:
    """MMPose 1.x builds on mmpretrain's transformer, without a class token."""
    names = {"norm1": "ln1", "norm2": "ln2", "mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1"}
    out = {}
    for name, value in official().items():
        for timm, theirs in names.items():
            name = name.replace(timm, theirs)
        name = (
            name.replace("blocks", "layers")
            .replace("last_norm", "ln1")
            .replace("patch_embed.proj", "patch_embed.projection")
        )
        out[name.replace("keypoint_head", "head")] = value
    out["backbone.pos_embed"] = out["backbone.pos_embed"][:, 1:]
    return out


@pytest.mark.parametrize(
    ("file", "kind", "positions"),
    [(mae, "MAE", True), (lambda: dino(2), "DINOv2", True), (lambda: dino(3), "DINOv3", False)],
)
def test_a_start_gives_the_features_of_its_own_network(file: Callable[[], State], kind: str, positions: bool) -> None:
    """Without class token and padding, and with the same positions: what the pretraining's code computes of patches."""
    layout, state = Layout(64, 1, 2), file()
    model = model_of(layout)
    adapted = started(state, model)
    assert adapted.kind.name == kind
    heads = [
        name for name in model.state_dict() if name.startswith(("head.", "final_layer.")) and "tracked" not in name
    ]
    assert set(adapted.new) == {*heads, *(() if positions else (POSITIONS,))}
    own = model.state_dict()
    theirs = state | {"pos_embed": own[POSITIONS], "patch_embed.proj.weight": own[KERNEL]}
    x = torch.randn(2, 3, *HW)
    with torch.no_grad():
        features = model.encode(x).shared[0].flatten(2).transpose(1, 2)
    assert_near(features, naive_tokens(theirs, x, padding=2, heads=1))
    if kind == "DINOv2":
        assert not own[POSITIONS][:, 0].any(), "its patches never get the position of the class token"
    if kind == "MAE":
        assert torch.equal(own[POSITIONS][:, 0], state["pos_embed"][:, 0])


def test_mmpose_1() -> None:
    model, state = model_of(), official()
    state["backbone.pos_embed"] = torch.cat([torch.zeros(1, 1, 64), state["backbone.pos_embed"][:, 1:]], 1)
    adapted = started(mmpose_1(), model)
    assert (adapted.kind.name, adapted.new) == ("MMPose 1.x ViTPose", [])
    with torch.no_grad():
        assert_near(model(crops()).heatmaps, naive(state, model.normalize(crops())))


def test_the_simple_head_is_left_out() -> None:
    """Of transformers' vitpose-base-simple and of the public code's ViTPose_base_simple: one 3x3 convolution."""
    state = {name: value for name, value in official().items() if "deconv" not in name}
    state["keypoint_head.final_layer.weight"] = torch.zeros(17, 64, 3, 3)
    adapted = started(state, model_of())
    assert adapted.kind.name == "ViTPose with the simple head"
    assert set(adapted.dropped) == {"keypoint_head.final_layer.weight", "keypoint_head.final_layer.bias"}
    theirs = {n: v for n, v in model_of().state_dict().items() if n.startswith("backbone.")}
    theirs |= {"head.conv.weight": torch.zeros(17, 64, 3, 3), "head.conv.bias": torch.zeros(17)}
    assert started(theirs, model_of()).kind.name == "transformers VitPose with the simple head"


@pytest.mark.parametrize("split", [False, True])
def test_of_vitpose_plus_the_part_of_coco_is_taken(split: bool) -> None:
    """tools/model_split.py joins the shared rows and the first expert's, and leaves the experts in the file."""
    state = official() | {"associate_keypoint_heads.0.final_layer.bias": torch.zeros(14)}
    for i in range(SMALL.depth):
        for kind in ("weight", "bias"):
            mlp = f"backbone.blocks.{i}.mlp"
            shared, first = state[f"{mlp}.fc2.{kind}"].split([48, 16])
            state |= {f"{mlp}.experts.0.{kind}": first, f"{mlp}.experts.1.{kind}": torch.zeros_like(first)}
            if not split:
                state[f"{mlp}.fc2.{kind}"] = shared
    model, right = model_of(), model_of()
    started(official(), right)
    assert started(state, model).new == []
    assert all(torch.equal(value, right.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"backbone.blocks.2.norm1.weight": torch.zeros(64)},
            "layer.2.layernorm_before.weight .* has no place in vit_b",
        ),
        (
            {"backbone.blocks.1.mlp.fc1.weight": torch.zeros(8, 64)},
            r"mlp.fc1.weight is \[8, 64\] there and \[256, 64\]",
        ),
        (
            {"backbone.blocks.1.attn.qkv.weight": torch.zeros(())},
            r"x.pth: has tensors of other shapes than ViTPose has",
        ),
        ({"backbone.pos_embed": torch.zeros(1, 6, 64)}, r"position_embeddings is \[1, 6, 64\] there and \[1, 13, 64\]"),
        (
            {"backbone.blocks.1.attn.qkv.weight": None},
            r"has no backbone.encoder.layer.1.attention.attention.query.weight",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Tensor | None], says: str) -> None:
    state = {name: value for name, value in (official() | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=says):
        adapt(state, model_of(), name="x.pth")


def test_dino_has_heads_of_64_channels() -> None:
    with pytest.raises(CheckpointError, match=r"is DINOv2, whose attention heads have 64 .* set model.backbone=vit_s6"):
        adapt(dino(2), model_of(), name="x.pth")


# ------------------------------------------------------------------------------------------------- sizes of others


def test_kernels_of_another_size_answer_enlarged_patches_alike() -> None:
    kernel, patch = torch.randn(5, 3, 14, 14), torch.randn(1, 3, 14, 14)
    larger = F.interpolate(patch, size=(16, 16), mode="bilinear", align_corners=False)
    answers = (vit.resized_kernel(kernel) * larger).sum((1, 2, 3))
    torch.testing.assert_close(answers, (kernel * patch).sum((1, 2, 3)), rtol=1e-4, atol=1e-3)


def test_positions_of_another_size() -> None:
    """A ramp over the image stays one (torch's cubic: to .05); the class token's row and the same size stay."""
    rows = torch.arange(24.0)[:, None].expand(24, 18).reshape(1, -1, 1)
    resized = vit.resized_positions(torch.cat([torch.full((1, 1, 1), 9.0), rows], 1), (16, 12))
    assert resized[0, 0, 0] == 9
    inner = resized[0, 1:, 0].view(16, 12)[2:-2]
    torch.testing.assert_close(inner, (torch.arange(2.0, 14) * 1.5 + 0.25)[:, None].expand(12, 12), rtol=0, atol=0.05)
    own = torch.randn(1, 193, 4)
    assert torch.equal(vit.resized_positions(own, (16, 12)), own)
    assert vit.resized_positions(torch.randn(1, 197, 4), (16, 12)).shape == (1, 193, 4)


# ------------------------------------------------------------------------------------------------------- drop path


def test_drop_path_is_a_function_of_the_crops() -> None:
    model = model_of(drop_path=0.5).train()
    image = crops(8)
    torch.manual_seed(5)
    one = model(image).heatmaps
    torch.manual_seed(6)
    assert torch.equal(one, model(image).heatmaps)
    still = model_of().train()
    still.load_state_dict(model.state_dict())
    assert not torch.equal(one, still(image).heatmaps)
    still.load_state_dict(model.state_dict())  # with the statistics of its batches
    assert torch.equal(model.eval()(image).heatmaps, still.eval()(image).heatmaps)


def test_a_share_of_the_instances_survives_and_keeps_the_mean() -> None:
    keys = crop_keys(torch.randn(4000, 3, 8, 8))
    assert len(keys.unique()) == 4000
    weights = [survivors(keys, branch=branch, rate=0.3).flatten() for branch in range(2)]
    for weight in weights:
        assert {round(value, 4) for value in weight.unique().tolist()} == {0.0, round(1 / 0.7, 4)}
        assert weight.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.corrcoef(torch.stack(weights))[0, 1].abs() < 0.06
    assert torch.equal(survivors(keys, branch=0, rate=0.0), torch.ones(4000, 1, 1))
