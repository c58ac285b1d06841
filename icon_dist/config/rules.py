"""What a config must satisfy before any data is opened."""

from __future__ import annotations

import re

from icon_dist.config.schema import Config, get, leaves, micro_batch, per_worker
from icon_dist.errors import ConfigError, shorten, shown

LARGEST = 1e18  # number that means anything


def _written(value: object) -> str:
    return shorten(value) if isinstance(value, str) else shown(value)


def validate(config: Config) -> None:
    """Every rule that needs no data. Raises ConfigError naming key, value and rule."""

    def check(ok: bool, key: str, rule: str) -> None:
        if not ok:
            raise ConfigError(f"{key}={_written(get(config, key))}: {rule}")

    def one_of(key: str, *values: str) -> None:
        check(get(config, key) in values, key, f"expected one of {', '.join(values)}")

    def positive(*keys: str) -> None:
        for key in keys:
            check(get(config, key) > 0, key, "expected a number above 0")

    def share(*keys: str) -> None:
        for key in keys:
            check(0 <= get(config, key) <= 1, key, "expected a share from 0 to 1")

    for key, value in leaves(config):
        if isinstance(value, int | float) and not isinstance(value, bool):
            check(0 <= value < LARGEST, key, f"expected a finite number, 0 or more, below {LARGEST:g}")

    one_of("run.launcher", "ray", "local")
    one_of("run.precision", "auto", "fp32", "bf16")
    check(config.run.zero in (0, 1, 2, 3), "run.zero", "DeepSpeed ZeRO has stages 0, 1, 2 and 3")
    check(config.run.gpus_per_worker in (0, 1), "run.gpus_per_worker", "a worker has one GPU or none")
    check(
        config.run.launcher == "ray" or config.run.workers == 1,
        "run.workers",
        "run.launcher=local is one process; use run.launcher=ray for more",
    )
    check(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.run.name) is not None,
        "run.name",
        "expected letters, digits, '.', '_' and '-'",
    )
    for key in ("run.dir", "data.train"):
        check(get(config, key) != "", key, "expected a path or s3://bucket/prefix")
    positive("run.workers", "run.cpus_per_worker", "run.checkpoint_every", "run.keep", "run.log_every")
    positive("run.max_skipped")
    check(
        config.run.workers_min <= config.run.workers,
        "run.workers_min",
        f"expected at most run.workers={config.run.workers}",
    )
    one_of("data.dataset", "coco", "mpii", "crowdpose", "custom", "fake")
    height, width = config.input_hw
    check(height % 32 == 0 and width % 32 == 0, "data.input", "height and width must be multiples of 32")
    positive("data.sigma")
    one_of("data.difficulty", "easy", "hard")
    one_of("data.codec", "msra", "dark", "udp")
    check(
        config.data.codec != "udp" or not config.model.backbone.startswith("opecnet_"),
        "data.codec",
        f"{config.model.backbone} reads features in whole strides of its heatmaps; use msra or dark",
    )
    check(config.data.max_bad_fraction < 1, "data.max_bad_fraction", "expected a share below 1")
    check(0 < config.data.labelled <= 1, "data.labelled", "expected a share above 0, up to 1")
    share("data.augment.rotation_p", "data.augment.flip_p", "data.augment.half_body_p")
    check(config.data.augment.scale < 1, "data.augment.scale", "expected less than 1")
    positive("model.embedding")
    check(
        not config.run.compile or config.run.zero < 3,
        "run.compile",
        "ZeRO-3 gathers parameters in hooks that a compiled model does not run; use run.zero=2 or less",
    )
    one_of("model.feature", "default", "all", "deconv")
    one_of("model.projection", "mlp", "linear")
    positive("loss.tau", "loss.points", "loss.bank.slots")
    one_of("loss.heatmap.reduction", "sum", "mean")
    one_of("loss.contrast", "inter", "intra")
    one_of("loss.counted", "visible", "labelled")
    one_of("loss.read", "bilinear", "nearest")
    one_of("loss.positives_from", "persons", "images")
    one_of("loss.entropy", "heatmap", "peak")
    one_of("loss.query_scope", "person", "batch")
    one_of("loss.bank.exchange", "sync", "async")
    one_of("loss.bank.wire", "fp32", "bf16")
    for term in ("loss.single", "loss.pair"):
        one_of(f"{term}.query", "hard", "random", "all")
        one_of(f"{term}.negative", "hard", "random", "all")
        one_of(f"{term}.category_score", "mean", "max")
        positive(f"{term}.queries", f"{term}.negatives")
        for count, strategy in (("queries", "query"), ("negatives", "negative")):
            low, high = get(config, f"{term}.{count}"), get(config, f"{term}.{count}_to")
            is_random = get(config, f"{term}.{strategy}") == "random"
            check(high == 0 or is_random, f"{term}.{count}_to", f"only {term}.{strategy}=random draws a number")
            check(high == 0 or high >= low, f"{term}.{count}_to", f"expected {term}.{count}={low} or more")
        ranked = get(config, f"{term}.negative") == "hard"
        by_mean = get(config, f"{term}.category_score") == "mean"
        check(ranked or by_mean, f"{term}.category_score", f"only {term}.negative=hard ranks categories")
    loss = config.loss
    if loss.contrast == "intra":
        for key, plain in (("positives_from", "persons"), ("negatives_from_others", False), ("max_negatives", 0)):
            rule = "loss.contrast=intra compares the points of one person, nobody else's"
            check(getattr(loss, key) == plain, f"loss.{key}", f"{rule}; leave it at {plain}")
    queries = {loss.single.query, loss.pair.query}
    check(
        loss.query_scope == "person" or queries != {"all"},
        "loss.query_scope",
        "loss.single.query=all and loss.pair.query=all leave nothing to choose; make one hard or random",
    )
    check(
        loss.entropy == "heatmap" or "hard" in queries,
        "loss.entropy",
        "only hard queries are scored; set loss.single.query=hard or loss.pair.query=hard",
    )
    check(
        loss.bank.exchange == "sync" or loss.bank.enabled,
        "loss.bank.exchange",
        "what arrives a step later goes into the bank; set loss.bank.enabled=true",
    )
    positive("optim.epochs", "optim.batch", "optim.micro_batch", "optim.lr")
    milestones = config.optim.milestones
    rising = all(type(m) is int for m in milestones) and all(
        a < b for a, b in zip((0, *milestones), milestones, strict=False)
    )
    check(rising, "optim.milestones", "expected rising epochs above 0")
    check(config.optim.ema < 1, "optim.ema", "expected a decay below 1, such as 0.999")
    check(
        config.optim.ema == 0 or config.run.zero < 3,
        "optim.ema",
        "averaged weights need whole parameters; use run.zero=2 or less",
    )
    check(
        config.optim.batch % config.run.workers == 0,
        "optim.batch",
        f"the global batch must be a multiple of run.workers={config.run.workers}",
    )
    check(
        per_worker(config) % micro_batch(config) == 0,
        "optim.batch",
        f"{per_worker(config)} per worker is not a multiple of optim.micro_batch={config.optim.micro_batch}",
    )
    check(
        config.data.streams == 0 or config.optim.batch % config.data.streams == 0,
        "data.streams",
        f"must divide optim.batch={config.optim.batch}",
    )
    positive("eval.every", "eval.batch")
    one_of("eval.decode", "quarter", "argmax", "dark")
    one_of("eval.engine", "pycocotools", "fast")
    one_of("semi.method", "none", "pseudo", "sspose")
    check(0 < config.semi.unlabelled_share < 1, "semi.unlabelled_share", "expected a share between 0 and 1")
    positive("semi.cutout")
    semi = config.semi.method
    if semi != "none":
        check(
            config.run.zero < 3, "run.zero", f"semi.method={semi} runs a network twice a step; use run.zero=2 or less"
        )
        people, part = micro_batch(config), config.semi.unlabelled_share
        check(
            abs(people * part - round(people * part)) < 1e-6 and 0 < round(people * part) < people,
            "semi.unlabelled_share",
            f"{people * part:g} of the {people} people of a micro-batch; expected a whole number of each kind",
        )
        streams, others = config.data.streams, round(config.optim.batch * part)
        check(
            streams == 0 or (others % streams == 0 and (config.optim.batch - others) % streams == 0),
            "data.streams",
            f"must divide both the {config.optim.batch - others} labelled and the {others} other people of a batch",
        )
    check(
        semi == "none" or config.data.labelled < 1,
        "data.labelled",
        f"semi.method={semi} needs people without labels; give a share below 1",
    )
    check(
        semi != "pseudo" or config.semi.teacher != "",
        "semi.teacher",
        "semi.method=pseudo needs a trained run or a fetched file",
    )
