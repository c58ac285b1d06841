"""Weights of others, by name into a model of ours: strict, with the exact list of what may be missing.

Which code wrote a state dict is read from its keys. Files are unpickled by ``torch.load(weights_only=True)`` alone.
What a run starts from, its own checkpoints included, is in ``training/start_weights.py``.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from types import MappingProxyType
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from icon_dist.errors import CheckpointError, shorten
from icon_dist.models.pose import PoseNet
from icon_dist.models.public_weights import KINDS, Kind
from icon_dist.models.rename_keys import renamed
from icon_dist.models.vit import LAYOUTS, VisionTransformer

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAGIC = (b"PK", b"\x80")  # what torch.save begins with: a zip, or a pickle
SUFFIXES = (".pth", ".pt", ".pth.tar", ".safetensors")
OURS_ALONE = r"(projection|cascade|graph)\..*"  # the projection head, and what OPEC-Net adds to its base


class Adapted(NamedTuple):
    """What another state dict is to a model of ours."""

    kind: Kind
    state: dict[str, Tensor]  # by our names
    new: list[str]  # our names that keep their fresh weights
    dropped: list[str]  # their names that have no place here
    joints: int  # of their final layer where ours stays fresh because of that; otherwise 0
    carried: tuple[str, ...] | None = None  # joints whose rows of the final layer are theirs, where not all are


class Head(NamedTuple):
    """What becomes of a final layer."""

    state: dict[str, Tensor]
    joints: int  # see Adapted
    carried: tuple[str, ...] | None


class Beside:
    """Stands for an object beside the weights, of which nothing is read: whatever its pickle says, nothing happens."""

    def __init__(self, *_: object) -> None: ...
    def __setstate__(self, _: object) -> None: ...


# What MMEngine saves beside the weights: arrays and numbers of numpy (dataset_meta), and the log (message_hub).
NUMPY = ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
BESIDE = (
    *("numpy.ndarray", "numpy.dtype", *(f"numpy.{core}.{name}" for core in ("core", "_core") for name in NUMPY)),
    "mmengine.logging.history_buffer.HistoryBuffer",
)


def unpack(data: bytes, *, name: str) -> dict[str, Tensor]:
    """The state dict in the bytes of a file, taken out of a training checkpoint and of DataParallel."""
    if not name.endswith(SUFFIXES):
        raise CheckpointError(f"{name}: not one of {', '.join(SUFFIXES)}; give a file of weights, or a run")
    try:
        if name.endswith(".safetensors"):
            found: object = safetensors.torch.load(data)
        else:
            if not data.startswith(MAGIC):
                what = "a page of a web server" if data.lstrip().startswith(b"<") else f"begins with {data[:20]!r}"
                raise CheckpointError(f"{name}: no file of torch.save ({what if data else 'empty'}); download it again")
            _refuse_bomb(data, name=name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old file formats
                with torch.serialization.safe_globals([(Beside, name) for name in BESIDE]):
                    found = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch.load documents none of what it raises
        if refused := re.search(r"GLOBAL (\S+) was not an allowed|unsupported GLOBAL (\S+) whose", str(error)):
            what = shorten(refused[1] or refused[2])
            fix = "nothing but tensors is read from a file, so that none runs code; save its state_dict alone"
            raise CheckpointError(f"{name}: more than plain tensors: {what} stands in the way; {fix}") from None
        why = str(error).strip().split("\n")[0][:100] or type(error).__name__
        raise CheckpointError(
            f"{name}: cut, or more than plain tensors ({why}); download it again, or save its state_dict alone"
        ) from None
    for inside in ("state_dict", "model"):  # the second as MAE saves it
        if isinstance(found, dict) and isinstance(found.get(inside), dict):
            found = found[inside]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        what = f"has {', '.join(map(str, list(found)[:4]))}" if isinstance(found, dict) else type(found).__name__
        raise CheckpointError(f"{name}: neither names of tensors nor a state_dict of them ({what}); save a state_dict")
    for key, value in found.items():
        if type(key) is not str or not key.isprintable():
            raise CheckpointError(f"{name}: {key!r} is no name of a tensor; save a state_dict")
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise CheckpointError(f"{name}: {key} is no plain tensor ({value.layout}, {value.device}); save it dense")
    wrapped = all(key.startswith("module.") for key in found)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in found.items()}


def _refuse_bomb(data: bytes, *, name: str) -> None:
    """``torch.save`` never compresses its zip, so that what unpacks to more than itself was made to fill the memory."""
    if zipfile.is_zipfile(BytesIO(data)):
        with zipfile.ZipFile(BytesIO(data)) as file:
            if sum(member.file_size for member in file.infolist()) > len(data):
                raise CheckpointError(f"{name}: unpacks to more than it is; download it again")


def adapt(
    tensors: Mapping[str, Tensor],
    model: PoseNet,
    *,
    name: str,
    kind: Kind | None = None,
    here: Sequence[str] = (),
    there: Mapping[int, Sequence[str]] = MappingProxyType({}),
) -> Adapted:
    """``tensors`` as weights of ``model``; a CheckpointError about ``name`` where they are not.

    ``here`` are the joints of the model, ``there`` those of a head of so many rows: rows go to the joint of their name,
    and other joints keep their fresh rows. Without names a final layer of another number of joints stays fresh. So does
    what no other code has.
    """
    kind = kind or kind_of(tensors, name=name)
    _require_fit(kind, model, name=name)
    _require_normalization(tensors, model, name=name)
    own = model.state_dict()
    dropped = [key for key in tensors if re.fullmatch(kind.dropped, key)]
    kept = {renamed(key, kind.renamed): value for key, value in tensors.items() if key not in dropped}
    state: dict[str, Tensor] = {}
    try:
        translated = {key: model.fitted(key, value) for key, value in kind.translate(kept).items()}
    except (RuntimeError, LookupError):
        raise CheckpointError(f"{name}: has tensors of other shapes than {kind.name} has; download it again") from None
    for key, value in translated.items():
        if key not in own:
            raise CheckpointError(
                f"{name}: {key} {list(value.shape)} ({kind.name}) has no place in {model.backbone_name}; "
                "set the model.backbone it was trained as"
            )
        if value.is_floating_point() != own[key].is_floating_point() or (
            value.is_floating_point() and value.dtype not in FLOATS
        ):
            raise CheckpointError(f"{name}: {key} is {value.dtype}; give weights as float32, float16 or bfloat16")
        if not value.isfinite().all():
            raise CheckpointError(f"{name}: {key} has values that are not finite; download it again")
        state[key] = value
    head = _head(state, own, here=here, there=there)
    state = {key: value for key, value in state.items() if not key.startswith("final_layer.")} | head.state
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise CheckpointError(
                f"{name}: {key} is {list(value.shape)} there and {list(own[key].shape)} in {model.backbone_name}; "
                "set the model.backbone it was trained as"
            )
    allowed = "|".join(filter(None, [OURS_ALONE, kind.missing, r"final_layer\..*" if head.joints else ""]))
    new = [key for key in own if key not in state and not key.endswith(".num_batches_tracked")]  # old files lack those
    for key in new:
        if not re.fullmatch(allowed, key):
            raise CheckpointError(
                f"{name}: has no {key} {list(own[key].shape)}, which {kind.name} for {model.backbone_name} must have; "
                "download it again, or set the model.backbone it was trained as"
            )
    return Adapted(kind, state, new, dropped, head.joints, head.carried)


def _head(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    here: Sequence[str],
    there: Mapping[int, Sequence[str]],
) -> Head:
    """What becomes of the final layer in ``state``: it is theirs, rows of it go to joints of their name, or fresh."""
    theirs = {key: value for key, value in state.items() if key.startswith("final_layer.")}
    weight = theirs.get("final_layer.weight")
    if weight is None or weight.shape[1:] != own["final_layer.weight"].shape[1:]:
        return Head(theirs, 0, None)
    names = tuple(there.get(len(weight), ()))
    if names == tuple(here) or not (here and names):
        return Head(theirs, 0, None) if len(weight) == len(own["final_layer.weight"]) else Head({}, len(weight), None)
    rows = {i: names.index(joint) for i, joint in enumerate(here) if joint in names}
    if not rows or any(len(value) != len(weight) for value in theirs.values()):
        return Head({}, len(weight), None)
    filled = {key: own[key].clone() for key in theirs}
    for key, value in theirs.items():
        filled[key][[*rows]] = value[[*rows.values()]].to(filled[key])
    return Head(filled, 0, tuple(here[i] for i in rows))


def _require_fit(kind: Kind, model: PoseNet, *, name: str) -> None:
    """CheckpointError where weights of this kind are of another backbone."""
    backbone = model.backbone_name
    if kind.family not in backbone:
        raise CheckpointError(f"{name}: is {kind.name}; set model.backbone={kind.family}..., not {backbone}")
    if kind.per_head and isinstance(model, VisionTransformer) and model.layout.per_head != kind.per_head:
        heads = f"whose attention heads have {kind.per_head} channels; those of {backbone} have {model.layout.per_head}"
        fits = " or ".join(known for known, one in LAYOUTS.items() if one.per_head == kind.per_head)
        raise CheckpointError(f"{name}: is {kind.name}, {heads}; set model.backbone={fits}")


def _require_normalization(tensors: Mapping[str, Tensor], model: PoseNet, *, name: str) -> None:
    """MMPose may store what pixels, of 0 to 255, were normalized by."""
    for key, ours in (("data_preprocessor.mean", model.mean), ("data_preprocessor.std", model.std)):
        theirs = tensors.get(key)
        if theirs is None:
            continue
        if theirs.numel() != 3 or not torch.allclose(theirs.float().flatten() / 255, torch.tensor(ours), atol=1e-4):
            there, here = theirs.flatten().tolist()[:3], [round(255 * one, 3) for one in ours]
            raise CheckpointError(
                f"{name}: {key} is {[round(one, 3) for one in there]}, and pixels are normalized by {here} "
                "here, in RGB; give weights that were trained so"
            )


def kind_of(tensors: Iterable[str], *, name: str) -> Kind:
    """Whose names these are."""
    keys = list(tensors)

    def has(beginning: str) -> bool:
        return any(key.startswith(beginning) for key in keys)

    for kind in KINDS:
        if all(map(has, kind.seen)) and not any(map(has, kind.unseen)):
            return kind
    known = ", ".join(kind.name for kind in KINDS)
    raise CheckpointError(f"{name}: whose weights are these? {', '.join(keys[:3])} ... are not names of {known}")


def load(adapted: Adapted, model: PoseNet) -> None:
    """Strictly: every tensor of the model is theirs or is named in ``new``."""
    own = model.state_dict()
    kept = {key: value for key, value in own.items() if key in adapted.new or key.endswith(".num_batches_tracked")}
    model.load_state_dict({**kept, **adapted.state})
    model.channel_order = adapted.kind.channel_order
