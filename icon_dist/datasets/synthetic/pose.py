"""Random human poses in three dimensions: joint angles within human range, then forward kinematics.

Lengths are shares of the standing height (Drillis and Contini's table, a little larger head). Axes as in the photo:
x right, y down, z towards the viewer. In the body's own frame the person faces the viewer, so *their* left is +x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Rng = np.random.Generator

DOWN, LEFT, FORWARD = np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
HIP, THIGH, SHIN, FOOT = 0.075, 0.245, 0.245, 0.10
SPINE, SHOULDER, UPPER_ARM, FOREARM, HAND = 0.285, 0.118, 0.175, 0.150, 0.065
NECK, HEAD = 0.055, 0.068  # shoulder line to chin, head radius

STANCES = {  # share of people per stance
    "easy": {"stand": 0.32, "stride": 0.28, "sit": 0.15, "squat": 0.07, "free": 0.18},
    "hard": {"stand": 0.22, "stride": 0.24, "sit": 0.20, "squat": 0.12, "free": 0.22},
}


@dataclass(frozen=True)
class Pose:
    """Points and frames in units of the standing height, the pelvis at the origin."""

    points: dict[str, F64]  # [3] each: joints of COCO by name, neck, head, hands and toes
    pelvis: F64  # [3, 3], columns = the body's left, down, forward
    chest: F64
    head: F64
    seated: bool


def sample_pose(rng: Rng, *, difficulty: str) -> Pose:
    """A random pose, seen from a random side."""
    shares = STANCES[difficulty]
    stance = str(rng.choice(list(shares), p=list(shares.values())))
    girth = 1 + 0.08 * rng.standard_normal()
    bend = {"stand": 4, "stride": 8, "sit": 8, "squat": 28, "free": 15}[stance]
    lean = turn("x", -abs(rng.normal(bend / 2, bend))) @ turn("z", rng.normal(0, 5))
    chest = lean @ turn("y", rng.normal(0, 14))
    neck = -SPINE * (1 + 0.05 * rng.standard_normal()) * lean[:, 1]
    head = chest @ turn("y", float(np.clip(rng.normal(0, 25), -65, 65))) @ turn("x", rng.normal(-3, 9))
    head = head @ turn("z", rng.normal(0, 6))
    center = neck - NECK * chest[:, 1] - HEAD * head[:, 1]
    points = {"neck": neck, "head": center}
    legs = _leg_angles(rng, stance)
    for side, sign, angles in (("left", 1.0, legs[0]), ("right", -1.0, legs[1])):
        hip = sign * HIP * girth * LEFT
        knee, ankle, toe = _leg(hip, sign, *angles)
        shoulder = neck + sign * SHOULDER * girth * chest[:, 0] + 0.012 * chest[:, 1]
        elbow, wrist, hand = _arm(rng, shoulder, sign, chest, neck)
        points |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle, f"{side}_toe": toe}
        points |= {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist, f"{side}_hand": hand}
        points[f"{side}_eye"] = center + head @ (HEAD * np.array([0.36 * sign, -0.08, 0.92]))
        points[f"{side}_ear"] = center + head @ (HEAD * np.array([0.98 * sign, 0.08, 0.0]))
    points["nose"] = center + head @ (HEAD * np.array([0.0, 0.22, 1.06]))
    view = _view(rng, difficulty)
    return Pose(
        {name: view @ point for name, point in points.items()}, view, view @ chest, view @ head, stance == "sit"
    )


def turn(axis: str, degrees: float) -> F64:
    """Rotation matrix about x, y or z; about y a positive angle turns the person's face to image right."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rows = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]]}
    return np.array(rows.get(axis, [[c, -s, 0], [s, c, 0], [0, 0, 1]]), dtype=np.float64)


def _view(rng: Rng, difficulty: str) -> F64:
    """Where the person faces, how they tilt in the picture and how high the camera stands."""
    easy = difficulty == "easy"
    facing = rng.choice(4, p=[0.55, 0.23, 0.11, 0.11] if easy else [0.4, 0.24, 0.18, 0.18])
    yaw = (0, 180, 90, -90)[facing] + (rng.uniform(-35, 35) if easy else rng.uniform(-45, 45))
    tilt = rng.normal(0, 6 if easy else 12)
    if not easy and rng.random() < 0.08:  # lying, falling, doing a cartwheel
        tilt = rng.uniform(-180, 180)
    return turn("z", tilt) @ turn("x", rng.uniform(-16, 4)) @ turn("y", yaw)


