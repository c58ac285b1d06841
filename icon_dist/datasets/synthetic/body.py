"""Dressing a pose: skin, hair, face, clothes and their textures as round cones (units of the standing height)."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_dist.datasets.synthetic.canvas import F32, F64, Paint, Part
from icon_dist.datasets.synthetic.pose import HEAD, THIGH, UPPER_ARM, Pose, Rng, across, unit

SKIN = np.array([[247, 214, 190], [234, 186, 150], [205, 150, 110], [160, 105, 70], [110, 68, 44], [74, 45, 32]])
HAIR = np.array(
    [[28, 22, 20], [60, 38, 24], [104, 66, 34], [170, 120, 60], [214, 178, 104], [150, 60, 30], [150, 148, 146]]
)
WHITE, DARK, MOUTH, BUCKLE = np.array([[240, 240, 240], [25, 20, 20], [170, 70, 70], [225, 205, 120]], dtype=np.float32)
KINDS = ("plain", "stripes", "bars", "checks", "dots", "speckle")
TABLE = np.random.default_rng(7).random((64, 64)).astype(np.float32)  # speckle: one fixed sheet of noise


@dataclass(frozen=True)
class Cloth:
    """The cloth of a garment: a pattern of two colors that repeats every ``period`` (share of the standing height).

    Called with positions on a limb it returns their colors.
    """

    kind: str  # of KINDS
    base: F32  # [3] RGB 0-255
    other: F32
    period: float

    def __call__(self, u: F32, v: F32) -> F32:
        """RGB [n, 3] at ``u`` along and ``v`` around a limb."""
        if self.kind == "plain":
            return np.broadcast_to(self.base, (len(u), 3))
        p = np.float32(self.period)
        share: NDArray[np.floating]
        if self.kind == "stripes":
            share = ((u / p) % 1 < 0.5).astype(np.float32)
        elif self.kind == "bars":
            share = ((v / p) % 1 < 0.4).astype(np.float32)
        elif self.kind == "checks":
            share = (((u / p) % 1 < 0.5).astype(np.float32) + ((v / p) % 1 < 0.5)) / 2
        elif self.kind == "dots":
            share = ((((u / p) % 1 - 0.5) ** 2 + ((v / p) % 1 - 0.5) ** 2) < 0.09).astype(np.float32)
        else:
            share = TABLE[(u * (5 / p)).astype(np.int64) % 64, (v * (5 / p)).astype(np.int64) % 64]
        return (self.base + share[:, None] * (self.other - self.base)).astype(np.float32)


@dataclass(frozen=True)
class Look:
    """What one instance looks like: colors (RGB 0-255, [3]), clothes, and the build of the body."""

    skin: F32
    hair: F32
    hair_length: int  # 0 bald, 1 short, 2 long
    shirt: Cloth
    sleeve: float  # 0 none, 1 to the elbow, 2 to the wrist
    lower: Cloth
    trouser: float  # 1 to the knee, 2 to the ankle
    skirt: float  # length; 0 = trousers
    shoes: F32
    trim: F32  # front of the shirt: buttons, tie or print
    front: str  # buttons | print | plain
    girth: float
    backpack: bool


def sample_look(rng: Rng, *, contrast: float) -> Look:
    """Clothes of random cut and cloth; ``contrast`` 0-1 bounds how much patterns stand out."""
    skirt = float(rng.uniform(0.17, 0.36)) if rng.random() < 0.2 else 0.0
    shade = rng.uniform(0, len(SKIN) - 1.001)
    low = int(shade)
    skin = SKIN[low] + (shade - low) * (SKIN[low + 1] - SKIN[low])
    return Look(
        skin=skin.astype(np.float32),
        hair=HAIR[rng.integers(len(HAIR))].astype(np.float32),
        hair_length=int(rng.choice(3, p=[0.07, 0.55, 0.38])),
        shirt=sample_cloth(rng, contrast=contrast, plain=0.35),
        sleeve=float(rng.choice([0.0, rng.uniform(0.4, 0.9), rng.uniform(1.7, 2.0)], p=[0.12, 0.44, 0.44])),
        lower=sample_cloth(rng, contrast=contrast, plain=0.6),
        trouser=float(rng.choice([rng.uniform(0.5, 1.0), rng.uniform(1.8, 2.0)], p=[0.3, 0.7])),
        skirt=skirt,
        shoes=sample_color(rng, saturation=(0, 0.7), value=(0.1, 0.95)),
        trim=sample_color(rng, saturation=(0.2, 1), value=(0.1, 1)),
        front=str(rng.choice(["buttons", "print", "plain"], p=[0.4, 0.4, 0.2])),
        girth=float(np.clip(rng.normal(1, 0.12), 0.75, 1.35)),
        backpack=bool(rng.random() < 0.12),
    )


def sample_color(rng: Rng, *, saturation: tuple[float, float], value: tuple[float, float]) -> F32:
    """Return a random RGB color, float32 [3] in 0-255: any hue, saturation and value (0-1 each) within the bounds."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(rgb, dtype=np.float32) * 255


