"""What a run begins with: its people and its plan, its networks, and the checkpoint or the weights they start from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from icon_dist import config as configuration
from icon_dist import distributed, storage
from icon_dist.codec.frame import InputFrame
from icon_dist.config import Config, sets_of
from icon_dist.data.augment import Augmentation
from icon_dist.data.gpu_cache import decoded_bytes
from icon_dist.data.loader import Loader
from icon_dist.data.sampler import Division, TrainSampler
from icon_dist.data.stream import TrainStream
from icon_dist.errors import ConfigError, IconError, gathering, naming, raise_all
from icon_dist.inference.boxes import photos_of, truth_of
from icon_dist.methods.from_config import Method, method_of
from icon_dist.methods.frozen_teacher import load_teacher, sure_joints
from icon_dist.methods.supervised import JointsOfSets
from icon_dist.metrics.score import check_truth
from icon_dist.models import PoseNet, from_config
from icon_dist.models.two_students import Pair
from icon_dist.shards.label_split import hide_labels
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.shards.shared_columns import once_a_host
from icon_dist.shards.teacher_cache import F32
from icon_dist.shards.union import ShardUnion, union_of
from icon_dist.training import resume, start_weights
from icon_dist.training.ema import Average
from icon_dist.training.engine import Engine, wrap
from icon_dist.training.optimizer import adam
from icon_dist.training.plan import Plan, plan_run
from icon_dist.training.precision import chosen
from icon_dist.training.state import State

RESIDENT_SHARE = 0.5  # of a GPU's free memory that decoded images may take
WITHOUT = "; or leave data.val empty to go without scores"


class Data(NamedTuple):
    """The people to train on and to be scored on, and what the run does with them."""

    shards: ShardSet  # the union, where ``data.train`` names several sets
    val: tuple[ShardSet, ...]  # each is scored on its own joints
    plan: Plan


def open_data(cfg: Config, *, scorable: bool = False) -> Data:
    """Read once for all ranks; one error of all in which they and the config do not fit.

    ``scorable``: read the ground truth too, and see that the metric will find something to measure in ``data.val``.
    """
    errors: list[IconError] = []
    opened: dict[str, ShardSet] = {}
    zoom = 1 + cfg.data.augment.scale
    for uri in sets_of(cfg.data.train):
        with gathering(errors), naming("data.train"):
            opened[uri] = _open(uri, cfg, max_zoom=zoom)
    for uri in sets_of(cfg.data.val):
        if uri not in sets_of(cfg.data.train):
            with gathering(errors), naming("data.val", WITHOUT):
                opened[uri] = _open(uri, cfg)
    raise_all(errors)
    shards = union_of([opened[uri] for uri in sets_of(cfg.data.train)])
    val = tuple(opened[uri] for uri in sets_of(cfg.data.val))
    plan = None
    with gathering(errors):
        plan = plan_run(cfg, shards, val=val)
    for uri, one in zip(sets_of(cfg.data.val), val if scorable else (), strict=scorable):
        with gathering(errors), naming(f"data.val={uri}", WITHOUT):
            boxes, photos = str(one.manifest["boxes"]), photos_of(one, cfg.eval.limit)
            check_truth(truth_of(one), one.skeleton, boxes=boxes, image_ids=photos)
    raise_all(errors)
    assert plan is not None
    return Data(shards, val, plan)


def _open(uri: str, cfg: Config, *, max_zoom: float | None = None) -> ShardSet:
    return once_a_host(lambda: open_shards(uri, input_hw=cfg.input_hw, max_zoom=max_zoom))


def starts(cfg: Config, data: Data) -> Iterator[str]:
    """Look into the files that a run starts from, and say what they are; what is wrong with them is raised."""
    shards, _, plan = data
    if cfg.model.pretrained:
        model = from_config.build_trained(cfg, shards.skeleton)
        yield start_weights.start_run(model, cfg.model.pretrained, shards, plan.split).note
    if cfg.semi.method == "pseudo":
        yield load_teacher(cfg, shards, plan.split, device="cpu", bf16=False).note


def last_epoch(cfg: Config) -> int:
    """After which this attempt ends."""
    return min(cfg.optim.epochs, cfg.run.stop_after_epoch or cfg.optim.epochs)


def stream_of(cfg: Config, data: Data, *, device: str, guesses: F32 | None = None) -> TrainStream:
    """This rank's part of every batch; ``guesses [n, K, 3]`` are a teacher's joints of instances without labels."""
    plan, frame = data.plan, InputFrame(cfg.input_hw, cfg.data.codec)
    people = hide_labels(data.shards, plan.split, pseudo_labels=guesses)
    rank, world = distributed.rank(), distributed.world_size()
    sampler = TrainSampler(
        people.shard,
        Division(plan.batch, plan.micro_batch, rank, world, cfg.data.streams),
        seed=cfg.run.seed,
        labelled=plan.split.labelled,
        unlabelled_share=plan.unlabelled_batch / plan.batch,
    )
    loader = Loader(
        people,
        frame,
        batch=plan.micro_batch,
        processes=cfg.data.loaders,
        cache_mb=cfg.data.cache_mb,
        skip_bad=cfg.data.max_bad_fraction > 0,
        resident=device if is_resident(cfg.data.resident, data.shards, device=device) else "",
    )
    augmentation = Augmentation(cfg.data.augment, people.skeleton, frame, cfg.run.seed)
    return TrainStream(sampler, augmentation, loader, max_bad_fraction=cfg.data.max_bad_fraction)


def is_resident(resident: str, shards: ShardSet, *, device: str) -> bool:
    """Whether a device is to hold all decoded images; ConfigError where it must and cannot."""
    if resident == "never" or device == "cpu":
        return False
    torch.cuda.empty_cache()  # what torch keeps of an earlier run of this process is free, too
    free, _ = torch.cuda.mem_get_info(device)
    size = decoded_bytes(shards)
    if resident == "always" and size > RESIDENT_SHARE * free:
        takes = f"decoded crops take {size / 1e9:.1f} GB, more than {RESIDENT_SHARE:.0%} of the {free / 1e9:.1f} GB"
        raise ConfigError(f"data.resident=always: {takes} that are free on {device}; set it to auto or never")
    return size <= RESIDENT_SHARE * free


@dataclass(frozen=True)
class Learner:
    """What is trained, and how."""

    model: PoseNet | Pair
    method: Method
    engine: Engine
    average: Average | None
    state: State
    guesses: F32 | None  # what a teacher that looks but once saw of everybody: for the stream
    facts: Mapping[str, object]  # what its checkpoints say of where it comes from


def begin(cfg: Config, data: Data, run_uri: str, *, device: str, note: Callable[[str], None]) -> Learner:
    """A new learner, or one as the run's newest intact checkpoint left it. Collective."""
    shards, val, plan = data
    skeleton = shards.skeleton
    model = from_config.build_trained(cfg, skeleton).to(device)
    bf16 = chosen(cfg.run.precision, on_gpu=device != "cpu") == "bf16"
    teacher = load_teacher(cfg, shards, plan.split, device=device, bf16=bf16) if cfg.semi.method == "pseudo" else None
    if teacher is not None:
        note(teacher.note)
    asked = None if teacher is None or cfg.semi.cache else teacher.forward  # at every step
    of_sets = JointsOfSets(shards.starts.tolist(), shards.has_joint) if isinstance(shards, ShardUnion) else None
    method = method_of(cfg, skeleton, model, micro_batch=plan.micro_batch, teacher=asked, has_joint=of_sets)
    same = {"split": plan.split.record(), "teacher": teacher and teacher.sha256}  # whenever this run is resumed

    found = resume.newest_for_all(run_uri, cfg, skeleton, plan, same=same, note=note)
    state = State(model, found, steps_per_epoch=plan.steps_per_epoch)
    scoring = resume.scoring(found, cfg, val)
    origin: dict[str, str] | None = None  # of the weights that training started from
    if found is not None:
        model.channel_order, origin = found.manifest["channel_order"], found.manifest.get("pretrained")
    elif cfg.model.pretrained:
        start = start_weights.start_run(model, cfg.model.pretrained, shards, plan.split)
        origin = start.origin
        note(start.note)

    engine = wrap(
        model,
        adam(
            model,
            lr=cfg.optim.lr,
            layer_decay=cfg.optim.layer_decay,
            layers_after=model.layers_after,
            weight_decay=cfg.optim.weight_decay,
        ),
        zero=cfg.run.zero,
        micro_batch=plan.micro_batch,
        accumulation=plan.accumulation,
        world=distributed.world_size(),
        bf16=bf16,
        compiled=cfg.run.compile,
    )
    average = Average(model, decay=cfg.optim.ema) if cfg.optim.ema else None
    state.complete(engine, bank=method, ema=average)
    ended = state.epochs >= last_epoch(cfg)
    if found is not None and scoring["scored_since"] == found.step and not ended:
        state.best = -math.inf
        note("scored in another way or on other people from here on: the best is looked for among new scores")
    if found is not None:
        resume.tell(found, cfg, shards, ended=ended, note=note)
    if distributed.rank() == 0 and not ended:  # a run that its checkpoint refuses, or that is over, keeps its config
        storage.write(storage.join(run_uri, "config.yaml"), configuration.to_yaml(cfg).encode())
    guesses = sure_joints(teacher, cfg, shards, device=device, note=note) if teacher and cfg.semi.cache else None
    facts: dict[str, object] = {**same, **scoring, **resume.changed(found, cfg, shards)}
    facts |= {"channel_order": model.channel_order, "pretrained": origin, "index": shards.index_sha256}
    if found is not None and ended:  # what it was scored by, whatever this config asks for
        facts |= {name: found.manifest.get(name) for name in ("headline", "conditions")}
    return Learner(model, method, engine, average, state, guesses, facts)