def _leg_angles(rng: Rng, stance: str) -> list[tuple[float, float, float]]:
    """(flexion, abduction, knee bend) in degrees of the left and the right leg."""

    def between(*bounds: tuple[float, float]) -> tuple[float, float, float]:
        flexion, abduction, knee = (float(rng.uniform(*b)) for b in bounds)
        return flexion, abduction, knee

    if stance == "stand":
        legs = [between((-8, 12), (0, 15), (0, 12)) for _ in range(2)]
    elif stance == "stride":
        legs = [between((12, 55), (-2, 10), (0, 60)), between((-32, -5), (-2, 10), (5, 75))]
    elif stance == "sit":
        legs = [between((70, 100), (0, 28), (55, 110)) for _ in range(2)]
    elif stance == "squat":
        legs = [between((60, 120), (5, 40), (80, 140)), between((0, 120), (5, 40), (80, 140))]
    else:
        legs = [between((-25, 95), (0, 50), (0, 110)) for _ in range(2)]
    return legs if rng.random() < 0.5 else legs[::-1]


def _leg(hip: F64, sign: float, flexion: float, abduction: float, bend: float) -> tuple[F64, F64, F64]:
    a, b, k = np.deg2rad([flexion, abduction, bend])
    thigh = np.cos(a) * np.cos(b) * DOWN + np.sin(a) * np.cos(b) * FORWARD + sign * np.sin(b) * LEFT
    behind = unit(DOWN * thigh[2] - FORWARD * thigh[1])
    shin = np.cos(k) * thigh + np.sin(k) * behind
    knee = hip + THIGH * thigh
    ankle = knee + SHIN * shin
    sole = unit(across(FORWARD * max(shin[1], 0.2) + 0.25 * sign * LEFT - DOWN * shin[2], shin) + 0.25 * shin)
    return knee, ankle, ankle + FOOT * sole


def _arm(rng: Rng, shoulder: F64, sign: float, chest: F64, neck: F64) -> tuple[F64, F64, F64]:
    """Elbow, wrist and fingertips; drawn again while the arm passes through the trunk."""
    out, down, forward = sign * chest[:, 0], chest[:, 1], chest[:, 2]
    while True:
        kind = rng.choice(4, p=[0.28, 0.12, 0.22, 0.38])
        if kind == 0:  # hanging
            angles = rng.uniform((3, -30, 0), (22, 60, 35))
            towards = forward + 0.3 * out
        elif kind == 1:  # hand on the hip
            angles = rng.uniform((35, -35, 70), (55, 10, 110))
            towards = -out + 0.3 * forward
        elif kind == 2:  # swinging, carrying
            angles = rng.uniform((10, -20, 5), (60, 20, 90)) + np.array([0, rng.choice([-80, 80]), 0])
            towards = forward - 0.3 * down
        else:  # anywhere
            angles = rng.uniform((20, -25, 0), (170, 100, 140))
            towards = forward * rng.uniform(0, 1) - out * rng.uniform(-0.3, 1) - down * rng.uniform(-0.5, 1)
        r, z, k = np.deg2rad(angles)  # raised from hanging, from sideways to the front, bent
        upper = np.cos(r) * down + np.sin(r) * (np.cos(z) * out + np.sin(z) * forward)
        fore = np.cos(k) * upper + np.sin(k) * unit(across(towards, upper))
        elbow = shoulder + UPPER_ARM * upper
        wrist = elbow + FOREARM * fore
        if not any(_inside_trunk(p - neck, chest) for p in (elbow, wrist, (elbow + wrist) / 2, wrist + HAND * fore)):
            return elbow, wrist, wrist + HAND * fore


def _inside_trunk(offset: F64, chest: F64) -> bool:
    x, y, z = chest.T @ offset
    in_body = 0.02 < y < SPINE + 0.1 and (x / 0.135) ** 2 + (z / 0.095) ** 2 < 1
    in_head = -0.2 < y <= 0.02 and (x / 0.085) ** 2 + (z / 0.085) ** 2 < 1
    return bool(in_body or in_head)


def unit(vector: F64) -> F64:
    """Return ``vector`` [3] divided by its length, float64."""
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float64)


def across(vector: F64, axis: F64) -> F64:
    """The part of ``vector`` at right angles to the unit vector ``axis``."""
    return np.asarray(vector - axis * float(vector @ axis), dtype=np.float64)
