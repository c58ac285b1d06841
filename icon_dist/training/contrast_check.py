"""Whether the terms of contrast fit the data: a skeleton's joints and limbs, and the people who show them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from icon_dist.config import ContrastConfig, LossConfig
from icon_dist.errors import ConfigError, plural
from icon_dist.losses.limb_pairs import ORDERS, relations
from icon_dist.shards.label_split import Split
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Skeleton


class Term(NamedTuple):
    """One of the two terms of contrast."""

    key: str  # of its section
    weight: str  # key of its weight
    joints: list[tuple[int, ...]]  # of each category
    one: str  # category

    @property
    def categories(self) -> int:
        """How many there are."""
        return len(self.joints)


def terms(skeleton: Skeleton, relation: str = "pairs") -> tuple[Term, Term]:
    """Both, with what a skeleton has for them."""
    one = "limb pair" if relation == "pairs" else f"{ORDERS[relation]}-joint chain"
    return (
        Term("skcc", "lambda_1", [(joint,) for joint in range(skeleton.num_joints)], "joint"),
        Term("prcc", "lambda_2", relations(skeleton, relation), one),
    )


def switched_on(loss: LossConfig, skeleton: Skeleton) -> list[Term]:
    """Those that are switched on."""
    return [term for term in terms(skeleton, loss.relation) if loss.lambda_p > 0 and getattr(loss, term.weight) > 0]


class Misfit(NamedTuple):
    """A value of contrast that a skeleton has too few joints or limbs for."""

    key: str
    what: str
    fits: int  # the nearest value that is possible


def misfits(loss: LossConfig, skeleton: Skeleton) -> Iterator[Misfit]:
    """Numbers of queries above the number of categories, and of negatives above that of all others."""
    for term in switched_on(loss, skeleton):
        have = f"skeleton {skeleton.name} has {plural(term.categories, term.one)}"
        weight = f"loss.{term.weight}"
        if term.categories < 2:
            yield Misfit(weight, f"{weight}={getattr(loss, term.weight)}: {have}, contrast needs 2", 0)
            continue
        section: ContrastConfig = getattr(loss, term.key)
        for strategy, name, most in (
            (section.query, "queries", term.categories),
            (section.negative, "negatives", term.categories - 1),
        ):
            for key in (name, f"{name}_to"):
                value = getattr(section, key)
                if strategy != "all" and value > most:
                    whole = f"loss.{term.key}.{key}"
                    yield Misfit(whole, f"{whole}={value}: {have}; expected at most {most}", most)


def check_contrast(loss: LossConfig, skeleton: Skeleton) -> None:
    """ConfigError of every misfit, with the overrides that mend them all."""
    if found := list(misfits(loss, skeleton)):
        mended = " ".join(f"{misfit.key}={misfit.fits}" for misfit in found)
        raise ConfigError(f"{'; also '.join(misfit.what for misfit in found)}; set {mended}")


def unseen(loss: LossConfig, shards: ShardSet, known: Split) -> Iterator[str]:
    """Terms of contrast that would be 0 because too few people have any of their categories."""
    skeleton = shards.skeleton
    needed = 2 if loss.contrast == "inter" else 1  # people, each the other's positive
    for term in switched_on(loss, skeleton):
        if _most_with(term, shards, known, least=skeleton.visible_at if loss.counted == "visible" else 1) >= needed:
            continue
        where = f"loss.{term.weight}={getattr(loss, term.weight)}: this term of contrast would be 0, because "
        if loss.counted == "visible" and _most_with(term, shards, known, least=1) >= needed:
            rule = f"v >= {skeleton.visible_at} in skeleton {skeleton.name}"
            yield f"{where}no {term.one} of data.train counts as visible ({rule}); set loss.counted=labelled"
        else:
            yield f"{where}no {term.one} of data.train is labelled; set loss.{term.weight}=0"


def _most_with(term: Term, shards: ShardSet, known: Split, *, least: int) -> int:
    """Labelled people who have the most common category of a term."""
    there = (shards.keypoints[..., 2] >= least)[known.labelled]
    return max((int(there[:, list(joints)].all(axis=1).sum()) for joints in term.joints), default=0)
