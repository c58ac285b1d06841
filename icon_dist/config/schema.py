"""Every value of a run, its default and its meaning: what may stand in YAML and as ``a.b=c``."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from icon_dist.errors import ConfigError, shown

Changes = Mapping[str, Any]  # values by dotted key
if TYPE_CHECKING:
    Sets = str | tuple[str, ...]  # one set of shards, or several; a list of one is that one
else:
    Sets = Any  # omegaconf has no type for "text or a list of texts"; value_types.py checks it

SIZE = r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})"  # height x width
SERVICES = ("wandb", "mlflow", "trackio")


class Rule(NamedTuple):
    """What a value must be, whatever the others are."""

    holds: Callable[[Any], object]
    expected: str  # the end of the error's line


NAME = Rule(
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}").fullmatch, "expected letters, digits, '.', '_' and '-', at most 128"
)
PLACE = Rule(bool, "expected a path or s3://bucket/prefix")
PRINTABLE = Rule(lambda uris: "".join(uris).isprintable(), "expected a path without line breaks and control characters")
PLACES = (
    Rule(lambda uris: isinstance(uris, str) or all(uris), f"{PLACE.expected} in every place of the list"),
    PRINTABLE,
    Rule(lambda uris: isinstance(uris, str) or len({*uris}) == len(uris), "expected different sets, each once"),
)
IS_SIZE = Rule(re.compile(SIZE).fullmatch, "expected HEIGHTxWIDTH in pixels, such as 256x192")
KNOWN = Rule(
    lambda names: len({*names} & {*SERVICES}) == len(names),
    f"expected a list of some of {', '.join(SERVICES)}, each once",
)
STAGE = Rule(range(4).__contains__, "DeepSpeed ZeRO has stages 0, 1, 2 and 3")
ONE_OR_NONE = Rule((0, 1).__contains__, "a worker has one GPU or none")
ABOVE_ZERO = Rule(lambda number: number > 0, "expected a number above 0")
SHARE = Rule(lambda part: part <= 1, "expected a share from 0 to 1")
SOME = Rule(lambda part: 0 < part <= 1, "expected a share above 0, up to 1")
NOT_ALL = Rule(lambda part: part < 1, "expected a share below 1")
BETWEEN = Rule(lambda part: 0 < part < 1, "expected a share between 0 and 1")
BELOW_ONE = Rule(lambda number: number < 1, "expected less than 1")
DECAY = Rule(lambda number: number < 1, "expected a decay below 1, such as 0.999")
RISING = Rule(
    lambda epochs: min(epochs, default=1) > 0 and list(epochs) == sorted({*epochs}), "expected rising epochs above 0"
)


def checked(default: Any, *rules: Rule) -> Any:
    """A field whose value must satisfy ``rules``: see :mod:`icon_dist.config.validation`."""
    return field(default=default, metadata={"rules": rules})


@dataclass(frozen=True)
class RunConfig:
    """Section ``run``: where a run lives, on what it runs, what it writes. Seed and precision decide its result."""

    name: str = checked("run", NAME)  # the same name again = resume
    dir: str = checked("runs", PLACE, PRINTABLE)  # path or s3://bucket/prefix; the run lives in dir/name
    seed: int = 0
    launcher: Literal["ray", "local"] = "ray"  # local: the same loop in this process, without Ray
    workers: int = checked(1, ABOVE_ZERO)
    workers_min: int = 0  # with fewer nodes, go on with as few workers as these; 0 = wait for all
    cpus_per_worker: int = checked(1, ABOVE_ZERO)
    gpus_per_worker: int = checked(0, ONE_OR_NONE)
    zero: int = checked(1, STAGE)  # ZeRO stage: 0 (plain torch) | 1, 2, 3 (DeepSpeed)
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU, fp32 on a CPU; fp32: without TF32
    compile: bool = False
    graph: bool = False  # on a GPU: the whole step as one CUDA graph, without the launches that small batches wait for
    checkpoint_every: float = checked(1.0, ABOVE_ZERO)  # epochs; 0.25 = four times an epoch
    keep: int = checked(2, ABOVE_ZERO)  # newest checkpoints kept, besides the best
    log_every: int = checked(20, ABOVE_ZERO)  # optimizer steps; the last step is always logged
    max_failures: int = 3  # worker-group restarts before the run gives up
    report: tuple[str, ...] = checked((), KNOWN)  # services that get its numbers too: wandb | mlflow | trackio
    record_samples: bool = False  # debugging: which people each step read, in the run's samples/
    stop_after_epoch: int = 0  # save and leave after this epoch, to be resumed; 0 = run to the end


@dataclass(frozen=True)
class AugmentConfig:
    """Section ``data.augment``: random changes of a training crop, drawn anew in every epoch."""

    rotation: float = 45.0  # degrees: N(0, rotation) clipped to twice that, of three in five people
    scale: float = checked(0.35, BELOW_ONE)  # zoom factor clip(1 + N * scale, 1 - scale, 1 + scale)
    flip_p: float = checked(0.5, SHARE)
    half_body_p: float = checked(0.3, SHARE)  # only for people with more than half_body_min labelled joints
    half_body_min: int = 8


@dataclass(frozen=True)
class DataConfig:
    """Section ``data``: which people are read, as which inputs, and what their heatmaps look like."""

    dataset: Literal["coco", "mpii", "crowdpose", "custom", "synthetic"] = "coco"
    generate: int = 0  # dataset=synthetic: people to render when the shards are missing (and a quarter of it for val)
    difficulty: Literal["easy", "hard"] = "easy"  # of rendered people; hard: crowds, occlusion, clutter
    train: Sets = checked("data/coco/train", PLACE, *PLACES)  # shards: path or s3://; [A, B] = the union, by joint name
    val: Sets = checked("", *PLACES)  # shards to evaluate on, one set or a list; empty = no evaluation
    input: str = checked("256x192", IS_SIZE)  # height x width, px
    sigma: float = checked(2.0, ABOVE_ZERO)  # of the target Gaussian, heatmap px
    codec: Literal["msra", "dark", "udp"] = "msra"  # msra: rounded center; dark: exact; udp: exact, unit lengths
    labelled: float = checked(1.0, SOME)  # share of the people whose joints are used; the rest is unlabelled (semi)
    split_seed: int = 0  # chooses these people; not run.seed, because a teacher and its students share them
    streams: int = 0  # V, divides the global batch; 0 = its largest divisor up to 256
    max_bad_fraction: float = checked(0.0, NOT_ALL)  # share of people whose damaged image may be left out
    loaders: int = 2  # decoding processes per worker; 0 = decode in the training process
    cache_mb: int = 0  # memory per loader for decoded crops, reused in later epochs
    resident: Literal["never", "auto", "always"] = "never"  # decoded crops in the memory of a GPU; auto: where they fit
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class ModelConfig:
    """Section ``model``: the network and the projection head, which only training has."""

    backbone: str = "hrnet_w32"
    pretrained: str = ""  # weights to start from: a file, s3://..., or imagenet (where a package brings them)
    feature: Literal["default", "all", "deconv"] = "default"  # of the projection head; all: of HRNet; deconv: stride 4
    embedding: int = checked(256, ABOVE_ZERO)  # m
    projection: Literal["mlp", "linear"] = "mlp"
    drop_path: float = checked(0.0, NOT_ALL)  # vit only: share of people that skip the last block in training


@dataclass(frozen=True)
class HeatmapLossConfig:
    """Section ``loss.heatmap``: the squared error of heatmaps (L_heatmap of Eq. 5)."""

    reduction: Literal["sum", "mean"] = "sum"  # over the pixels of a heatmap (docs/loss.md#weights)
    weight: float = 1.0


@dataclass(frozen=True)
class ContrastConfig:
    """Sampling of one of the two terms: SKCC, over joints, or PRCC, over limb pairs."""

    query: Literal["hard", "random", "all"] = "hard"  # which categories of a person are queries
    queries: int = checked(5, ABOVE_ZERO)  # Q of them
    queries_to: int = 0  # random only: Q is drawn for each person from queries .. queries_to; 0 = always queries
    negative: Literal["hard", "random", "all"] = "hard"  # which categories are compared with
    negatives: int = checked(6, ABOVE_ZERO)  # Hn of them
    negatives_to: int = 0  # random only: the same for Hn
    category_score: Literal["mean", "max"] = "mean"  # cosine to a category's candidates, which ranks hard negatives


@dataclass(frozen=True)
class BankConfig:
    """Section ``loss.bank``: the memory bank of joint embeddings, and how ranks fill it."""

    slots: int = 512  # S, per category; 0 = no bank
    warmup: int = 1000  # optimizer steps before its keys are used
    budget: int = 0  # instances contributed per micro-batch by all ranks together; 0 = all of them
    exchange: Literal["sync", "async"] = "sync"  # async: others' tokens arrive one step later, without waiting
    wire: Literal["fp32", "bf16"] = "fp32"  # number format of the all-gather


@dataclass(frozen=True)
class LossConfig:
    """Section ``loss``: the terms of Eq. 5 and their weights."""

    lambda_p: float = 1.0  # weight of contrast in the whole (Eq. 5); 0 = baseline without a projection head
    lambda_1: float = 0.3  # SKCC
    lambda_2: float = 0.7  # PRCC
    tau: float = checked(0.07, ABOVE_ZERO)
    points: int = checked(16, ABOVE_ZERO)  # T: at most so many points, where the Gaussian is .5 or more; 1 = point mode
    start_epoch: float = 0.0  # contrast starts here ...
    ramp_epochs: float = 0.0  # ... and grows linearly to its full weight over these
    contrast: Literal["inter", "intra"] = "inter"  # intra: within one person, without a bank (Table 5)
    relation: Literal["pairs", "triplets", "quadruples"] = "pairs"  # of PRCC: limbs, or chains along bones
    counted: Literal["visible", "labelled"] = "visible"  # which joints count for contrast
    read: Literal["bilinear", "nearest"] = "bilinear"  # how an embedding is read at a point
    positives_from: Literal["persons", "images"] = "persons"  # images: positives only of other images
    negatives_from_others: bool = False  # negatives never from the query's own person
    entropy: Literal["heatmap", "peak"] = "heatmap"  # uncertainty of a joint in the score of hard queries
    query_scope: Literal["person", "batch"] = "person"  # Q queries of each person, or N Q of a micro-batch of N
    max_queries: int = 0  # per category and worker's micro-batch (Table 8); 0 = no limit
    max_negatives: int = 0  # keys per negative category that a query is compared with (Table 8); 0 = all
    products: Literal["fp32", "bf16"] = "fp32"  # of queries and keys in Eq. 1, sums in fp32; bf16 is for GPUs
    heatmap: HeatmapLossConfig = field(default_factory=HeatmapLossConfig)
    skcc: ContrastConfig = field(default_factory=ContrastConfig)
    prcc: ContrastConfig = field(default_factory=lambda: ContrastConfig(query="all", queries=8, negatives=4))
    bank: BankConfig = field(default_factory=BankConfig)


@dataclass(frozen=True)
class SemiConfig:
    """Training on people without labels as well (paper Eq. 6-7; ``data.labelled`` says how many have them)."""

    method: Literal["none", "pseudo", "sspose"] = "none"  # pseudo: a frozen teacher; sspose: two students
    teacher: str = ""  # pseudo: a run (its best checkpoint) or a fetched file; path or s3://
    cache: bool = False  # pseudo: the teacher predicts everybody once; its joints are kept beside the shards
    gamma: float = 0.75  # a joint counts where the teacher's peak is higher (sspose: for contrast, and see lessons)
    lambda_u: float = 0.1  # pseudo: weight of the unlabelled term
    unlabelled_share: float = checked(0.5, BETWEEN)  # of every batch
    lessons: Literal["all", "sure"] = "all"  # sspose: all, as published; sure: peaks above gamma teach
    compat: bool = False  # sspose: repeat the bugs of the public code, for parity


@dataclass(frozen=True)
class OptimConfig:
    """Section ``optim``: batches, steps and the learning rate."""

    epochs: int = checked(210, ABOVE_ZERO)
    batch: int = checked(64, ABOVE_ZERO)  # global: per optimizer step, all workers together
    micro_batch: int = checked(16, ABOVE_ZERO)  # per worker and forward pass; the rest is gradient accumulation
    lr: float = checked(1e-3, ABOVE_ZERO)  # Adam
    milestones: tuple[int, ...] = checked((170, 200), RISING)  # epochs at which lr falls to a tenth
    warmup_steps: int = 0  # linear learning-rate warm-up
    layer_decay: float = checked(1.0, SOME)  # vit only: a layer's learning rate over that of the layer after it
    weight_decay: float = 0.0  # AdamW's, of all that is no bias, norm or position embedding; 0 = Adam
    ema: float = checked(0.0, DECAY)  # decay of the average that is evaluated, at most (1 + step)/(10 + step); 0 = off


@dataclass(frozen=True)
class EvalConfig:
    """Section ``eval``: when a run is scored, and how poses are read off its heatmaps."""

    every: int = checked(10, ABOVE_ZERO)  # epochs; the last epoch is always evaluated
    batch: int = checked(32, ABOVE_ZERO)  # per worker
    flip: bool = True  # average with the mirrored image
    decode: Literal["quarter", "argmax", "dark"] = "quarter"
    refine_below: float = 0.2  # joints with lower peaks are the refined ones of an OPEC-Net; 0 = its base alone
    engine: Literal["pycocotools", "fast"] = "pycocotools"  # what computes AP
    limit: int = 0  # people; 0 = all


@dataclass(frozen=True)
class Config:
    """All values of a run, one field a section."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    semi: SemiConfig = field(default_factory=SemiConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def input_hw(self) -> tuple[int, int]:
        """The (height, width) of the network input, px. Raises ConfigError where ``data.input`` is no size."""
        return parse_size(self.data.input, where="data.input")


