"""Public weights: where they are, which names tell whose they are, what is renamed, dropped, and may be missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from icon_dist.models import movenet, vit_names

MMPOSE, TORCHVISION = "https://download.openmmlab.com/mmpose/pretrain_models/", "https://download.pytorch.org/models/"
MAE, DINOV2 = "https://dl.fbaipublicfiles.com/mae/", "https://dl.fbaipublicfiles.com/dinov2/"
URLS = {  # ImageNet weights to download, by backbone
    "vit_b": MAE + "pretrain/mae_pretrain_vit_base.pth",
    "vit_s6": DINOV2 + "dinov2_vits14/dinov2_vits14_pretrain.pth",
    "hrnet_w32": MMPOSE + "hrnet_w32-36af842e.pth",
    "hrnet_w48": MMPOSE + "hrnet_w48-8ef0771d.pth",
    "resnet18": TORCHVISION + "resnet18-5c106cde.pth",
    "resnet50": TORCHVISION + "resnet50-19c8e357.pth",
    "resnet101": TORCHVISION + "resnet101-5d3b4d8f.pth",
    "resnet152": TORCHVISION + "resnet152-b121ed2d.pth",
}
FRESH_HEADS = r"deconv_layers\..*|final_layer\..*"


@dataclass(frozen=True)
class Kind:
    """A family of public files. ``seen`` are beginnings of keys that it has, ``unseen`` of keys that it lacks."""

    name: str
    family: str  # what the names of the backbones that it fits have in common
    seen: tuple[str, ...]
    unseen: tuple[str, ...] = ()
    renamed: Sequence[tuple[str, str]] = ()  # rules of :mod:`icon_dist.models.rename_keys`: theirs to ours
    dropped: str = ""  # their names without a place here, as a pattern
    translate: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict  # what renaming does not do
    missing: str = ""  # our names that they lack
    channel_order: str = "rgb"
    codec: str = ""  # that their final layer was trained for, where it is known
    per_head: int = 0  # channels of an attention head, where all of the family have as many


MMPOSE_0 = ((r"backbone\.", ""), (r"keypoint_head\.", ""))
MMPOSE_1 = ((r"backbone\.", ""), (r"head\.", ""))
# MMCV's EMAHook keeps the weights before averaging as buffers ema_NAME_WITHOUT_DOTS: averaged are those by plain names.
MMPOSE_ASIDE = r"ema_\w+|data_preprocessor\.(mean|std)"
OTHER_TASKS = r"associate_keypoint_heads\..*|backbone\.cls_token"  # of ViTPose's weights of several data sets
VIT_HEADS = r"head\..*|final_layer\..*"
VITPOSE = ((r"head\.conv\.", "final_layer."),)
HRNET_CLASSIFIER = r"(head|incre_modules|downsamp_modules|final_layer\.[01]|classifier)\..*"
KINDS = (
    *(
        Kind(
            f"MMPose {version} {name}",
            name.lower(),
            (f"backbone.{last}.", f"{head}.{part}"),
            renamed=rules,
            dropped=MMPOSE_ASIDE,
        )
        for version, head, rules in (("0.x", "keypoint_head", MMPOSE_0), ("1.x", "head", MMPOSE_1))
        for name, last, part in (("HRNet", "stage4", "final_layer.weight"), ("ResNet", "layer4", "deconv_layers."))
    ),
    Kind("official pose_hrnet", "hrnet", ("stage4.", "final_layer.weight")),
    Kind("official pose_resnet", "resnet", ("layer4.", "deconv_layers.", "final_layer.weight"), channel_order="bgr"),
    Kind(
        "ImageNet HRNet",
        "hrnet",
        ("stage4.",),
        unseen=("final_layer.weight", "backbone."),
        dropped=HRNET_CLASSIFIER + r"|stage4\.2\.fuse_layers\.[123]\..*",  # the pose network ends in one branch
        missing=r"final_layer\..*",
    ),
    Kind(
        "ImageNet ResNet",
        "resnet",
        ("layer4.",),
        unseen=("deconv_layers.", "final_layer."),
        dropped=r"fc\.(weight|bias)",
        missing=FRESH_HEADS,
    ),
    Kind("MoveNet Thunder", "movenet_thunder", ("stem.c.", "top.c.", "final.c."), translate=movenet.of_public),
    Kind(
        "ImageNet EfficientNet-Lite0",
        "efficientnet_lite0",
        ("_conv_stem.", "_fc."),
        dropped=r"_conv_head\.weight|_bn1\.\w+|_fc\.(weight|bias)",
        missing=FRESH_HEADS,
    ),
    Kind(
        "transformers VitPose",
        "vit",
        ("backbone.encoder.layer.0.", "head.deconv1."),
        renamed=VITPOSE,
        translate=vit_names.of_first_expert,
        codec="udp",
    ),
    Kind(
        "transformers VitPose with the simple head",
        "vit",
        ("backbone.encoder.layer.0.", "head.conv."),
        dropped=r"head\.conv\..*",
        translate=vit_names.of_first_expert,
        missing=VIT_HEADS,
    ),
    Kind(
        "ViTPose",
        "vit",
        ("backbone.blocks.0.", "keypoint_head.deconv_layers."),
        renamed=MMPOSE_0,
        dropped=f"{MMPOSE_ASIDE}|{OTHER_TASKS}",
        translate=vit_names.of_timm,
        codec="udp",
    ),
    Kind(
        "ViTPose with the simple head",
        "vit",
        ("backbone.blocks.0.", "keypoint_head.final_layer."),
        renamed=MMPOSE_0,
        dropped=f"{MMPOSE_ASIDE}|{OTHER_TASKS}|keypoint_head\\..*",
        translate=vit_names.of_timm,
        missing=VIT_HEADS,
    ),
    Kind(
        "MMPose 1.x ViTPose",
        "vit",
        ("backbone.layers.0.", "head.deconv_layers."),
        renamed=MMPOSE_1,
        dropped=MMPOSE_ASIDE,
        translate=vit_names.of_mmpretrain,
        codec="udp",
    ),
    Kind(
        "MMPose 1.x ViTPose with the simple head",
        "vit",
        ("backbone.layers.0.", "head.final_layer."),
        renamed=MMPOSE_1,
        dropped=rf"{MMPOSE_ASIDE}|head\..*",
        translate=vit_names.of_mmpretrain,
        missing=VIT_HEADS,
    ),
    Kind(
        "DINOv3",
        "vit",
        ("rope_embed.periods", "blocks.0."),
        dropped=r"(cls_token|mask_token|storage_tokens|rope_embed\.periods)",
        translate=vit_names.of_dino,
        missing=rf"backbone\.embeddings\.position_embeddings|{VIT_HEADS}",  # it turns queries and keys instead
        per_head=64,
    ),
    Kind(
        "DINOv2",
        "vit",
        ("pos_embed", "blocks.0.ls1.gamma"),
        dropped=r"(cls_token|mask_token|register_tokens)",
        translate=vit_names.of_dino,
        missing=VIT_HEADS,
        per_head=64,
    ),
    Kind(
        "MAE",
        "vit",
        ("pos_embed", "patch_embed.proj.", "blocks.0.", "norm."),
        unseen=("head.",),
        dropped=r"cls_token|mask_token|decoder_\w+(\..*)?",
        translate=vit_names.of_timm,
        missing=VIT_HEADS,
    ),
)
