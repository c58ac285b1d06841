"""A trained ViTPose as a folder that the package transformers opens: what ``icon-dist fetch --hf`` writes.

``VitPoseForPoseEstimation.from_pretrained(FOLDER)`` computes the heatmaps of our network. Names of the files and of
what is in them are facts of transformers 5.
"""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch

from icon_dist.checkpoints.weights import Weights
from icon_dist.errors import ConfigError, note
from icon_dist.models import PoseNet, from_config, vit
from icon_dist.models.vit import VisionTransformer
from icon_dist.storage import local
from icon_dist.types import Json

WEIGHTS = "model.safetensors"
OTHERS = "leave --hf out: -o FILE.safetensors keeps the names of the official code, icon-dist export writes ONNX"


def files(weights: Weights) -> dict[str, bytes]:
    """The files of the folder by name; ConfigError where transformers has no such network."""
    backbone = weights.config.model.backbone
    if backbone not in vit.NAMES:
        known = ", ".join(vit.NAMES)
        raise ConfigError(f"--hf: transformers has no {backbone}, only {known} (as its VitPose); {OTHERS}")
    model = from_config.restore(weights)
    assert isinstance(model, VisionTransformer)
    if (codec := weights.config.data.codec) != "udp":
        where = "heatmaps are the same, but joints of its processor lie some px of the crop away from ours"
        note(f"transformers cuts and decodes as data.codec=udp does, and these weights learned {codec}: {where}")
    state = {key.replace("final_layer.", "head.conv."): value for key, value in model.state_dict().items()}
    return {
        "config.json": _json(model_config(model, weights)),
        "preprocessor_config.json": _json(processor_config(model, weights)),
        WEIGHTS: safetensors.torch.save(state, metadata={"format": "pt"}),
    }


def model_config(model: VisionTransformer, weights: Weights) -> Json:
    """What ``VitPoseConfig`` reads, and the skeleton."""
    names, skeleton = weights.skeleton.joints, weights.skeleton
    backbone = {
        "model_type": "vitpose_backbone",
        "image_size": list(weights.config.input_hw),
        "patch_size": [vit.PATCH, vit.PATCH],
        "num_channels": 3,
        "hidden_size": model.layout.width,
        "num_hidden_layers": model.layout.depth,
        "num_attention_heads": model.layout.heads,
        "mlp_ratio": 4,
        "num_experts": 1,
        "hidden_act": "gelu",
        "layer_norm_eps": vit.EPSILON,
        "qkv_bias": True,
        "out_features": [f"stage{model.layout.depth}"],
        "out_indices": [model.layout.depth],
    }
    return {
        "architectures": ["VitPoseForPoseEstimation"],
        "model_type": "vitpose",
        "backbone_config": backbone,
        "use_simple_decoder": False,
        "scale_factor": vit.PATCH // model.stride,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "edges": [list(bone) for bone in skeleton.bones],
        "dtype": "float32",
    }


def processor_config(model: PoseNet, weights: Weights) -> Json:
    """What its image processor reads: crops of boxes that it pads by 1.25 as we do, and our normalization."""
    height, width = weights.config.input_hw
    return {
        "image_processor_type": "VitPoseImageProcessor",
        "do_affine_transform": True,
        "size": {"height": height, "width": width},
        "normalize_factor": 200.0,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.mean),
        "image_std": list(model.std),
    }


def write(folder: str, contents: dict[str, bytes]) -> None:
    """All files at once, in a folder that is new or empty."""
    with local.new_folder(Path(folder)) as place:
        for name, data in contents.items():
            local.write(place / name, data)


def _json(value: Json) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
