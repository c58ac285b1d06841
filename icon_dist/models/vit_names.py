"""State dicts of other transformers under the names of ours, which are those of transformers' VitPose.

Names and layouts are facts of the public code: timm's (github.com/facebookresearch/mae, dinov2, dinov3 and
github.com/ViTAE-Transformer/ViTPose have them too), and mmpretrain's, which MMPose 1.x builds on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from icon_dist.models.rename_keys import renamed
from icon_dist.models.vit import POSITIONS

MMPRETRAIN = (  # to timm's
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"layers\.(\d+)\.ln1\.", r"blocks.\1.norm1."),
    (r"layers\.(\d+)\.ln2\.", r"blocks.\1.norm2."),
    (r"layers\.(\d+)\.attn\.", r"blocks.\1.attn."),
    (r"layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"ln1\.", "norm."),
)
TIMM = (  # to ours
    (r"pos_embed", POSITIONS),
    (r"patch_embed\.proj\.", "backbone.embeddings.patch_embeddings.projection."),
    (r"blocks\.(\d+)\.norm1\.", r"backbone.encoder.layer.\1.layernorm_before."),
    (r"blocks\.(\d+)\.norm2\.", r"backbone.encoder.layer.\1.layernorm_after."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"backbone.encoder.layer.\1.attention.output.dense."),
    (r"blocks\.(\d+)\.mlp\.", r"backbone.encoder.layer.\1.mlp."),
    (r"(last_)?norm\.", "backbone.layernorm."),
    (r"deconv_layers\.0\.", "head.deconv1."),
    (r"deconv_layers\.1\.", "head.batchnorm1."),
    (r"deconv_layers\.3\.", "head.deconv2."),
    (r"deconv_layers\.4\.", "head.batchnorm2."),
)
SCALED = {"ls1": "attn.proj", "ls2": "mlp.fc2"}  # LayerScale of a branch, and the layer that ends the branch


def of_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names: query, key and value apart, and LayerScale and the mask of biases multiplied in.

    Names that are not timm's stay as they are.
    """
    merged = _without_scales(of_first_expert(tensors))
    out: dict[str, Tensor] = {}
    for name, value in merged.items():
        if fused := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name):
            parts = zip(("query", "key", "value"), value.chunk(3), strict=False)
            layer = f"backbone.encoder.layer.{fused[1]}.attention.attention"
            out |= {f"{layer}.{part}.{fused[2]}": piece for part, piece in parts}
        else:
            out[renamed(name, TIMM)] = value
    return out


def of_first_expert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ViTPose+ has a share of each block's last layer once per data set; the first is COCO's, like the head.

    As ``tools/model_split.py`` there joins them, whose files still have all of them.
    """
    out = {name: value for name, value in tensors.items() if ".mlp.experts." not in name}
    for name, value in tensors.items():
        if first := re.fullmatch(r"(.*\.mlp\.)experts\.(experts\.)?0\.(weight|bias)", name):
            shared, width = f"{first[1]}fc2.{first[3]}", out[f"{first[1]}fc1.weight"].shape[1]
            if len(out[shared]) + len(value) == width:  # not yet joined
                out[shared] = torch.cat([out[shared], value])
    return out


def of_dino(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, of a network whose patches never get the position of its class token: that row is 0 here."""
    out = of_timm(tensors)
    if POSITIONS in out:
        out[POSITIONS] = torch.cat([torch.zeros_like(out[POSITIONS][:, :1]), out[POSITIONS][:, 1:]], 1)
    return out


def of_mmpretrain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of MMPose 1.x, which has positions of patches alone, under our names."""
    timm = {renamed(name, MMPRETRAIN): value for name, value in tensors.items()}
    if "pos_embed" in timm:
        timm["pos_embed"] = torch.cat([torch.zeros_like(timm["pos_embed"][:, :1]), timm["pos_embed"]], 1)
    return of_timm(timm)


def _without_scales(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``x + gamma * (W y + b)`` is ``x + (gamma W) y + gamma b``; DINOv3 masks the bias of keys by 0."""
    out = dict(tensors)
    for name in tensors:
        if scale := re.fullmatch(r"(blocks\.\d+\.)(ls[12])\.gamma", name):
            gamma = out.pop(name)
            for kind in ("weight", "bias"):
                scaled = f"{scale[1]}{SCALED[scale[2]]}.{kind}"
                if scaled in out and len(out[scaled]) == len(gamma):
                    out[scaled] = (out[scaled].mT * gamma).mT if out[scaled].ndim == 2 else out[scaled] * gamma
        elif name.endswith(".attn.qkv.bias_mask"):
            mask, bias = out.pop(name), name.removesuffix("_mask")
            if bias in out and out[bias].shape == mask.shape:
                out[bias] = out[bias] * mask.nan_to_num(1.0)
    return out
