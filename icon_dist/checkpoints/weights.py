"""Weights of one model and what they are: out of a run, or out of the one file that ``icon-dist fetch`` writes.

The metadata of such a file hold config, skeleton, step and metrics, and a sha256 over all of it, because safetensors
itself loads flipped bits in silence. What a run starts from is in ``training/start_weights.py``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints.checkpoint import Checkpoint
from icon_dist.checkpoints.manifest import OTHER, Manifest
from icon_dist.checkpoints.not_a_run import FILES, OTHERS, not_a_run
from icon_dist.config import Config
from icon_dist.datasets import skeleton_from_dict, skeleton_to_dict
from icon_dist.errors import CheckpointError, ConfigError, DataError, plain
from icon_dist.loggers.progress_line import ProgressLine
from icon_dist.types import Origin, Skeleton, SplitRecord

FORMAT = 1
STUDENT = "net{}."  # what the names of a student's tensors begin with where a run trains two
NOT_OF_NET_1 = ("net2_", "mean_")  # what scores of other students begin with, in the records of such a run


@dataclass(frozen=True)
class Weights:
    """The weights of one model, and what a checkpoint says of them."""

    tensors: dict[str, Tensor] = field(repr=False)
    config: Config  # that they were trained with
    skeleton: Skeleton  # that they predict
    step: int  # 0 of public weights, which no run has trained
    checkpoint: str  # URI of the folder, or the public file, that they come from
    manifest_sha256: str  # of that folder, or of that file
    metrics: dict[str, float | None] | None = None  # as the run scored them, by name
    score: float | None = None  # the main one of these
    headline: str | None = None  # its name
    net: int = 1  # which student they are, of a run with two
    evaluated: str = "model"  # model, or ema: the moving average of the weights
    channel_order: str = "rgb"  # of the input, or bgr
    split: SplitRecord | None = None  # share and seed of the labeled instances, where not all were
    index: str | None = None  # sha256 of the index of the shards that they were trained on
    conditions: str | None = None  # of the score
    data: Origin | None = None  # these shards
    pretrained: dict[str, str] | None = None  # kind, uri and sha256 of the weights that training started from
    versions: dict[str, str] | None = None  # of the packages it ran with


def load(uri: str, *, which: str | int | None = None, net: int = 1) -> Weights:
    """Read the weights of a fetched file, or of a run: ``which`` is best, last or a step; by default best, else last.

    ``net`` chooses between the students of a run with two, and the best is then that of its own scores; whatever it
    was, the weights are those of one model.
    Raises CheckpointError where nothing intact is there.
    """
    uri = storage.absolute(uri)
    if not storage.exists(storage.join(uri, manifests.FOLDER)):
        try:
            weights = decode(storage.read(uri), name=uri)
        except FileNotFoundError:
            raise CheckpointError(f"{uri}: {not_a_run(uri, file=True)}") from None
        if net != 1:
            raise CheckpointError(f"{uri}: --net {net}: a file holds one network; leave it out")
        return weights
    return of_checkpoint(find(uri, which, net=net), net=net)


def of_checkpoint(found: Checkpoint, *, net: int = 1) -> Weights:
    """The weights that are evaluated in a verified checkpoint."""
    merged: dict[str, Tensor] = {}
    for name in checkpoint.weights_files(found.manifest):
        merged |= found.tensors(name)
    prefix = STUDENT.format(net)
    facts = {**found.manifest, "checkpoint": found.uri, "manifest_sha256": found.manifest["sha256"]}
    if student := {name.removeprefix(prefix): t for name, t in merged.items() if name.startswith(prefix)}:
        merged = student
        facts |= {"net": net, **_scores_of(net, found.manifest)}
    elif net != 1:
        raise CheckpointError(f"{found.uri}: --net {net}: holds one network; leave it out")
    return _described(merged, facts, name=found.uri)


def _scores_of(net: int, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of one student, and the main one of them: a manifest has those of all, and the score of net 1."""
    every, prefix = manifest.get("metrics") or {}, f"net{net}_"
    if net == 1:
        return {"metrics": {name: value for name, value in every.items() if not name.startswith(NOT_OF_NET_1)}}
    own = {name.removeprefix(prefix): value for name, value in every.items() if name.startswith(prefix)}
    return {"metrics": own, "score": own.get(manifest.get("headline"))}


def score_of(net: int, manifest: Manifest) -> float | None:
    """The main score of a student, by which its best checkpoint is chosen; that of the run where it has one network."""
    own = _scores_of(net, manifest)
    return manifests.score(manifest if net == 1 or not own["metrics"] else own)


