"""What a run will do, computed before it does anything: ``--dry-run`` and the first lines of every run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icon_dist import config as configuration
from icon_dist.config import Config
from icon_dist.data.gpu_cache import decoded_bytes
from icon_dist.data.sampler import check_streams, default_streams
from icon_dist.datasets.merged_skeleton import missing, other_mirrors
from icon_dist.errors import ConfigError, DataError, IconError, gathering, plural, raise_all, shorten
from icon_dist.models import from_config
from icon_dist.models.two_students import Pair
from icon_dist.shards.label_split import Split, check_stored, split
from icon_dist.shards.shard_set import ShardSet
from icon_dist.shards.union import ShardUnion, describe, union_notes
from icon_dist.training.contrast_check import check_contrast, switched_on, unseen
from icon_dist.training.memory import Memory, memory_of

FP32 = 4  # bytes


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before any worker starts. As text, the lines that ``--dry-run`` prints."""

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
    memory: Memory
    split: Split = field(compare=False)  # who has labels
    unlabelled_batch: int  # of each batch
    union: tuple[str, ...] = ()  # of several sets: what each brings, and lacks
    resident_bytes: int = 0  # decoded crops in the memory of every GPU, if they are to be there
    notes: tuple[str, ...] = ()  # what is unusual, and no error

    @property
    def total_steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    def __str__(self) -> str:
        parts = f"{plural(self.workers, 'worker')} x {self.micro_batch}"
        if self.accumulation > 1:
            parts += f" x {self.accumulation} micro-batches"
        dropped = len(self.split.labelled) - self.steps_per_epoch * (self.batch - self.unlabelled_batch)
        left_out = f", {plural(dropped, 'person')} left out of each, others each time" if dropped else ""
        people, shards = plural(self.people, "person"), plural(self.shards, "shard")
        return "\n".join(
            [
                f"data        {people} in {shards}, {_bytes(self.shard_bytes)}",
                *self.union,
                *self._labels(),
                *([f"resident    {_bytes(self.resident_bytes)} decoded, on every GPU"] if self.resident_bytes else []),
                f"batch       {self.batch} = {parts}",
                f"steps       {self.total_steps} = {plural(self.epochs, 'epoch')} x {self.steps_per_epoch}{left_out}",
                f"streams     {self.streams}, {self.streams // self.workers} per worker",
                f"model       {self.parameters / 1e6:.2f} M parameters, trained",
                f"checkpoint  {_bytes(self.checkpoint_bytes)}",
                str(self.memory),
            ]
        )

    def _labels(self) -> list[str]:
        """Who has labels, if not everybody."""
        known, others = len(self.split.labelled), len(self.split.unlabelled)
        if not others:
            return []
        use = "are not used"
        if self.unlabelled_batch:
            use = f"come without, {self.unlabelled_batch} of each batch; epochs count those with labels"
        which = f"seed {self.split.seed}, sha256 {self.split.fingerprint[:12]}"
        return [f"labels      {plural(known, 'person')} ({which}); {others} {use}"]