def sample_cloth(rng: Rng, *, contrast: float, plain: float) -> Cloth:
    """Return a random cloth of two colors.

    ``contrast`` 0-1 bounds how far its second color is from the first; ``plain`` 0-1 is the chance of no pattern.
    """
    kind = "plain" if rng.random() < plain else str(rng.choice(KINDS[1:]))
    base = sample_color(rng, saturation=(0.05, 0.85), value=(0.2, 0.95))
    other = sample_color(rng, saturation=(0, 0.9), value=(0.1, 1))
    strength = rng.uniform(0.3, 1) * contrast
    return Cloth(kind, base, (base + strength * (other - base)).astype(np.float32), float(rng.uniform(0.025, 0.06)))


def dress(pose: Pose, look: Look) -> list[Part]:
    """All parts of one person, pelvis at the origin."""
    return [*_trunk(pose, look), *_head(pose, look), *_legs(pose, look), *_arms(pose, look)]


def _trunk(pose: Pose, look: Look) -> list[Part]:
    p, g = pose.points, look.girth
    down, front = pose.chest[:, 1], pose.chest[:, 2]
    waist = -0.085 * pose.pelvis[:, 1] + 0.05 * p["neck"]
    breast = p["neck"] + 0.115 * down
    shirt, lower = look.shirt, look.lower

    def chest_paint(u: F32, v: F32, facing: F32) -> F32:
        """Return the colors of the shirt, with buttons or a print on its front."""
        rgb = np.array(shirt(u, v))
        ahead = facing > 0
        if look.front == "buttons":
            rgb[ahead & (np.abs(v) < 0.011)] = look.trim
        elif look.front == "print":
            rgb[ahead & (np.abs(v) < 0.05) & (u < 0.07) & (u > -0.01)] = look.trim
        return rgb

    def pelvis_paint(u: F32, v: F32, facing: F32) -> F32:
        """Return the colors of trousers or skirt, with a buckle at the front."""
        rgb = np.array(lower(u, v))
        rgb[(facing > 0.2) & (np.abs(v) < 0.014) & (u < 0.016)] = BUCKLE
        return rgb

    hem = 0.03 * pose.pelvis[:, 1]
    belly = unit(across(front, unit(waist - breast)))
    throat = p["head"] + 0.5 * HEAD * pose.head[:, 1]
    parts = [
        Part("neck", throat, p["neck"] + 0.01 * down, 0.033, 0.037, front, plain(look.skin)),
        Part("chest", breast, waist, 0.118 * g, 0.098 * g, belly, chest_paint, 0.62),
        Part("belly", waist, hem, 0.097 * g, 0.108 * g, pose.pelvis[:, 2], cloth_paint(shirt, 0.15), 0.68),
        Part("pelvis", hem * 0.2, hem * 1.1, 0.113 * g, 0.106 * g, pose.pelvis[:, 2], pelvis_paint, 0.72),
    ]
    for side in ("left", "right"):
        end = p[f"{side}_shoulder"]
        parts.append(Part("yoke", p["neck"] + 0.02 * down, end, 0.036 * g, 0.042 * g, front, cloth_paint(shirt, 0.3)))
    if look.backpack:
        top, bottom = breast - 0.02 * down - 0.085 * front, breast + 0.13 * down - 0.085 * front
        parts.append(Part("backpack", top, bottom, 0.08, 0.09, front, plain(look.trim), 0.6))
    return parts


def _head(pose: Pose, look: Look) -> list[Part]:
    frame, center, front = pose.head, pose.points["head"], pose.head[:, 2]

    def at(x: float, y: float, z: float) -> F64:
        return np.asarray(center + frame @ (HEAD * np.array([x, y, z])), dtype=np.float64)

    def part(name: str, a: F64, b: F64, ra: float, rb: float, color: F32, flat: float = 1.0) -> Part:
        return Part(name, a, b, ra * HEAD, rb * HEAD, front, plain(color), flat)

    parts = [
        part("head", at(0, -0.22, 0), at(0, 0.5, 0.12), 0.98, 0.66, look.skin),
        part("nose", at(0, -0.02, 0.92), at(0, 0.22, 1.0), 0.09, 0.14, look.skin * np.float32(0.86)),
        part("mouth", at(-0.2, 0.58, 0.74), at(0.2, 0.58, 0.74), 0.07, 0.07, MOUTH),
    ]
    for side, sign in (("left", 1.0), ("right", -1.0)):
        white, pupil, ear = at(0.36 * sign, -0.08, 0.8), at(0.36 * sign, -0.08, 0.88), pose.points[f"{side}_ear"]
        parts += [
            part(f"{side}_eye", white, white, 0.19, 0.19, WHITE),
            part(f"{side}_eye", pupil, pupil, 0.14, 0.14, DARK),
            part(f"{side}_ear", ear, ear, 0.2, 0.2, look.skin * np.float32(0.9)),
        ]
    if look.hair_length:
        parts.append(part("hair", at(0, -0.38, -0.14), at(0, -0.1, -0.32), 1.02, 0.98, look.hair))
    if look.hair_length == 2:
        parts.append(part("hair", at(0, -0.1, -0.35), at(0, 1.5, -0.55), 0.95, 0.7, look.hair, 0.7))
    return parts