def sets_of(value: Sets) -> tuple[str, ...]:
    """The sets that ``data.train`` or ``data.val`` names: none, one or several.

    >>> sets_of(""), sets_of("a"), sets_of(("a", "b"))
    ((), ('a',), ('a', 'b'))
    """
    return tuple(filter(None, (value,))) if isinstance(value, str) else tuple(value)


def as_sets(uris: Sequence[str]) -> Sets:
    """What a config says of these sets: a list of one is that one, an empty one is nothing."""
    return tuple(uris) if len(uris) > 1 else "".join(uris)


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
    """Return (dotted key, value) of every value of a section, in the order in which they are defined."""
    out = []
    for f in dataclasses.fields(node):
        value, key = getattr(node, f.name), f"{prefix}{f.name}"
        out += leaves(value, f"{key}.") if dataclasses.is_dataclass(value) else [(key, value)]
    return out


def rules_of(key: str) -> tuple[Rule, ...]:
    """The rules that stand beside the field of a dotted key."""
    section, _, name = key.rpartition(".")
    rules: tuple[Rule, ...] = type(get(Config(), section)).__dataclass_fields__[name].metadata.get("rules", ())
    return rules


def choices(section: Any) -> dict[str, tuple[str, ...]]:
    """The fields of a section of which one of some names is chosen, with these names."""
    hints = _type_hints(section)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


_type_hints = functools.cache(get_type_hints)  # it reads the annotations as text each time
