"""What a config must satisfy before any data is opened: what each value may be, and what one asks of another."""

from __future__ import annotations

import re
from collections.abc import Iterator

from icon_dist.config.schema import SIZE, Config, get, leaves, micro_batch, per_worker, sets_of
from icon_dist.errors import ConfigError, holds_secret, raise_all, shorten, shown

LARGEST = 1e18  # number that means anything
CHOICES = {
    "run.launcher": ("ray", "local"),
    "run.precision": ("auto", "fp32", "bf16"),
    "data.dataset": ("coco", "mpii", "crowdpose", "custom", "synthetic"),
    "data.difficulty": ("easy", "hard"),
    "data.resident": ("never", "auto", "always"),
    "data.codec": ("msra", "dark", "udp"),
    "model.feature": ("default", "all", "deconv"),
    "model.projection": ("mlp", "linear"),
    "loss.heatmap.reduction": ("sum", "mean"),
    "loss.contrast": ("inter", "intra"),
    "loss.counted": ("visible", "labelled"),
    "loss.read": ("bilinear", "nearest"),
    "loss.positives_from": ("persons", "images"),
    "loss.entropy": ("heatmap", "peak"),
    "loss.query_scope": ("person", "batch"),
    "loss.skcc.query": ("hard", "random", "all"),
    "loss.skcc.negative": ("hard", "random", "all"),
    "loss.skcc.category_score": ("mean", "max"),
    "loss.prcc.query": ("hard", "random", "all"),
    "loss.prcc.negative": ("hard", "random", "all"),
    "loss.prcc.category_score": ("mean", "max"),
    "loss.bank.exchange": ("sync", "async"),
    "loss.bank.wire": ("fp32", "bf16"),
    "semi.method": ("none", "pseudo", "sspose"),
    "semi.lessons": ("all", "sure"),
    "eval.decode": ("quarter", "argmax", "dark"),
    "eval.engine": ("pycocotools", "fast"),
}
SERVICES = ("wandb", "mlflow", "trackio")
POSITIVE = (
    *("run.workers", "run.cpus_per_worker", "run.checkpoint_every", "run.keep", "run.log_every", "run.max_skipped"),
    *("data.sigma", "model.embedding", "loss.tau", "loss.points", "loss.bank.slots"),
    *("loss.skcc.queries", "loss.skcc.negatives", "loss.prcc.queries", "loss.prcc.negatives"),
    *("optim.epochs", "optim.batch", "optim.micro_batch", "optim.lr", "semi.cutout", "eval.every", "eval.batch"),
)
SHARES = ("data.augment.rotation_p", "data.augment.flip_p", "data.augment.half_body_p")
PLACES = ("run.dir", "data.train")
NO_SECRET = "a URI is stored and shown, so no password may be in it; use AWS_* variables"
Rule = tuple[bool, str, str]  # what must hold; else: the key that is wrong, and why


def validate(config: Config) -> None:
    """Every rule that needs no data. Raises one ConfigError with key, value and rule of all that is wrong.

    What one value asks of another is judged once each is right by itself.
    """
    for stage in ((values,), (run, data, loss, optim, semi)):
        found: dict[str, str] = {}  # by key: one fault of a value is enough
        for rules in stage:
            for holds, key, rule in rules(config):
                if not holds:
                    found.setdefault(key, told(config, key, rule))
        raise_all([ConfigError(text) for text in found.values()])


def told(config: Config, key: str, rule: str) -> str:
    """One line: what stands there, and why it cannot."""
    value = get(config, key)
    written = shorten(value) if isinstance(value, str) else shown(list(value) if isinstance(value, tuple) else value)
    return f"{key}={written}: {rule}"


def values(config: Config) -> Iterator[Rule]:
    """Each by itself."""
    for key, value in leaves(config):
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str):
                yield not holds_secret(text), key, NO_SECRET
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield 0 <= value < LARGEST, key, f"expected a finite number, 0 or more, below {LARGEST:g}"
    for key, allowed in CHOICES.items():
        yield get(config, key) in allowed, key, f"expected one of {', '.join(allowed)}"
    for key in POSITIVE:
        yield get(config, key) > 0, key, "expected a number above 0"
    for key in SHARES:
        yield get(config, key) <= 1, key, "expected a share from 0 to 1"
    for key in PLACES:
        yield get(config, key) != "", key, "expected a path or s3://bucket/prefix"
    for key in (*PLACES, "data.val"):
        places = sets_of(get(config, key))
        yield all(places), key, "expected a path or s3://bucket/prefix in every place of the list"
        yield "".join(places).isprintable(), key, "expected a path without line breaks and control characters"
        yield len({*places}) == len(places), key, "expected different sets, each once"
    size = get(config, "data.input")
    yield re.fullmatch(SIZE, size) is not None, "data.input", "expected HEIGHTxWIDTH in pixels, such as 256x192"


