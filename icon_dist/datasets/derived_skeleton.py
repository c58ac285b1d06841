"""The skeleton of a set that comes without one: joints and bones of its file, sides by flips or names, the rest
estimated.

What no file says and the labels do not show is taken from COCO where joints have its names, else its mean. All of it
is said in notes, and can be corrected in the YAML file beside the shards.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icon_dist.datasets import coco, crowdpose, mpii
from icon_dist.datasets.annotation_file import Faults
from icon_dist.datasets.joint_names import are_positions, mirror_pairs, sided, standard, unnumbered
from icon_dist.datasets.skeleton import SMALLEST_SIGMA, read_skeleton, skeleton_from_dict, skeleton_to_dict
from icon_dist.errors import ConfigError, DataError, naming, plural, shown
from icon_dist.types import Skeleton, mirror_order

F64 = NDArray[np.float64]
Pairs = tuple[tuple[int, int], ...]

SHIPPED = Path(__file__).parent
CODED = {one.name: one for one in (coco.SKELETON, crowdpose.SKELETON, mpii.SKELETON)}
FEWEST_NAMES = 5  # by which a public set is known
LARGEST_SAMPLE = 2000  # people by whom bones are estimated
FEWEST_TWICE = 10  # measurements of a joint that people labelled twice must give for a sigma of its own
COCO_SIGMA = dict(zip(coco.SKELETON.joints, coco.SKELETON.sigmas, strict=True))
MEAN_SIGMA = round(sum(coco.SKELETON.sigmas) / len(coco.SKELETON.sigmas), 3)
LOWER = ("hip", "knee", "ankle", "foot", "toe", "heel", "pelvis")  # words of the lower half of a person
ANIMAL = ("paw", "hoof", "tail", "wing", "fin", "leg")


@dataclass(frozen=True)
class Evidence:
    """What a set says of its joints."""

    name: str
    joints: tuple[str, ...]
    flips: Pairs | None = None  # None: nothing is said
    bones: Pairs = ()
    visible_at: int = 2
    keypoints: F64 = field(default_factory=lambda: np.zeros((0, 1, 3)))  # [n, K, 3] of its people, px and v
    twice: Sequence[tuple[F64, F64, float]] = ()  # people labelled twice: two [K, 3] and the area, px and px^2
    sigmas: tuple[float, ...] = ()  # asked for: one for all, or one a joint

    @property
    def names(self) -> list[str]:
        """The joints as they are called here."""
        return [standard(name) for name in unnumbered(self.joints)]


def derive(said: Evidence) -> tuple[Skeleton, list[str]]:
    """A skeleton, and notes that say where its parts are from."""
    if (known := shipped(said.joints)) is not None and said.flips in (None, known.flips) and not said.sigmas:
        return known, [f"skeleton {known.name}, as the names of its {len(known.joints)} joints say"]
    flips, of_flips = _flips(said)
    bones, of_bones = _bones(said, flips)
    sigmas, of_sigmas = _sigmas(said)
    names = said.names
    upper, lower = _halves(names)
    torso = [names.index(name) for name in ("left_shoulder", "right_hip") if name in names]
    name = "".join(letter for letter in said.name if letter.isprintable()) or "derived"
    skeleton = Skeleton(
        name=name,
        joints=said.joints,
        flips=flips,
        limbs=_limbs(names, bones, flips),
        bones=bones,
        sigmas=sigmas,
        visible_at=said.visible_at,
        upper=upper,
        lower=lower,
        metric="coco",
        torso=(torso[0], torso[1]) if len(torso) == 2 else (0, 0),
    )
    skeleton = skeleton_from_dict(skeleton_to_dict(skeleton), source="derived skeleton")
    parts = "; ".join((plural(len(names), "joint"), of_flips, of_bones, of_sigmas))
    return skeleton, [f"skeleton derived: {parts}", *_contradictions(skeleton)]


def derived_for(faults: Faults, said: Evidence) -> Skeleton:
    """What :func:`derive` makes for the file of ``faults``, which take its notes; an error of it names the file."""
    with naming(str(faults.source)):
        skeleton, notes = derive(said)
    faults.note(*notes)
    return skeleton


def shipped(joints: Sequence[str]) -> Skeleton | None:
    """The skeleton of a public set with these joints in this order, whatever way the names are written."""
    names = tuple(map(standard, unnumbered(joints)))
    return next((dataclasses.replace(one, joints=tuple(joints)) for known, one in _shipped() if known == names), None)


def order_of(names: Iterable[str]) -> tuple[str, ...]:
    """Names of joints in the order of a public set that has the same ones, else COCO's first and the others by name."""
    written = {standard(name): name for name in sorted(names)}
    for known, one in _shipped():
        if set(known) == set(written):
            return one.joints
    at = {joint: number for number, joint in enumerate(coco.SKELETON.joints)}
    order = sorted(written, key=lambda name: (at.get(name, len(at)), [*map(_natural, re.findall(r"\d+|\D+", name))]))
    return tuple(written[name] for name in order)