def at_workers(config: Config, workers: int) -> Config:
    """The same run on so many workers: the global batch stays."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, workers=workers))


def worker_counts(config: Config) -> list[int]:
    """Numbers of workers, the most first, with which this is the same run: the same people in every global batch."""
    counts = []
    for workers in range(config.run.workers, (config.run.workers_min or config.run.workers) - 1, -1):
        try:
            check_workers(at_workers(config, workers))
        except ConfigError:
            continue
        counts.append(workers)
    return counts


def unlabelled_of(config: Config) -> int:
    """People without labels in a global batch."""
    return 0 if config.semi.method == "none" else round(config.optim.batch * config.semi.unlabelled_share)


def check_workers(config: Config) -> int:
    """The number of streams; a ConfigError where the workers cannot share them."""
    batch, micro, others = config.optim.batch, configuration.micro_batch(config), unlabelled_of(config)
    for part in filter(None, (others, batch - others)):
        streams = config.data.streams or default_streams(part)
        check_streams(batch=part, streams=streams, world=config.run.workers, micro_batch=micro * part // batch)
    return streams


def plan_run(config: Config, shards: ShardSet, *, val: Sequence[ShardSet] = ()) -> Plan:
    """Raises one ConfigError or DataError of all in which the config and the data, to train and to evaluate on, do not
    fit."""
    batch, micro, workers = config.optim.batch, configuration.micro_batch(config), config.run.workers
    others = unlabelled_of(config)
    errors: list[IconError] = []
    streams = 0
    with gathering(errors):
        streams = check_workers(config)
    with gathering(errors):
        _check_dataset(config, shards)
    with gathering(errors):
        check_contrast(config.loss, shards.skeleton)
    for one in val:
        with gathering(errors):
            _check_val(shards, one, alone=len(val) == len(shards.parts) == 1)
    known = split(shards.instance, share=config.data.labelled, seed=config.data.split_seed)
    with gathering(errors):
        _check_labels(shards, known)
    with gathering(errors):
        check_stored(known, shards.manifest, uri=shards.uri)
    steps = len(known.labelled) // (batch - others)
    if not steps or len(known.unlabelled) < others:
        few, kind = (len(known.labelled), "labelled ") if not steps else (len(known.unlabelled), "unlabelled ")
        kind = kind if config.data.labelled < 1 else ""
        people = plural(few, f"{kind}person does", f"{kind}people do")
        errors.append(DataError(f"{shards.uri}: {people} not fill one batch; lower optim.batch={batch}"))
    raise_all(errors)
    model = from_config.shape(config, shards.skeleton)
    weights = sum(p.numel() for p in model.parameters())
    state = sum(t.numel() for t in model.state_dict().values())
    classes = sum(term.categories for term in switched_on(config.loss, shards.skeleton))
    remembers = config.loss.contrast == "inter"
    bank = classes * config.loss.bank.slots * config.model.embedding if remembers else 0
    banks = 2 * bank if isinstance(model, Pair) else bank
    copies = state + 2 * weights + (state if config.optim.ema else 0) + banks
    return Plan(
        people=len(shards),
        shards=len(shards.shard_names),
        shard_bytes=sum(shards.manifest["files"][name]["bytes"] for name in shards.shard_names),
        union=tuple(describe(shards)) if isinstance(shards, ShardUnion) else (),
        workers=workers,
        batch=batch,
        micro_batch=micro,
        accumulation=configuration.per_worker(config) // micro,
        streams=streams,
        steps_per_epoch=steps,
        epochs=config.optim.epochs,
        parameters=weights,
        checkpoint_bytes=copies * FP32,
        memory=memory_of(config, shards, val, network=(copies + weights) * FP32, checkpoint=copies * FP32),
        split=known,
        unlabelled_batch=others,
        resident_bytes=0 if config.data.resident == "never" else decoded_bytes(shards),
        notes=tuple(_notes(config, shards, val, known)),
    )


def _check_dataset(config: Config, shards: ShardSet) -> None:
    packed = shards.manifest["dataset"]
    packed_from = [part.manifest["dataset"] for part in shards.parts]
    if config.data.dataset not in packed_from:
        raise ConfigError(
            f"data.dataset={config.data.dataset}: the shards at {shards.uri} were packed from {packed}; "
            f"set data.dataset={packed_from[0]}, or give the shards that are meant as data.train"
        )


def _check_labels(shards: ShardSet, known: Split) -> None:
    has_label: NDArray[np.bool_] = np.any(shards.keypoints[..., 2] > 0, axis=1)
    of_parts = np.split(known.labelled, np.searchsorted(known.labelled, shards.starts[1:]))
    for part, own in zip(shards.parts, of_parts, strict=True):
        if not len(own) and len(known.labelled):  # of few labels, a small set may have none
            continue
        if not has_label[own].any():
            boxes = part.manifest["boxes"]
            why = "" if boxes == "gt" else f": they are the boxes of {boxes}"
            people = plural(len(own), "person")
            raise DataError(f"data.train={part.uri}: no joint of {people} is labelled{why}; train on annotated people")


def _check_val(shards: ShardSet, val: ShardSet, *, alone: bool) -> None:
    """All joints of a set to be scored must be learnt. ``alone``: one set is learnt and one scored, which is then to be
    by the same metric."""
    learnt, own = shards.skeleton, val.skeleton
    lacking, mirrored = missing(learnt, own), other_mirrors(learnt, own)
    measured = alone and {*own.joints} == {*learnt.joints} and own.metric != learnt.metric
    if not lacking and not mirrored and not measured:
        return
    what = "the same; build one of them again with the metric of the other"
    if lacking or mirrored:
        what = f"{'without' if lacking else 'mirrored otherwise:'} {shorten(', '.join(lacking or mirrored))}"
    raise DataError(
        f"data.val={val.uri}: {plural(own.num_joints, 'joint')} of {own.name} scored by {own.metric}, but data.train "
        f"has {learnt.num_joints} of {learnt.name} by {learnt.metric}, {what}; evaluate on joints that are learnt"
    )


def _notes(config: Config, shards: ShardSet, val: Sequence[ShardSet], known: Split) -> Iterator[str]:
    """What is unusual, and no error."""
    if isinstance(shards, ShardUnion):
        yield from union_notes(shards)
    several = len(val) > 1 or len(shards.parts) > 1
    for one in val:
        here = f"data.val={one.uri}" if several else "data.val"
        if one.index_sha256 in [part.index_sha256 for part in shards.parts]:
            there = "in data.train" if several else "data.train"
            yield f"{here} is {there}: scores are of the people who are learnt by heart; give others as data.val"
        if config.eval.limit > len(one):
            yield f"eval.limit={config.eval.limit}: {here} has {plural(len(one), 'person')}; all count"
    if config.semi.method == "none":
        yield from unseen(config.loss, shards, known)


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