def run(config: Config) -> Iterator[Rule]:
    """Yield the rules of section ``run``."""
    own = config.run
    name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", own.name)
    yield name is not None, "run.name", "expected letters, digits, '.', '_' and '-', at most 128"
    yield own.zero in (0, 1, 2, 3), "run.zero", "DeepSpeed ZeRO has stages 0, 1, 2 and 3"
    yield own.gpus_per_worker in (0, 1), "run.gpus_per_worker", "a worker has one GPU or none"
    alone = own.launcher == "ray" or own.workers == 1
    yield alone, "run.workers", "run.launcher=local is one process; set run.workers=1, or run.launcher=ray for more"
    known = len({*own.report} & {*SERVICES}) == len(own.report)
    yield known, "run.report", f"expected a list of some of {', '.join(SERVICES)}, each once"
    yield own.workers_min <= own.workers, "run.workers_min", f"expected at most run.workers={own.workers}"
    whole = "ZeRO-3 gathers parameters in hooks that a compiled model does not run; use run.zero=2 or less"
    yield not own.compile or own.zero < 3, "run.compile", whole
    yield not own.graph or own.gpus_per_worker == 1, "run.graph", "CUDA graphs need a GPU; set run.gpus_per_worker=1"
    yield not own.graph or own.zero == 0, "run.graph", "DeepSpeed waits for the host in every step; set run.zero=0"
    late = config.loss.bank.exchange == "async"
    yield not own.graph or not late, "run.graph", "a step must end with its messages; set loss.bank.exchange=sync"


def data(config: Config) -> Iterator[Rule]:
    """Yield the rules of section ``data``."""
    own, backbone = config.data, config.model.backbone
    height, width = config.input_hw
    yield height % 32 == width % 32 == 0, "data.input", "height and width must be multiples of 32"
    strides = f"{backbone} reads features in whole strides of its heatmaps; use msra or dark"
    yield own.codec != "udp" or not backbone.startswith("opecnet_"), "data.codec", strides
    device = "decoded crops lie in the memory of a GPU; set run.gpus_per_worker=1, or data.cache_mb"
    yield own.resident != "always" or config.run.gpus_per_worker == 1, "data.resident", device
    yield own.max_bad_fraction < 1, "data.max_bad_fraction", "expected a share below 1"
    yield 0 < own.labelled <= 1, "data.labelled", "expected a share above 0, up to 1"
    yield own.augment.scale < 1, "data.augment.scale", "expected less than 1"


def loss(config: Config) -> Iterator[Rule]:
    """Yield the rules of section ``loss``."""
    for term in ("loss.skcc", "loss.prcc"):
        for count in ("queries", "negatives"):
            low, high = get(config, f"{term}.{count}"), get(config, f"{term}.{count}_to")
            yield high == 0 or high >= low, f"{term}.{count}_to", f"expected {term}.{count}={low} or more"


def optim(config: Config) -> Iterator[Rule]:
    """Yield the rules of section ``optim``: how the global batch is divided among workers, passes and streams."""
    own, milestones = config.optim, config.optim.milestones
    rising = all(type(m) is int and m > 0 for m in milestones) and list(milestones) == sorted({*milestones})
    yield rising, "optim.milestones", "expected rising epochs above 0"
    yield 0 < own.layer_decay <= 1, "optim.layer_decay", "expected a share above 0, up to 1, such as 0.75"
    yield config.model.drop_path < 1, "model.drop_path", "expected a share below 1, such as 0.3"
    yield own.ema < 1, "optim.ema", "expected a decay below 1, such as 0.999"
    whole = "averaged weights need whole parameters; use run.zero=2 or less"
    yield own.ema == 0 or config.run.zero < 3, "optim.ema", whole
    workers = f"the global batch must be a multiple of run.workers={config.run.workers}"
    if own.batch % config.run.workers:
        yield False, "optim.batch", workers
        return
    micro = f"{per_worker(config)} per worker is not a multiple of optim.micro_batch={own.micro_batch}"
    yield per_worker(config) % micro_batch(config) == 0, "optim.batch", micro
    streams = config.data.streams
    yield streams == 0 or own.batch % streams == 0, "data.streams", f"must divide optim.batch={own.batch}"


def semi(config: Config) -> Iterator[Rule]:
    """Yield the rules of section ``semi``; those of a method hold only where there is one."""
    own, method = config.semi, config.semi.method
    yield 0 < own.unlabelled_share < 1, "semi.unlabelled_share", "expected a share between 0 and 1"
    if method == "none" or config.optim.batch % config.run.workers:
        return
    yield config.run.zero < 3, "run.zero", f"semi.method={method} runs a network twice a step; use run.zero=2 or less"
    people = micro_batch(config)
    part = people * own.unlabelled_share
    whole = abs(part - round(part)) < 1e-6 and 0 < round(part) < people
    kinds = f"{part:g} of the {people} people of a micro-batch; expected a whole number of each kind"
    yield whole, "semi.unlabelled_share", kinds
    streams, others = config.data.streams, round(config.optim.batch * own.unlabelled_share)
    known = config.optim.batch - others
    both = f"must divide both the {known} labelled and the {others} other people of a batch"
    yield streams == 0 or others % streams == known % streams == 0, "data.streams", both
    some = f"semi.method={method} needs people without labels; give a share below 1"
    yield config.data.labelled < 1, "data.labelled", some
    teacher = "semi.method=pseudo needs a trained run or a fetched file"
    yield method != "pseudo" or own.teacher != "", "semi.teacher", teacher
