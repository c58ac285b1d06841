"""Weights of one model out of a run, or as one safetensors file that says what it is.

The metadata of such a file hold config, skeleton, step and metrics, and a sha256 over all of it, because safetensors
itself loads flipped bits in silence.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints.checkpoint import Checkpoint
from icon_dist.config import Config
from icon_dist.datasets import skeleton_from_dict
from icon_dist.errors import CheckpointError, ConfigError, DataError, plain
from icon_dist.models.two_students import NETS
from icon_dist.types import Skeleton

FORMAT = 1
SAID_OF_WEIGHTS = (
    *("config", "skeleton", "step", "metrics", "score", "conditions", "evaluated", "colour", "split", "index"),
    *("data", "pretrained", "versions"),
)

Metadata = dict[str, Any]


def load_weights(uri: str, *, which: str | int | None = None, net: int = 1) -> tuple[dict[str, Tensor], Metadata]:
    """Weights and metadata from a fetched file, or from a run: ``which``, by default its best or else its last.

    ``net`` chooses between the students of a run with two; whatever it was, the weights are those of one model.
    Metadata: format, config, skeleton, step, metrics, score, evaluated (model | ema), colour (of the input, rgb | bgr),
    checkpoint, manifest_sha256; where the run said them, conditions (of the score), data (dataset, split, people,
    licence), pretrained (kind, uri, sha256) and versions.
    """
    uri = storage.absolute(uri)
    if not storage.exists(storage.join(uri, manifests.FOLDER)):
        try:
            return decode(storage.read(uri), name=uri)
        except FileNotFoundError:
            raise CheckpointError(f"{uri}: neither a weights file nor a run with checkpoints; check the path") from None
    found = find(uri, which)
    return weights_of(found, net=net), metadata_of(found)


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """One safetensors file; equal contents are equal bytes (safetensors itself does not order its metadata)."""
    plain = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
    size = int.from_bytes(plain[:8], "little")
    header, data = json.loads(plain[8 : 8 + size]), memoryview(plain)[8 + size :]
    header["__metadata__"] = {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}
    header["__metadata__"]["sha256"] = _digest(header, data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors
    return b"".join([len(text).to_bytes(8, "little"), text, data])


def decode(data: bytes, *, name: str) -> tuple[dict[str, Tensor], Metadata]:
    """The inverse of ``encode``; anything else is a CheckpointError about ``name``."""
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04") or name.endswith((".pt", ".pth", ".pkl", ".bin")):
        raise CheckpointError(f"{name}: is a pickle, which can run code; give a run or a fetched .safetensors")
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        said = header["__metadata__"]
        metadata = {key: json.loads(value) for key, value in said.items() if key != "sha256"}
        version = int(metadata["format"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise CheckpointError(f"{name}: not written by icon_dist.fetch, or cut; fetch it again from its run") from None
    if version > FORMAT:
        raise CheckpointError(f"{name}: format {version} is newer than this icon_dist reads ({FORMAT}); upgrade it")
    if said.get("sha256") != _digest(header, memoryview(data)[8 + size :]):
        raise CheckpointError(f"{name}: damaged (sha256 differs); fetch it again from its run")
    kinds = {"config": dict, "skeleton": dict, "step": int, "checkpoint": str, "manifest_sha256": str}
    if not all(type(metadata.get(key)) is kind for key, kind in kinds.items()):
        raise CheckpointError(f"{name}: does not say what it is ({', '.join(kinds)}); fetch it again from its run")
    try:
        return safetensors.torch.load(data), metadata
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{name}: no safetensors file ({error}); fetch it again from its run") from None


def described(metadata: Metadata, *, name: str) -> tuple[Config, Skeleton]:
    """What ``metadata`` says of the model, as checked as what a user says; else a CheckpointError about ``name``."""
    try:
        config = configuration.from_dict(metadata["config"])
        configuration.validate(config)
        return config, skeleton_from_dict(metadata["skeleton"])
    except (ConfigError, DataError) as error:
        raise CheckpointError(f"{name}: its config or skeleton is not ours ({error}); fetch it again") from None
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        what = type(error).__name__
        raise CheckpointError(f"{name}: its config or skeleton is not ours ({what}); fetch it again") from None


def _digest(header: Mapping[str, Any], data: memoryview) -> str:
    said = {key: value for key, value in header["__metadata__"].items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps({**header, "__metadata__": said}, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()


def find(run_uri: str, which: str | int | None, *, parts: Path | None = None) -> Checkpoint:
    found = checkpoint.find(
        run_uri,
        which=which if which is not None else _default(run_uri),
        warn=lambda line: print(f"icon_dist: warning: {plain(line)}", file=sys.stderr),
        weights_only=True,
        progress=_Progress(),
        parts=parts,
    )
    assert found is not None
    return found


def _default(run_uri: str) -> str:
    wholes = [manifests.whole(entry) for entry in checkpoint.entries(run_uri)]
    return "best" if any(manifests.score(whole) is not None for whole in wholes if whole) else "last"


def weights_of(found: Checkpoint, *, net: int) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for name in checkpoint.weights_files(found.manifest):
        merged |= found.tensors(name)
    prefix = f"{NETS[net - 1]}."
    if own := {name.removeprefix(prefix): t for name, t in merged.items() if name.startswith(prefix)}:
        return own
    if net != 1:
        raise CheckpointError(f"{found.uri}: --net {net}: holds one network; leave it out")
    return merged


def metadata_of(found: Checkpoint) -> Metadata:
    said = {name: found.manifest.get(name) for name in SAID_OF_WEIGHTS}
    return {"format": FORMAT, **said, "checkpoint": found.uri, "manifest_sha256": found.manifest["sha256"]}


class _Progress:
    """Prints to stderr what has arrived, only once a download takes long."""

    def __init__(self) -> None:
        self.next = time.monotonic() + 3.0

    def __call__(self, file: str, done: int, total: int) -> None:
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + 3.0
            print(f"{file}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", file=sys.stderr)
