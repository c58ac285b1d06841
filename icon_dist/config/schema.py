"""Every value of a run, its default and its meaning: what may stand in YAML and as ``a.b=c``."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from icon_dist.errors import ConfigError, shown

SIZE = r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})"  # height x width


@dataclass(frozen=True)
class RunConfig:
    name: str = "run"  # the same name again = resume
    dir: str = "runs"  # path or s3://bucket/prefix; the run lives in dir/name
    seed: int = 0
    launcher: str = "ray"  # ray | local: the same loop in this process, without Ray
    workers: int = 1
    workers_min: int = 0  # with fewer nodes, go on with as few workers as these; 0 = wait for all
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0  # 0 or 1
    zero: int = 1  # ZeRO stage: 0 (plain torch) | 1, 2, 3 (DeepSpeed)
    precision: str = "auto"  # auto (bf16 on a GPU, fp32 on a CPU) | fp32 (on a GPU without TF32) | bf16
    compile: bool = False
    graph: bool = False  # on a GPU: the whole step as one CUDA graph, without the launches that small batches wait for
    checkpoint_every: float = 1.0  # epochs; 0.25 = four times an epoch
    keep: int = 2  # newest checkpoints kept, besides the best
    log_every: int = 20  # optimizer steps; the last step is logged in any case
    max_failures: int = 3  # worker-group restarts before the run gives up
    max_skipped: int = 5  # steps in a row with a loss or gradients that are not finite: so many end the run
    report: tuple[str, ...] = ()  # services that are told the run's numbers as well: wandb | mlflow | trackio
    record_samples: bool = False  # debugging: which people each step read, in the run's samples/
    stop_after_epoch: int = 0  # leave after this epoch as if the job's time were up; 0 = run to the end


@dataclass(frozen=True)
class AugmentConfig:
    rotation: float = 45.0  # degrees: N(0, rotation) clipped to twice that
    rotation_p: float = 0.6
    scale: float = 0.35  # zoom factor clip(1 + N * scale, 1 - scale, 1 + scale)
    flip_p: float = 0.5
    half_body_p: float = 0.3  # only for people with more than half_body_min visible joints
    half_body_min: int = 8


@dataclass(frozen=True)
class DataConfig:
    dataset: str = "coco"  # coco | mpii | crowdpose | custom | synthetic
    generate: int = 0  # dataset=synthetic: people to render when the shards are missing (and a quarter of it for val)
    difficulty: str = "easy"  # dataset=synthetic: easy | hard (crowds, occlusion, clutter)
    train: str = "data/coco/train"  # shards: path or s3://
    val: str = ""  # shards to evaluate on; empty = no evaluation
    input: str = "256x192"  # height x width, px
    sigma: float = 2.0  # of the target Gaussian, heatmap px
    codec: str = "msra"  # msra (centre rounded) | dark (exact centre) | udp (exact centre and unit lengths, no shift)
    labelled: float = 1.0  # share of the people whose joints are used; the rest is unlabelled (semi)
    split_seed: int = 0  # which people these are; apart from run.seed, because a teacher and its students share them
    streams: int = 0  # V, divides the global batch; 0 = its largest divisor up to 256
    max_bad_fraction: float = 0.0  # of an epoch's people may have damaged images and are left out, each named in a note
    loaders: int = 2  # decoding processes per worker; 0 = decode in the training process
    cache_mb: int = 0  # memory per loader for decoded crops, reused in later epochs
    resident: str = "never"  # never | auto (where they fit) | always: on a GPU, decoded crops in its own memory
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class ModelConfig:
    backbone: str = "hrnet_w32"
    pretrained: str = ""  # weights to start from: a file, s3://..., or imagenet (where a package brings them)
    feature: str = "default"  # what the projection head reads: default | all (HRNet branches) | deconv (ResNet)
    embedding: int = 256  # m
    projection: str = "mlp"  # mlp | linear


@dataclass(frozen=True)
class HeatmapLossConfig:
    reduction: str = "sum"  # over the pixels of a heatmap: sum | mean (docs/loss.md#weights)
    weight: float = 1.0


@dataclass(frozen=True)
class ContrastConfig:
    """Sampling of one of the two terms: SKCC, over joints, or PRCC, over limb pairs."""

    query: str = "hard"  # hard | random | all: which categories of a person are queries
    queries: int = 5  # Q of them
    queries_to: int = 0  # random only: Q is drawn for each person from queries .. queries_to; 0 = always queries
    negative: str = "hard"  # hard | random | all: which categories are compared with
    negatives: int = 6  # Hn of them
    negatives_to: int = 0  # random only: the same for Hn
    category_score: str = "mean"  # mean | max: cosine to a category's candidates, by which hard negatives are ranked


@dataclass(frozen=True)
class BankConfig:
    enabled: bool = True
    slots: int = 512  # S, per category
    warmup: int = 1000  # optimizer steps before its keys are used
    budget: int = 0  # instances contributed per step by all ranks together; 0 = all of them
    exchange: str = "sync"  # sync | async: others' tokens arrive one step later, without waiting
    wire: str = "fp32"  # fp32 | bf16: what the all-gather carries


@dataclass(frozen=True)
class LossConfig:
    lambda_p: float = 1.0  # weight of contrast in the whole (Eq. 5); 0 = baseline without a projection head
    lambda_1: float = 0.3  # SKCC
    lambda_2: float = 0.7  # PRCC
    tau: float = 0.07
    points: int = 16  # T: pixel-set size around a joint; 1 = point mode
    start_epoch: float = 0.0  # contrast starts here ...
    ramp_epochs: float = 0.0  # ... and grows linearly to its full weight over these
    contrast: str = "inter"  # inter | intra: with other people, or within one person and without a bank (Table 5)
    counted: str = "visible"  # visible | labelled: which joints count for contrast
    read: str = "bilinear"  # bilinear | nearest: how an embedding is read at a point
    positives_from: str = "persons"  # persons | images: positives of other persons, or only of other images
    negatives_from_others: bool = False  # negatives never from the query's own person
    entropy: str = "heatmap"  # heatmap | peak: uncertainty of a joint in the score of hard queries
    query_scope: str = "person"  # person | batch: among whose joints the hard queries are chosen
    max_queries: int = 0  # per category and worker (Table 8); 0 = no limit
    max_negatives: int = 0  # candidates per category that a query is compared with (Table 8); 0 = all
    heatmap: HeatmapLossConfig = field(default_factory=HeatmapLossConfig)
    skcc: ContrastConfig = field(default_factory=ContrastConfig)
    prcc: ContrastConfig = field(default_factory=lambda: ContrastConfig(query="all", queries=8, negatives=4))
    bank: BankConfig = field(default_factory=BankConfig)


@dataclass(frozen=True)
class SemiConfig:
    """Training on people without labels as well (paper Eq. 6-7; ``data.labelled`` says how many have them)."""

    method: str = "none"  # none | pseudo (a frozen teacher) | sspose (two students that teach each other)
    teacher: str = ""  # pseudo: a run (its best checkpoint) or a fetched file; path or s3://
    cache: bool = False  # pseudo: the teacher looks at everybody once, and its joints are kept beside the shards
    gamma: float = 0.75  # a joint counts where the teacher's peak is higher (sspose: for contrast, and see lessons)
    lambda_u: float = 0.1  # pseudo: weight of the unlabelled term
    unlabelled_share: float = 0.5  # of every batch
    lessons: str = "all"  # sspose: all, as published | sure (joints with peaks above gamma teach, as with pseudo)
    cutout: int = 5  # sspose: joints erased in the hard view
    compat: bool = False  # sspose: repeat the bugs of the public code, for parity


@dataclass(frozen=True)
class OptimConfig:
    epochs: int = 210
    batch: int = 64  # global: per optimizer step, all workers together
    micro_batch: int = 16  # per worker and forward pass; the rest is gradient accumulation
    lr: float = 1e-3  # Adam
    milestones: tuple[int, ...] = (170, 200)  # epochs at which lr is multiplied by gamma
    gamma: float = 0.1
    warmup_steps: int = 0  # linear learning-rate warm-up
    ema: float = 0.0  # decay of the averaged weights that are evaluated; 0 = off


@dataclass(frozen=True)
class EvalConfig:
    every: int = 10  # epochs; the last epoch is always evaluated
    batch: int = 32  # per worker
    flip: bool = True
    decode: str = "quarter"  # quarter | argmax | dark
    refine_below: float = 0.2  # joints with lower peaks are the refined ones of an OPEC-Net; 0 = its base alone
    engine: str = "pycocotools"  # pycocotools | fast: what computes AP
    limit: int = 0  # people; 0 = all


@dataclass(frozen=True)
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    semi: SemiConfig = field(default_factory=SemiConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def input_hw(self) -> tuple[int, int]:
        return parse_size(self.data.input, where="data.input")


def parse_size(text: str, *, where: str) -> tuple[int, int]:
    """``"256x192"`` -> (256, 192): height x width, as papers write it."""
    found = re.fullmatch(SIZE, text)
    if found is None:
        raise ConfigError(f"{where}={shown(text)}: expected HEIGHTxWIDTH in pixels, such as 256x192")
    return int(found[1]), int(found[2])


def per_worker(config: Config) -> int:
    """People per worker and optimizer step."""
    return config.optim.batch // config.run.workers


def micro_batch(config: Config) -> int:
    """People per worker and forward pass."""
    return min(config.optim.micro_batch, per_worker(config))


def get(config: Config, key: str) -> Any:
    """The value or section at a dotted key; the empty key is the whole."""
    node: Any = config
    for name in filter(None, key.split(".")):
        node = getattr(node, name)
    return node


def leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    out = []
    for f in dataclasses.fields(node):
        value, key = getattr(node, f.name), f"{prefix}{f.name}"
        out += leaves(value, f"{key}.") if dataclasses.is_dataclass(value) else [(key, value)]
    return out
