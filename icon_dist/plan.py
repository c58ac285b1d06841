"""What a run will do, computed before it does anything: ``--dry-run`` and the first lines of every run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from icon_dist import config as configuration
from icon_dist.config import Config
from icon_dist.data.shard import ShardSet
from icon_dist.data.stream import default_streams
from icon_dist.errors import ConfigError, DataError
from icon_dist.models import PoseNet, build_model
from icon_dist.types import Skeleton

FP32 = 4  # bytes


@dataclass(frozen=True)
class Plan:
    people: int
    shards: int
    shard_bytes: int
    workers: int
    batch: int
    micro_batch: int
    accumulation: int
    streams: int
    steps_per_epoch: int
    epochs: int
    parameters: int
    checkpoint_bytes: int

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def __str__(self) -> str:
        split = f"{self.workers} workers x {self.micro_batch}"
        if self.accumulation > 1:
            split += f" x {self.accumulation} micro-batches"
        dropped = self.people - self.steps_per_epoch * self.batch
        left_out = f", {dropped} left out of each (others each time)" if dropped else ""
        return "\n".join(
            [
                f"data        {self.people} people in {self.shards} shards, {_bytes(self.shard_bytes)}",
                f"batch       {self.batch} = {split}",
                f"steps       {self.total_steps} = {self.epochs} epochs x {self.steps_per_epoch}{left_out}",
                f"streams     {self.streams}, {self.streams // self.workers} per worker",
                f"model       {self.parameters / 1e6:.2f} M parameters, trained",
                f"checkpoint  {_bytes(self.checkpoint_bytes)}",
            ]
        )


def plan_run(config: Config, shards: ShardSet) -> Plan:
    """Raises ConfigError or DataError where the config and the data do not fit each other."""
    streams = config.data.streams or default_streams(config.optim.batch)
    workers = config.run.workers
    if streams % workers:
        raise ConfigError(
            f"run.workers={workers}: must divide the {streams} streams (data.streams; by default the largest divisor "
            "of optim.batch up to 256)"
        )
    steps = len(shards) // config.optim.batch
    if not steps:
        raise DataError(
            f"{shards.uri}: {len(shards)} people do not fill one batch; lower optim.batch={config.optim.batch}"
        )
    with torch.device("meta"):
        model = model_of(config, shards.skeleton)
    weights = sum(p.numel() for p in model.parameters())
    state = sum(t.numel() for t in model.state_dict().values())
    loss, skeleton = config.loss, shards.skeleton
    classes = (loss.lambda_1 > 0) * skeleton.num_joints + (loss.lambda_2 > 0) * len(skeleton.limbs)
    bank = classes * loss.bank.slots * config.model.embedding if loss.bank.enabled and loss.lambda_p > 0 else 0
    copies = state + 2 * weights + (state if config.optim.ema else 0) + bank
    per_worker, micro = configuration.per_worker(config), configuration.micro_batch(config)
    return Plan(
        people=len(shards),
        shards=len(shards.shard_names),
        shard_bytes=sum(shards.manifest["files"][name]["bytes"] for name in shards.shard_names),
        workers=workers,
        batch=config.optim.batch,
        micro_batch=micro,
        accumulation=per_worker // micro,
        streams=streams,
        steps_per_epoch=steps,
        epochs=config.optim.epochs,
        parameters=weights,
        checkpoint_bytes=copies * FP32,
    )


def model_of(config: Config, skeleton: Skeleton) -> PoseNet:
    """The model a config means for a skeleton; without contrast it has no projection head."""
    return build_model(
        config.model.backbone,
        joints=skeleton.num_joints,
        projection=config.model.projection if config.loss.lambda_p > 0 else None,
        feature=config.model.feature,
        embedding=config.model.embedding,
        input_hw=config.input_hw,
    )


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
