"""What the names of joints say: which are left and right, and what the same joint is called elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence

SIDES = {  # words of annotation tools and of their users
    **dict.fromkeys(("left", "l", "lft", "links", "gauche", "izquierdo", "izquierda", "sinistra", "左"), "left"),
    **dict.fromkeys(("right", "r", "rgt", "rechts", "droite", "droit", "derecho", "derecha", "destra", "右"), "right"),
}
WORD = re.compile(r"[左右]|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_左右]+")
SHORT = {"sho": "shoulder", "elb": "elbow", "wri": "wrist", "kne": "knee", "ank": "ankle"}
PARTS = "shoulder|sho|elbow|elb|wrist|wri|hip|knee|kne|ankle|ank|eye|ear"


def standard(name: str) -> str:
    """The name as the skeletons here write it: lower case, words joined by ``_``, the side first.

    >>> standard("Left Eye"), standard("LShoulder"), standard("eye.R"), standard("nose")
    ('left_eye', 'left_shoulder', 'right_eye', 'nose')
    """
    side, rest = _split(name)
    return "_".join(filter(None, (side, rest)))


def meaning(name: str) -> str:
    """A name without its spelling, beyond :func:`standard`: short and glued words are those they stand for.

    >>> meaning("left_shoulder"), meaning("lsho"), meaning("head_top") == meaning("headtop")
    ('left shoulder', 'left shoulder', True)
    """
    side, rest = _split(name)
    words = re.findall(r"[^\W_]+", rest)
    glued = re.fullmatch(rf"(l|left|r|right)({PARTS})|({PARTS})(l|left|r|right)", "".join(words))
    if not side and glued:
        side, words = SIDES[glued[1] or glued[4]], [glued[2] or glued[3]]
    return " ".join(filter(None, (side, "".join(SHORT.get(word, word) for word in words))))


def mirror_pairs(joints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Joints, by number, that change places in a mirrored image, as their names say: left_knee and right_knee, lkne and
    rkne."""
    at = {standard(name): number for number, name in enumerate(joints)}
    lowered = {name.lower(): number for number, name in enumerate(joints)}
    pairs = []
    for number, name in enumerate(joints):
        side, rest = _split(name)
        other = at.get(f"right_{rest}".rstrip("_")) if side == "left" else None
        if not side and name[0].lower() == "l":
            other = lowered.get(f"r{name[1:].lower()}")
        if other is not None and other != number:
            pairs.append((number, other))
    return tuple(pairs)


def _split(name: str) -> tuple[str, str]:
    """The side, or "", and the other words."""
    words = [word.lower() for word in WORD.findall(name)]
    sides = [word for word in words if word in SIDES]
    if len(sides) != 1:
        return "", "_".join(words) or name
    words.remove(sides[0])
    return SIDES[sides[0]], "_".join(words)