def encode(weights: Weights) -> bytes:
    """One safetensors file; equal weights are equal bytes."""
    return pack(weights.tensors, metadata_of(weights))


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """Tensors and JSON values in one safetensors file, in an order of its own: safetensors does not order metadata."""
    file = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
    size = int.from_bytes(file[:8], "little")
    header, data = json.loads(file[8 : 8 + size]), memoryview(file)[8 + size :]
    header["__metadata__"] = {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}
    header["__metadata__"]["sha256"] = _digest(header, data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors
    return b"".join([len(text).to_bytes(8, "little"), text, data])


def decode(data: bytes, *, name: str) -> Weights:
    """The inverse of ``encode``; anything else is a CheckpointError about ``name``."""
    if name.endswith((".onnx", ".pt2")):
        raise CheckpointError(f"{name}: an exported model; give the run or the fetched .safetensors that it is from")
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04") or name.endswith((".pt", ".pth", ".pkl", ".bin")):
        raise CheckpointError(
            f"{name}: is a pickle, which can run code; give a run or a fetched file (weights of others: {OTHERS})"
        )
    if data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n":
        raise CheckpointError(f"{name}: an image, not a model; the model comes first")
    if PurePosixPath(name).suffix.lower() in FILES:
        raise CheckpointError(f"{name}: {not_a_run(name, file=True)}")
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        said = header["__metadata__"]
        metadata = {key: json.loads(value) for key, value in said.items() if key != "sha256"}
        version = int(metadata["format"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        if _is_safetensors(data):
            raise CheckpointError(f"{name}: weights of others; to make a model of them: {OTHERS}") from None
        raise CheckpointError(f"{name}: not written by icon-dist fetch, or cut; fetch it again from its run") from None
    if version > FORMAT:
        raise CheckpointError(f"{name}: format {version} is newer than this icon_dist reads ({FORMAT}); upgrade it")
    if said.get("sha256") != _digest(header, memoryview(data)[8 + size :]):
        raise CheckpointError(f"{name}: damaged (sha256 differs); fetch it again from its run")
    kinds = {"config": dict, "skeleton": dict, "step": int, "checkpoint": str, "manifest_sha256": str}
    if not all(type(metadata.get(key)) is kind for key, kind in kinds.items()):
        raise CheckpointError(f"{name}: does not say what it is ({', '.join(kinds)}); fetch it again from its run")
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{name}: no safetensors file ({error}); fetch it again from its run") from None
    return _described(tensors, metadata, name=name)


def _is_safetensors(data: bytes) -> bool:
    try:
        safetensors.torch.load(data)
    except (SafetensorError, ValueError):
        return False
    return True


def metadata_of(weights: Weights) -> dict[str, object]:
    """What a file says of its weights, as JSON has it."""
    facts = {f.name: getattr(weights, f.name) for f in dataclasses.fields(weights) if f.name != "tensors"}
    config, skeleton = dataclasses.asdict(weights.config), skeleton_to_dict(weights.skeleton)
    return {"format": FORMAT, **facts, "config": config, "skeleton": skeleton}


def _described(tensors: dict[str, Tensor], facts: Mapping[str, Any], *, name: str) -> Weights:
    """``facts`` are checked like what a user says; a CheckpointError about ``name`` where they are not ours."""
    if fault := manifests.fault_of(facts):
        raise CheckpointError(f"{name}: {fault}; fetch it again from its run")
    try:
        config = configuration.from_dict(facts["config"])
        configuration.validate(config)
        skeleton = skeleton_from_dict(facts["skeleton"])
    except (ConfigError, DataError) as error:
        raise CheckpointError(f"{name}: its config or skeleton is not ours ({error}); fetch it again") from None
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        what = type(error).__name__
        raise CheckpointError(f"{name}: its config or skeleton is not ours ({what}); fetch it again") from None
    known = {f.name for f in dataclasses.fields(Weights)} - {"tensors", "config", "skeleton"}
    return Weights(tensors, config, skeleton, **{key: facts[key] for key in known if facts.get(key) is not None})


def require_same_tensors(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], *, part: str = "") -> None:
    """Refuse tensors that do not fit, or that no training goes on from, naming the first of them.

    ``own`` has the names, shapes and types; ``part`` says whose they are where it is not the model.
    """
    theirs, ours = ({name: _kind_of(tensor) for name, tensor in group.items()} for group in (saved, own))
    if differ := [name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)]:
        name = differ[0]
        raise CheckpointError(
            f"checkpoint: {part}{name} is {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} here "
            f"({len(differ)} such tensors); resume with the model.*, loss.lambda_* and semi.method it was trained "
            "with, or use another run.name"
        )
    if broken := [name for name, tensor in saved.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"checkpoint: {part}{broken[0]} has values that are not finite; {OTHER}")


def _kind_of(tensor: Tensor) -> str:
    """Its shape, and its type where that is not the usual one."""
    kind = "" if tensor.dtype == torch.float32 else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"


def _digest(header: Mapping[str, Any], data: memoryview) -> str:
    said = {key: value for key, value in header["__metadata__"].items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps({**header, "__metadata__": said}, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()


def find(run_uri: str, which: str | int | None, *, net: int = 1, parts: Path | None = None) -> Checkpoint:
    """Return a checkpoint of the run at ``run_uri`` with its weights verified; what else it holds is not read.

    ``which`` is ``best`` by the scores of ``net``, ``last`` or a step; None means best, or last if none was evaluated.
    Warnings and the progress of the download go to stderr. In the folder ``parts`` an interrupted download leaves what
    it had, and goes on from it. Raises CheckpointError where there is no such intact checkpoint.
    """
    line_of = functools.cache(lambda file: ProgressLine(f"{file}:", "MB"))
    found = checkpoint.find(
        run_uri,
        which=which if which is not None else _default(run_uri),
        warn=lambda line: print(f"icon_dist: warning: {plain(line)}", file=sys.stderr),
        weights_only=True,
        progress=lambda file, done, total: line_of(file)(done // 1_000_000, total // 1_000_000),
        parts=parts,
        score_of=functools.partial(score_of, net),
    )
    assert found is not None
    return found


def _default(run_uri: str) -> str:
    wholes = [manifests.whole(entry) for entry in checkpoint.entries(run_uri)]
    return "best" if any(manifests.score(whole) is not None for whole in wholes if whole) else "last"
