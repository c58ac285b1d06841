"""Values that would do nothing beside the others: refused where somebody sets them, not in old checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from icon_dist.config.schema import Changes, Config, get
from icon_dist.config.validation import refusal
from icon_dist.errors import ConfigError, raise_all

Unused = tuple[bool, tuple[str, ...], str]  # whether these keys do nothing here, and why


def refuse_unused(config: Config) -> None:
    """ConfigError where a value that is not its default has no effect."""
    default, errors = Config(), list[ConfigError]()
    for key, why in _unused(config).items():
        plain = get(default, key)
        errors.append(ConfigError(refusal(config, key, why if plain == "" else f"{why}; leave it at {plain}")))
    raise_all(errors)


def defaults_of_unused(config: Config) -> Changes:
    """The defaults of the keys whose values have no effect: what :func:`refuse_unused` wants them to be."""
    default = Config()
    return {key: get(default, key) for key in _unused(config)}


def _unused(config: Config) -> dict[str, str]:
    """The keys whose values have no effect and are not their defaults, each with the reason."""
    default = Config()
    found: dict[str, str] = {}
    for unused, keys, why in unused_keys(config):
        for key in keys:
            if unused and get(config, key) != get(default, key):
                found.setdefault(key, why)
    return found


def unused_keys(config: Config) -> Iterator[Unused]:
    """What presets set is not among these, such as ``loss.bank.slots`` and ``data.generate``: others extend them.

    But for what ``coco_vit_s`` and ``coco_vit_b`` set of their layers: another backbone must say that it has none.
    """
    data, loss, semi = config.data, config.loss, config.semi
    yield data.labelled == 1, ("data.split_seed",), "data.labelled=1 leaves nobody without labels"
    yield data.augment.half_body_p == 0, ("data.augment.half_body_min",), "data.augment.half_body_p=0 cuts nobody"
    for term, section in (("loss.skcc", loss.skcc), ("loss.prcc", loss.prcc)):
        random = f"only {term}.{{}}=random draws a number"
        yield section.query != "random", (f"{term}.queries_to",), random.format("query")
        yield section.negative != "random", (f"{term}.negatives_to",), random.format("negative")
        every = f"{term}.{{}}=all takes all of them"
        yield section.query == "all", (f"{term}.queries",), every.format("query")
        yield section.negative == "all", (f"{term}.negatives",), every.format("negative")
        ranks = f"only {term}.negative=hard ranks categories"
        yield section.negative != "hard", (f"{term}.category_score",), ranks
    others = (
        *("loss.positives_from", "loss.negatives_from_others", "loss.max_negatives", "loss.products"),
        *("loss.bank.exchange", "loss.bank.wire", "loss.bank.budget"),
    )
    yield loss.contrast == "intra", others, "loss.contrast=intra compares the points of one person, nobody else's"
    yield loss.lambda_2 == 0, ("loss.relation",), "loss.lambda_2=0 leaves PRCC out"
    queries = {loss.skcc.query, loss.prcc.query}
    nothing = "loss.skcc.query=all and loss.prcc.query=all leave nothing to choose; make one hard or random"
    yield queries == {"all"}, ("loss.query_scope",), nothing
    scored = "only hard queries are scored; set loss.skcc.query=hard or loss.prcc.query=hard"
    yield "hard" not in queries, ("loss.entropy",), scored
    stored = "what arrives a step later goes into the bank; give it loss.bank.slots"
    yield loss.bank.slots == 0, ("loss.bank.exchange",), stored
    refines = config.model.backbone.startswith("opecnet_")
    yield not refines, ("eval.refine_below",), "only an OPEC-Net refines joints"
    layers = not config.model.backbone.startswith("vit_")
    yield layers, ("model.drop_path", "optim.layer_decay"), "only the backbones vit_... have layers in a row"
    both = ("semi.gamma", "semi.unlabelled_share")
    yield semi.method == "none", both, "semi.method=none learns from labelled people alone"
    taught = ("semi.teacher", "semi.cache", "semi.lambda_u")
    yield semi.method != "pseudo", taught, "only semi.method=pseudo has a teacher"
    students = ("semi.lessons", "semi.compat")
    yield semi.method != "sspose", students, "only semi.method=sspose has two students and a hard view"