def _natural(word: str) -> tuple[int, str]:
    return (int(word[:9]), "") if word.isdecimal() else (-1, word)


def shipped_as(names: Sequence[str], joints: int) -> tuple[str, ...] | None:
    """Joints of the public set of so many ``joints`` that begins with these names, five at least."""
    first = tuple(map(standard, names))
    if len(first) < FEWEST_NAMES:
        return None
    return next((o.joints for known, o in _shipped() if len(known) == joints and known[: len(first)] == first), None)


def find_skeleton(name_or_yaml: str | Path | Skeleton) -> Skeleton:
    """A skeleton itself, the one in a YAML file, or by name one of those that ship here."""
    if isinstance(name_or_yaml, Skeleton):
        return name_or_yaml
    name = str(name_or_yaml)
    if name in CODED:
        return CODED[name]
    shipped = SHIPPED / f"{name}.yaml"
    return read_skeleton(shipped if Path(name).name == name and shipped.is_file() else name_or_yaml)


@functools.cache
def _shipped() -> list[tuple[tuple[str, ...], Skeleton]]:
    """Skeletons of public sets, each with the standard names of its joints."""
    every = (*CODED.values(), *map(read_skeleton, sorted(SHIPPED.glob("*.yaml"))))
    return [(tuple(map(standard, one.joints)), one) for one in every]


def numbered(count: int) -> tuple[str, ...]:
    """Names of joints that have none, by their position from 0."""
    return tuple(f"joint_{number}" for number in range(count))


def _flips(said: Evidence) -> tuple[Pairs, str]:
    if said.flips is not None:
        return said.flips, f"{plural(len(said.flips), 'pair')} of left and right as the file says"
    pairs = mirror_pairs(said.joints)
    paired = {joint for pair in pairs for joint in pair}
    first: dict[str, int] = {}
    for joint, name in enumerate(said.names):
        if (other := first.setdefault(name, joint)) != joint and joint in paired:
            both = f"{shown(said.joints[other])} and {shown(said.joints[joint])}"
            raise DataError(f"joints {both} have one name in two spellings; give each a name of its own")
    if not pairs:
        fix = _no_sides(said.joints)
        return (), f"no left and right in the names, so none change places in a mirrored image ({fix})"
    alone = [joint for joint in sided(said.joints) if joint not in paired]
    without = f" ({shown(said.joints[alone[0]])} the first of {len(alone)} without its other side)" if alone else ""
    return pairs, f"{plural(len(pairs), 'pair')} of left and right by the names{without}"


def _no_sides(joints: tuple[str, ...]) -> str:
    """What to do where names have no sides; if they are only numbers, they may be the joints of a public set."""
    unnamed = are_positions(joints)
    public = [one.name for names, one in _shipped() if unnamed and len(names) == len(joints)]
    which = f", or one of {', '.join(sorted(public))} if these are its joints" if public else ""
    return f"if there are sides, pass --skeleton with flips{which}, or train with data.augment.flip_p=0"


def _contradictions(skeleton: Skeleton) -> list[str]:
    order = skeleton.mirrored
    wrong = [(a, b) for a, b in mirror_pairs(skeleton.joints) if order[a] != b]
    if not wrong:
        return []
    a, b = (skeleton.joints[j] for j in wrong[0])
    of = plural(len(wrong), "pair")
    return [f"{of} of left and right by the names are none by flip_idx ({a} and {b} the first); correct one of them"]


def _limbs(names: list[str], bones: Pairs, flips: Pairs) -> Pairs:
    """Pairs for the contrast of limbs: a person's arms and legs, else the bones whose mirror image is a bone."""
    if of_person := _by_coco_names(names, coco.SKELETON.limbs):
        return of_person
    order, there = mirror_order(len(names), flips), {frozenset(bone) for bone in bones}
    return tuple((a, b) for a, b in bones if frozenset((order[a], order[b])) in there)


def _by_coco_names(names: list[str], pairs: Pairs) -> Pairs:
    """Those of COCO's ``pairs`` whose joints are among ``names``, as numbers of these."""
    ends = ((coco.SKELETON.joints[a], coco.SKELETON.joints[b]) for a, b in pairs)
    return tuple((names.index(a), names.index(b)) for a, b in ends if a in names and b in names)


