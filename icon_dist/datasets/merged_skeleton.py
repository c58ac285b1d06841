"""One skeleton of several: the joints of the first, then each new name of the next. Joints are the same by name alone.

What belongs to joints (mirror images, halves of the body) must agree where several skeletons have them; limbs and bones
are those of all. Constants that only scoring reads stay those of the first: every set is scored with its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from icon_dist.datasets.joint_names import meaning, unnumbered
from icon_dist.datasets.skeleton import MAX_JOINTS
from icon_dist.errors import DataError, shorten, shown
from icon_dist.types import Skeleton

Pairs = tuple[tuple[int, int], ...]
NUMBERED = re.compile(r"joint_\d+")  # as joints are called that their file does not name


def merged(skeletons: Sequence[Skeleton], *, names: Sequence[str]) -> Skeleton:
    """The skeleton of all; ``names`` are what the sets are called. DataError where two do not fit together."""
    if len(skeletons) == 1:
        return skeletons[0]
    joints = tuple(dict.fromkeys(joint for one in skeletons for joint in one.joints))
    if len(joints) > MAX_JOINTS:
        raise DataError(f"data.train: {len(joints)} joints of all sets together; at most {MAX_JOINTS} are possible")
    conflicts = [*_mirrored_otherwise(skeletons, names), *_in_both_halves(skeletons)]
    if conflicts:
        fix = "joints of one name must be the same: rename them in the skeleton of one set and build it again"
        raise DataError(f"data.train: {shorten('; '.join(conflicts), 400)}; {fix}")
    first = skeletons[0]
    sigma = {joint: value for one in reversed(skeletons) for joint, value in zip(one.joints, one.sigmas, strict=True)}
    torso = next((pair for pair in (_named(one, one.torso) for one in skeletons) if len({*pair}) == 2), joints[:1] * 2)
    index = joints.index

    def pairs(field: str) -> Pairs:
        """The pairs of all skeletons, each once, whichever end comes first."""
        found: dict[frozenset[str], tuple[str, ...]] = {}
        for one in skeletons:
            for pair in getattr(one, field):
                ends = _named(one, pair)
                found.setdefault(frozenset(ends), ends)
        return tuple((index(a), index(b)) for a, b in found.values())

    def group(field: str) -> tuple[int, ...]:
        """The joints that are in a half of the body in any of the skeletons."""
        return tuple(sorted({index(joint) for one in skeletons for joint in _named(one, getattr(one, field))}))

    return Skeleton(
        name="+".join(dict.fromkeys(one.name for one in skeletons)),
        joints=joints,
        flips=pairs("flips"),
        limbs=pairs("limbs"),
        bones=pairs("bones"),
        sigmas=tuple(sigma[joint] for joint in joints),
        visible_at=max(one.visible_at for one in skeletons),
        upper=group("upper"),
        lower=group("lower"),
        metric=first.metric,
        torso=(index(torso[0]), index(torso[1])),
    )


def columns(whole: Skeleton, part: Skeleton) -> NDArray[np.int64]:
    """Where each joint of ``part`` is among those of ``whole``, which has them all."""
    return np.array([whole.joints.index(joint) for joint in part.joints], dtype=np.int64)


def missing(skeleton: Skeleton, other: Skeleton) -> list[str]:
    """Joints of ``other`` that ``skeleton`` does not have."""
    return [joint for joint in other.joints if joint not in skeleton.joints]


def other_mirrors(whole: Skeleton, part: Skeleton) -> list[str]:
    """Joints of both that a mirror exchanges with another joint in one of them than in the other."""
    there, here = _mirrors(whole), _mirrors(part)
    return [joint for joint in part.joints if joint in there and there[joint] != here[joint]]


def near_names(skeletons: Sequence[Skeleton], names: Sequence[str]) -> Iterator[str]:
    """Notes about joints that are kept apart, though only the spelling of their names seems to differ."""
    by_meaning: dict[str, dict[str, str]] = {}  # spellings, each with the set that has it first
    for one, name in zip(skeletons, names, strict=True):
        for joint, plain in zip(one.joints, unnumbered(one.joints), strict=True):
            by_meaning.setdefault(meaning(plain), {}).setdefault(joint, name)
    close = [spelt for spelt in by_meaning.values() if len({*spelt.values()}) > 1]
    if close:
        said = ", ".join(" and ".join(f"{shown(j)} of {name}" for j, name in spelt.items()) for spelt in close)
        kept = "joints with near names are kept apart, each with a heatmap of its own"
        fix = "if they are the same, give them one name in the skeletons and build again"
        yield f"data.train: {kept}: {shorten(said, 300)}; {fix}"
    numbers = [{joint for joint in one.joints if NUMBERED.fullmatch(joint)} for one in skeletons]
    for at, (one, name) in enumerate(zip(skeletons, names, strict=True)):
        for before in range(at):
            if numbers[before] & numbers[at] and skeletons[before] != one:
                what = f"joints of {names[before]} and {name} are numbered, and taken as one by their numbers"
                yield f"data.train: {what}; if they are not the same, give them names and build again"


def _named(skeleton: Skeleton, numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(skeleton.joints[number] for number in numbers)


def _mirrors(skeleton: Skeleton) -> dict[str, str]:
    """For every joint the one that a mirror shows in its place, by name."""
    return dict(zip(skeleton.joints, _named(skeleton, skeleton.mirrored), strict=True))


def _mirrored_otherwise(skeletons: Sequence[Skeleton], names: Sequence[str]) -> Iterator[str]:
    """Conflicts of flips: a joint that is exchanged with another one, or with none, in a later skeleton."""
    known: dict[str, tuple[str, str]] = {}  # joint -> its mirror image, and the first set that says so
    for one, name in zip(skeletons, names, strict=True):
        for joint, other in _mirrors(one).items():
            before, where = known.setdefault(joint, (other, name))
            if before != other:
                yield f"flips: {_exchange(joint, before)} in {where}, {_exchange(joint, other)} in {name}"


def _exchange(joint: str, other: str) -> str:
    return f"{joint} changes places with {'no other' if joint == other else other}"


def _in_both_halves(skeletons: Sequence[Skeleton]) -> Iterator[str]:
    """Conflicts of halves: a joint that is in the upper half of one and in the lower half of another."""
    upper = {joint for one in skeletons for joint in _named(one, one.upper)}
    lower = {joint for one in skeletons for joint in _named(one, one.lower)}
    inside = {joint for one in skeletons for joint in {*_named(one, one.upper)} & {*_named(one, one.lower)}}
    for joint in sorted(upper & lower - inside):
        yield f"upper, lower: {joint} is in the upper half of one set and in the lower half of another"
