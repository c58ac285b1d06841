"""Left and right exchanged: in the flips of a skeleton, in the joint order of a file, or in photos that were mirrored.

Three signs, each with what real sets show (LSP, LSP extended, COCO and MPII val, CrowdPose val):

- Two links that mirror each other (left and right knee to ankle) are shorter in all than the same four joints linked
  crosswise. True for 95 to 100 % of people where the difference is clear; exchange one end and it is 0 to 5 %.
- Of people whose nose and both eyes are visible the photo shows the front: with the head up, the left shoulder is on
  the right. True for 99 %; mirror a share of the photos without exchanging the labels and that share is lost.
- Without face joints only a majority faces the camera: 64 to 83 %.

The first sign is relative, so it finds a wrong end anywhere along the body; the others find a whole body exchanged.
They are of upright bodies: a skeleton is judged by them only if its joints have the names of a person's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icon_dist.datasets.joint_names import mirror_pairs
from icon_dist.types import Skeleton

Keypoints = NDArray[np.float32]  # [n, K, 3]
LINKS, FACES, FRONTS = 0.8, 0.9, 0.5  # smallest shares that pass
CLEAR = 0.05  # links and crosswise links differ by at least this share of the longer
WIDE = 0.25  # shoulders at least this wide, in torso lengths: not seen from the side
FEWEST = 20  # people to judge by
PERSON = ("sho", "elb", "wri", "hip", "kne", "ank")  # parts of the names of a person's joints, in all skeletons
ANIMAL = ("paw", "hoof", "tail", "wing")


@dataclass(frozen=True)
class Sign:
    """How many people agree with a sign of right labels."""

    what: str
    agree: int
    people: int
    expected: float

    @property
    def share(self) -> float:
        """The share 0..1 of the instances that agree with the sign; 0 if there are none to judge by."""
        return self.agree / max(self.people, 1)

    @property
    def alarming(self) -> bool:
        """Below the expected share by three standard errors."""
        error = (self.expected * (1 - self.expected) / max(self.people, 1)) ** 0.5
        return self.people >= FEWEST and self.share < self.expected - 3 * error


def wrong_flips(skeleton: Skeleton) -> list[str]:
    """Joints that are left and right by their names, and are not exchanged with each other by ``flips``."""
    other, joints = skeleton.mirrored, skeleton.joints
    return [
        f"skeleton {skeleton.name}: {joints[a]} and {joints[b]} are not a pair of its flips; correct the skeleton"
        for a, b in sorted(map(sorted, mirror_pairs(joints)))
        if other[a] != b
    ]


def links(keypoints: Keypoints, skeleton: Skeleton) -> Iterator[Sign]:
    """Yield one sign per pair of mirrored limbs or bones, and one for the torso: left is linked to left.

    ``keypoints`` are [n, K, 3] with v > 0 where a joint is labeled. An instance counts where all four joints are
    labeled and the straight and the crosswise links differ clearly in length. It agrees if the straight ones are
    shorter.
    """
    other = skeleton.mirrored
    torso = [(skeleton.torso[0], other[skeleton.torso[1]])]
    seen: set[frozenset[frozenset[int]]] = set()
    for a, b in (*skeleton.limbs, *skeleton.bones, *torso):
        c, d = other[a], other[b]
        both = frozenset((frozenset((a, b)), frozenset((c, d))))
        if c == a or d in (a, b) or both in seen:
            continue
        seen.add(both)
        q = keypoints[(keypoints[:, [a, b, c, d], 2] > 0).all(1), :, :2].astype(np.float64)

        def apart(i: int, j: int, q: NDArray[np.float64] = q) -> NDArray[np.float64]:
            length: NDArray[np.float64] = np.linalg.norm(q[:, i] - q[:, j], axis=-1)
            return length

        straight, crossed = apart(a, b) + apart(c, d), apart(a, d) + apart(c, b)
        clear = np.abs(straight - crossed) > CLEAR * np.maximum(straight, crossed)
        what = f"{skeleton.joints[a]} to {skeleton.joints[b]}, left and right not crossed"
        yield Sign(what, int((straight < crossed)[clear].sum()), int(clear.sum()), LINKS)


def upright(skeleton: Skeleton) -> bool:
    """Whether the joints are those of a person, with a torso from shoulder to hip."""
    names = [name.lower() for name in skeleton.joints]
    of_person = all(any(part in name for name in names) for part in PERSON)
    of_animal = any(part in name for name in names for part in ANIMAL)
    shoulder, hip = (names[joint] for joint in skeleton.torso)
    return of_person and not of_animal and "sho" in shoulder and "hip" in hip


def front(keypoints: Keypoints, skeleton: Skeleton) -> Iterator[Sign]:
    """Yield at most one sign: instances whose left shoulder is on the right of the upright body, as in front views.

    ``keypoints`` are [n, K, 3] with v > 0 where a joint is labeled. Nothing is yielded for a skeleton that is not a
    person's, or whose shoulders or hips have no mirrored joints. If the skeleton has at least three face joints, an
    instance counts only where all of them are visible; one that is seen from the side never counts.
    """
    left, right_hip = skeleton.torso
    right, left_hip = skeleton.mirrored[left], skeleton.mirrored[right_hip]
    if right == left or left_hip == right_hip or not upright(skeleton):
        return
    face = [j for j, name in enumerate(skeleton.joints) if "nose" in name or "eye" in name]
    known = len(face) >= 3
    rows = (keypoints[:, [left, right, left_hip, right_hip], 2] > 0).all(1)
    if known:  # seen, not only labelled: some sets label the nose of a head that is turned away
        rows &= (keypoints[:, face, 2] >= skeleton.visible_at).all(1)
    q = keypoints[rows, :, :2].astype(np.float64)
    up = (q[:, left] + q[:, right] - q[:, left_hip] - q[:, right_hip]) / 2
    across = q[:, left] - q[:, right]
    turn = up[:, 0] * across[:, 1] - up[:, 1] * across[:, 0]  # > 0: left is on the right of the upright body
    wide = np.abs(turn) > WIDE * (up**2).sum(1)
    what = "left shoulder on the right, of people with visible nose and eyes" if known else "left shoulder on the right"
    yield Sign(what, int((turn > 0)[wide].sum()), int(wide.sum()), FACES if known else FRONTS)


def signs(keypoints: Keypoints, skeleton: Skeleton) -> list[Sign]:
    """All signs of a set of people ``[n, K, 3]``, raw v."""
    return [*links(keypoints, skeleton), *front(keypoints, skeleton)]