def _halves(names: list[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Joints of the upper and lower half of a person; two empty groups for whatever is none."""
    whole = {"left_shoulder", "right_shoulder", "left_hip", "right_hip", "left_knee"} <= set(names)
    if not whole or any(word in ANIMAL for name in names for word in name.split("_")):
        return (), ()
    low = [any(word in name.split("_") for word in LOWER) for name in names]
    return tuple(j for j, is_low in enumerate(low) if not is_low), tuple(j for j, is_low in enumerate(low) if is_low)


def _bones(said: Evidence, flips: Pairs) -> tuple[Pairs, str]:
    """The file's bones; without any, COCO's by name and the shortest tree that joins the other joints to them."""
    if said.bones:
        return said.bones, f"{plural(len(said.bones), 'bone')} of the file"
    names = said.names
    named = _by_coco_names(names, coco.SKELETON.bones)
    added = _shortest_tree(_distances(said.keypoints, flips, len(names)), named, flips)
    text = f"{plural(len(named) + len(added), 'bone')}, "
    text += f"{len(added)} of them estimated" if named and added else "by the names" if named else "estimated"
    return (*named, *added), text + (" as the shortest links" if added else "")


def _distances(keypoints: F64, flips: Pairs, joints: int) -> F64:
    """Median distance ``[K, K]`` of two joints in parts of the person's extent; inf where nobody has both.

    A pair and its mirror image have the same.
    """
    far = np.full((joints, joints), np.inf)
    people = keypoints[(keypoints[..., 2] > 0).sum(axis=1) >= 2][:LARGEST_SAMPLE]
    if not len(people):
        return far
    xy = np.where(people[..., 2:] > 0, people[..., :2], np.nan)
    extent = np.maximum(np.nanmax(xy, axis=1) - np.nanmin(xy, axis=1), 1e-9).max(axis=1)
    for a in range(joints):
        apart = np.linalg.norm(xy - xy[:, a : a + 1], axis=2) / extent[:, None]
        for b in range(joints):
            both = apart[:, b][~np.isnan(apart[:, b])]
            far[a, b] = np.median(both) if len(both) else np.inf
    order = mirror_order(joints, flips)
    return np.asarray((far + far[order][:, order]) / 2)


def _shortest_tree(distances: F64, named: Iterable[tuple[int, int]], flips: Pairs) -> list[tuple[int, int]]:
    """Links that join all joints to each other, the shortest first (Kruskal), and their mirror images."""
    joints = len(distances)
    order, group = mirror_order(joints, flips), list(range(joints))

    def join(a: int, b: int) -> bool:
        """Make one group of those of ``a`` and ``b``; whether they were two."""
        first, second = group[a], group[b]
        group[:] = [first if g == second else g for g in group]
        return first != second

    for a, b in named:
        join(a, b)
    links: list[tuple[int, int]] = []
    every = [(a, b) for a in range(joints) for b in range(a + 1, joints)]
    for a, b in sorted(every, key=lambda link: float(distances[link])):
        if np.isfinite(distances[a, b]) and join(a, b):
            links.append((a, b))
            c, d = sorted((order[a], order[b]))
            if (c, d) not in links:
                join(c, d)
                links.append((c, d))
    return links


def _sigmas(said: Evidence) -> tuple[tuple[float, ...], str]:
    joints = len(said.joints)
    if said.sigmas:
        if len(said.sigmas) not in (1, joints):
            raise ConfigError(f"--sigmas: {len(said.sigmas)} numbers, {plural(joints, 'joint')}; give one, or one each")
        return (said.sigmas * joints)[:joints], "sigmas as asked for"
    measured = _measured_sigmas(said.twice, joints)
    names = said.names
    own = {j: COCO_SIGMA[name] for j, name in enumerate(names) if name in COCO_SIGMA and j not in measured}
    sigmas = tuple(measured.get(j) or own.get(j) or MEAN_SIGMA for j in range(joints))
    rest = joints - len(measured) - len(own)
    parts = [
        f"{len(measured)} from people labelled twice" if measured else "",
        f"{len(own)} of COCO's joints" if own else "",
        f"{rest} by COCO's mean {MEAN_SIGMA} (--sigmas gives others)" if rest else "",
    ]
    return sigmas, "sigmas: " + ", ".join(filter(None, parts))


def _measured_sigmas(twice: Sequence[tuple[F64, F64, float]], joints: int) -> dict[int, float]:
    """How far apart two people put the same joint, as COCO measured its sigmas, by the median, for some err.

    COCO: sigma^2 = E[d^2 / s^2], d the distance from the truth, s^2 the area (cocodataset.org, keypoints evaluation).
    Two labels are sqrt(2) as far from each other; squares of Gaussian distances in the plane have a median of ln 2
    means.
    """
    found = {}
    for j in range(joints):
        both = [
            float(((a[j, :2] - b[j, :2]) ** 2).sum() / area)
            for a, b, area in twice
            if a[j, 2] > 0 and b[j, 2] > 0 and area > 0
        ]
        if len(both) >= FEWEST_TWICE:
            sigma = float(np.sqrt(np.median(both) / (2 * np.log(2))))
            found[j] = round(min(max(sigma, SMALLEST_SIGMA), 1.0), 4)
    return found