def _legs(pose: Pose, look: Look) -> list[Part]:
    p, g, down, forward = pose.points, look.girth, pose.pelvis[:, 1], pose.pelvis[:, 2]
    parts = []
    for side in ("left", "right"):
        hip, knee, ankle, toe = (p[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle", "toe"))
        thigh, shin, heel = unit(knee - hip), unit(ankle - knee), ankle + 0.012 * unit(ankle - knee)
        front = unit(across(forward + 0.3 * down * (1 - thigh @ down), thigh))
        # under a skirt, cloth down to 0.7 of it: nobody's hip shows above the waistband
        cut = 0.7 * look.skirt if look.skirt else look.trouser * THIGH
        upper, lower = _sleeved(look.lower, look.skin, cut), _sleeved(look.lower, look.skin, cut - THIGH)
        instep = unit(across(shin, unit(toe - heel)))
        parts += [
            Part(f"{side}_thigh", hip, knee, 0.068 * g, 0.046 * g, front, upper),
            Part(f"{side}_shin", knee, ankle, 0.045 * g, 0.027 * g, unit(across(front, shin)), lower),
            Part(f"{side}_foot", heel, toe, 0.031, 0.024, instep, plain(look.shoes)),
        ]
    if look.skirt:
        along = unit(0.6 * unit(p["left_knee"] + p["right_knee"]) + 0.4 * down)
        apart = 0.5 * float(np.linalg.norm(across(p["left_knee"] - p["right_knee"], along)))
        wide = max(0.15, apart * min(1.0, look.skirt / THIGH) + 0.06) * g
        top, hem, front = 0.02 * down, 0.03 * down + look.skirt * along, unit(across(forward, along))
        cloth = cloth_paint(look.lower, 0.0)
        parts.append(Part("skirt", top, hem, 0.112 * g, wide, front, cloth, 0.75, open_end=True))
    return parts


def _arms(pose: Pose, look: Look) -> list[Part]:
    p, g, left, forward = pose.points, look.girth, pose.chest[:, 0], pose.chest[:, 2]
    cut = look.sleeve * UPPER_ARM
    upper, lower = _sleeved(look.shirt, look.skin, cut), _sleeved(look.shirt, look.skin, cut - UPPER_ARM)
    parts = []
    for side in ("left", "right"):
        shoulder, elbow, wrist, hand = (p[f"{side}_{joint}"] for joint in ("shoulder", "elbow", "wrist", "hand"))
        arm, forearm = unit(elbow - shoulder), unit(wrist - elbow)
        front = unit(across(forward + 0.01 * left, arm))
        front_fore = unit(across(front + 0.01 * arm, forearm))
        palm = wrist + 0.2 * (hand - wrist)
        parts += [
            Part(f"{side}_upper_arm", shoulder, elbow, 0.044 * g, 0.032 * g, front, upper),
            Part(f"{side}_forearm", elbow, wrist, 0.033 * g, 0.022 * g, front_fore, lower),
            Part(f"{side}_hand", palm, hand, 0.024, 0.021, front_fore, plain(look.skin)),
        ]
    return parts


def plain(color: NDArray[Any]) -> Paint:
    """Return a paint of one RGB ``color``, [3] in 0-255."""
    return lambda u, _v, _facing: np.broadcast_to(np.asarray(color, dtype=np.float32), (len(u), 3))


def cloth_paint(cloth: Cloth, offset: float) -> Paint:
    """Return a paint with the pattern of ``cloth``, moved along the limb by ``offset`` (shares of the height)."""
    return lambda u, v, _facing: cloth(u + np.float32(offset), v)


def _sleeved(cloth: Cloth, skin: F32, cut: float) -> Paint:
    """Cloth up to ``cut`` along the limb, then skin."""
    return lambda u, v, _facing: np.where((u < cut)[:, None], cloth(u, v), skin)
