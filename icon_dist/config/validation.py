"""What a config must satisfy before any data is opened: each value the rules beside its field in :mod:`.schema`, and
what one value asks of another."""

from __future__ import annotations

from collections.abc import Iterator

from icon_dist.config.schema import Config, get, leaves, micro_batch, per_worker, rules_of
from icon_dist.errors import ConfigError, holds_secret, raise_all, shorten, shown

LARGEST = 1e18  # number that means anything
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
                    found.setdefault(key, refusal(config, key, rule))
        raise_all([ConfigError(text) for text in found.values()])


def refusal(config: Config, key: str, rule: str) -> str:
    """One line: what stands there, and why it cannot."""
    value = get(config, key)
    written = shorten(value) if isinstance(value, str) else shown(list(value) if isinstance(value, tuple) else value)
    return f"{key}={written}: {rule}"


def values(config: Config) -> Iterator[Rule]:
    """Each by itself. Which names there are to choose from is looked at before (:mod:`.value_types`)."""
    for key, value in leaves(config):
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str):
                yield not holds_secret(text), key, NO_SECRET
        for holds, expected in rules_of(key):
            yield bool(holds(value)), key, expected
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield 0 <= value < LARGEST, key, f"expected a finite number, 0 or more, below {LARGEST:g}"


def run(config: Config) -> Iterator[Rule]:
    """Yield the rules of section ``run``."""
    own = config.run
    alone = own.launcher == "ray" or own.workers == 1
    yield alone, "run.workers", "run.launcher=local is one process; set run.workers=1, or run.launcher=ray for more"
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


def loss(config: Config) -> Iterator[Rule]:
    """Yield the rules of section ``loss``."""
    for term in ("loss.skcc", "loss.prcc"):
        for count in ("queries", "negatives"):
            low, high = get(config, f"{term}.{count}"), get(config, f"{term}.{count}_to")
            yield high == 0 or high >= low, f"{term}.{count}_to", f"expected {term}.{count}={low} or more"


def optim(config: Config) -> Iterator[Rule]:
    """Yield the rules of section ``optim``: how the global batch is divided among workers, passes and streams."""
    own = config.optim
    whole = "averaged weights need whole parameters; use run.zero=2 or less"
    yield own.ema == 0 or config.run.zero < 3, "optim.ema", whole
    near = max(round(own.batch / config.run.workers), 1) * config.run.workers
    workers = f"the global batch must be a multiple of run.workers={config.run.workers}; use optim.batch={near}"
    if own.batch % config.run.workers:
        yield False, "optim.batch", workers
        return
    each, most = per_worker(config), micro_batch(config)
    fits = next(people for people in range(most, 0, -1) if each % people == 0)
    micro = f"{each} per worker is not a multiple of optim.micro_batch={most}; use optim.micro_batch={fits}"
    yield each % most == 0, "optim.batch", micro
    streams = config.data.streams
    yield streams == 0 or own.batch % streams == 0, "data.streams", f"must divide optim.batch={own.batch}"


def semi(config: Config) -> Iterator[Rule]:
    """Yield the rules of section ``semi``; those of a method hold only where there is one."""
    own, method = config.semi, config.semi.method
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
