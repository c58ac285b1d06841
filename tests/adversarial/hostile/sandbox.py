"""Where a malicious artefact is opened: sound shards, a run and weights to start from, and what must stay as it is."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.datasets import skeleton_to_dict
from icon_dist.models import from_config
from icon_dist.shards.shard_set import open_shards
from icon_dist.storage import hashed_json
from tests.support.training import tiny

SECRET = "canary-of-the-environment"
VICTIM = "victim: the-content-of-somebody-elses-file"


def stock(people: Path, folder: Path) -> None:
    """A run, its fetched weights and a COCO set with photos, once for all sandboxes."""
    config = tiny(people, folder)
    shards = open_shards(f"{people}/val")
    said = {"score": 0.5, "evaluated": "model", "metrics": {}, "channel_order": "rgb"}
    said |= {"config": dataclasses.asdict(config), "skeleton": skeleton_to_dict(shards.skeleton)}
    weights = from_config.build(config, shards.skeleton).state_dict()
    tensors = {"model": weights, "optimizer": {}, "bank": {}}
    run = str(folder / "run")
    checkpoint.save(run, step=7, attempt="a", tensors=tensors, state={"best": 0.5}, manifest=said, keep=2)
    (folder / "best.safetensors").write_bytes(stored_weights.encode(stored_weights.load(run)))
    shutil.copytree(people / "val", folder / "shards")


class Sandbox:
    """A copy of the stock for one case, with a file outside that is somebody else's."""

    def __init__(self, stock: Path, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(stock, folder)
        (folder / "out").mkdir()
        (folder / "outside").mkdir()
        self.victim = folder / "outside" / "victim"
        self.victim.write_text(VICTIM)
        self.canary = folder / "canary"
        self.shards, self.run = folder / "shards", folder / "run"
        self.weights = folder / "best.safetensors"
        self.checkpoint = self.run / "checkpoints" / "step-00000007-a"
        self.photo = (self.shards / "shard-00000.tar").read_bytes()

    def file(self, name: str, content: bytes | str) -> str:
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(place)

    def evaluate(self, weights: Path | str | None = None, *more: str) -> list[str]:
        where = ["--shards", str(self.shards), "--loaders", "0", "--device", "cpu", "--limit", "4", "--batch", "8"]
        return ["evaluate", str(weights or self.weights), *where, *more]

    def fetch(self) -> list[str]:
        return ["fetch", str(self.run), "-o", str(self.folder / "out" / "got.safetensors")]

    def train(self, *values: str) -> list[str]:
        own = [f"data.train={self.shards}", "data.val=", f"run.dir={self.folder}/out", "model.backbone=hrnet_small"]
        small = ["data.input=32x32", "optim.batch=8", "optim.micro_batch=8", "data.streams=0"]
        return ["train", "--cfg", "demo", "--dry-run", *own, *small, *values]

    def train_yaml(self, text: str) -> list[str]:
        return ["train", "--cfg", self.file("mine.yaml", text), "--print-config"]

    def verify(self) -> list[str]:
        return ["verify", str(self.shards)]

    def build(
        self, image: dict[str, Any] | None = None, photo: bytes = b"", *more: str, text: bytes = b""
    ) -> list[str]:
        """COCO annotations of one person with an image entry, on one photo ``1.jpg``."""
        entry = {"id": 1, "file_name": "1.jpg", "width": 64, "height": 64, **(image or {})}
        person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 40, 40], "area": 900, "iscrowd": 0}
        person |= {"num_keypoints": 17, "keypoints": [9, 9, 2] * 17}
        document = {"images": [entry], "annotations": [person], "categories": [{"id": 1}]}
        file = self.file("annotations.json", text or json.dumps(document).encode())
        if photo:
            self.file("images/1.jpg", photo)
        (self.folder / "images").mkdir(exist_ok=True)
        out = ["--out", f"{self.folder}/out/packed", "--jobs", "1", "--max-input", "none"]
        return ["build", "coco", "--annotations", file, "--images", f"{self.folder}/images", *out, *more]

    def remanifest(self, change: Callable[[dict[str, Any]], object]) -> None:
        """The checkpoint's manifest changed and sealed again."""
        place = self.checkpoint / manifests.NAME
        manifest = json.loads(place.read_text())
        change(manifest)
        place.write_bytes(hashed_json.sealed(manifest))

    def reweigh(self, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
        """The fetched file's tensors or metadata changed and sealed again."""
        weights = stored_weights.decode(self.weights.read_bytes(), name="stock")
        metadata = stored_weights.metadata_of(weights)
        change(weights.tensors, metadata)
        self.weights.write_bytes(stored_weights.pack(weights.tensors, metadata))

    def reshard(self, change: Callable[[dict[str, Any]], object]) -> None:
        """The shards' manifest changed and sealed again."""
        place = self.shards / "manifest.json"
        manifest = json.loads(place.read_text())
        change(manifest)
        place.write_bytes(hashed_json.sealed(manifest))


def packed(tensors: dict[str, Any]) -> bytes:
    data: bytes = safetensors.torch.save(tensors)
    return data
