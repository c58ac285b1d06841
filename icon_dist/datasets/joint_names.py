"""What the names of joints say: which are left and right, and what the same joint is called elsewhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from icon_dist.errors import DataError, shown

LEFT = """left l lft links linke linker linkes linken linkse gauche izquierdo izquierda sinistra sinistro esquerdo
    esquerda vänster vänstra venstre vasen левый левая левое лівий ліва ліве lewy lewa lewe levý levá levé sol kiri trái
    αριστερός αριστερή αριστερό يسار أيسر الأيسر يسرى اليسرى שמאל 왼 왼쪽 좌 左"""
RIGHT = """right r rgt rechts rechte rechter rechtes rechten rechtse droite droit derecho derecha destra destro direito
    direita höger högra høyre højre oikea правый правая правое правий права праве prawy prawa prawe pravý pravá pravé
    sağ kanan phải δεξιός δεξιά δεξί δεξιό يمين أيمن الأيمن يمنى اليمنى ימין 오른 오른쪽 우 右"""
SIDES = dict.fromkeys(LEFT.split(), "left") | dict.fromkeys(RIGHT.split(), "right")  # words of tools and of their users
GLUED = re.compile(r"(left|right|linker|rechter|왼쪽|오른쪽|왼|오른)(.+)|(.{2,})(left|right)")
NUMBERED = re.compile(r"\s*(\d+)[\s._:)-]*(\D.*)")
POSITION = re.compile(r"(?:joint|keypoint|point|kpt?)?[ _-]?(\d+)", re.IGNORECASE)
ENDS = "fbhmr"  # front or fore, back, hind, middle, rear: FL and FR, RL and RR
WORD = re.compile(r"s|U+(?=Ul)|U?l+|U+|d+")  # of the kinds of letters
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
    rkne, FL_paw and FR_paw, left_eye_right_corner and right_eye_left_corner."""
    every = [_words(name) for name in unnumbered(joints)]
    at = {_key(words): number for number, words in enumerate(every)}
    pairs: dict[frozenset[int], tuple[int, int]] = {}
    for number, words in enumerate(every):
        for other in _mirrored(words):
            if (partner := at.get(_key(other), number)) != number:
                pairs.setdefault(frozenset((number, partner)), (number, partner))
                break
    return tuple(pairs.values())


def flips_of_order(order: object, joints: int, *, source: str) -> tuple[tuple[int, int], ...]:
    """Pairs of ``flip_idx``: for every joint the number of the one that a mirror shows in its place.

    DataError if that is no list of the numbers from 0, each once, in which changing places twice changes nothing.
    """
    fix = f"for each joint the number, from 0, of the joint of the other side or its own; {joints} numbers"
    if type(order) is not list or any(type(j) is not int for j in order) or sorted(order) != list(range(joints)):
        one_based = type(order) is list and all(type(j) is int for j in order) and sorted(order)[:1] == [1]
        raise DataError(f"{source}={shown(order)}: expected {fix}{', not from 1' if one_based else ''}")
    if wrong := [j for j in range(joints) if order[order[j]] != j]:
        j = wrong[0]
        chain = f"{j} changes places with {order[j]}, but {order[j]} with {order[order[j]]}"
        raise DataError(f"{source}: {chain}; expected {fix}")
    return tuple((j, order[j]) for j in range(joints) if j < order[j])


def sided(joints: Sequence[str]) -> list[int]:
    """Joints, by number, whose names have a side."""
    return [number for number, name in enumerate(joints) if _split(name)[0]]


def unnumbered(names: Sequence[str]) -> tuple[str, ...]:
    """The names without the numbers before them, where these only count: ``0_nose``, ``1_left_eye``, or from 1."""
    found = [NUMBERED.fullmatch(name) for name in names]
    rest = [one[2] for one in found if one]
    counts = _count([int(one[1][:9]) for one in found if one], len(names))
    return tuple(rest) if counts and len({*rest}) == len(names) else tuple(names)


def are_positions(names: Sequence[object]) -> bool:
    """Whether names say nothing but where a joint stands: 1, 2, 3, or kp_0, kp_1, kp_2."""
    found = [POSITION.fullmatch(str(name)) for name in names]
    return _count([int(one[1][:9]) for one in found if one], len(names))


def _count(numbers: list[int], joints: int) -> bool:
    """Whether these count so many joints, from 0 or from 1."""
    return bool(joints) and numbers in ([*range(joints)], [*range(1, joints + 1)])


def _mirrored(words: list[str]) -> Iterator[list[str]]:
    """What a joint on the left may be called on the other side, the likeliest first."""
    sides = [at for at, word in enumerate(words) if word in ("left", "right")]
    other = {"left": "right", "right": "left"}
    if sides and "left" in words:
        yield [other.get(word, word) for word in words]
        yield from ([*words[:at], "right", *words[at + 1 :]] for at in sides if words[at] == "left")
    if sides:
        return
    for at, word in enumerate(words):
        if len(word) == 2 and "l" in word and word.replace("l", "", 1) in ENDS:
            yield [*words[:at], word.replace("l", "r", 1), *words[at + 1 :]]
    if words and words[0][0] == "l" and (first := f"r{words[0][1:]}") not in SIDES:
        yield [first, *words[1:]]


def _key(words: list[str]) -> tuple[str, ...]:
    """The words, a single side first: eye_left and left_eye are the same."""
    sides = [word for word in words if word in ("left", "right")]
    rest = [word for word in words if word not in ("left", "right")]
    return (*sides, *rest) if len(sides) == 1 else tuple(words)


def _split(name: str) -> tuple[str, str]:
    """The side, or "", and the other words."""
    words = _words(name)
    sides = [word for word in words if word in ("left", "right")]
    if len(sides) != 1:
        return "", "_".join(_parts(name)) or name
    words.remove(sides[0])
    return sides[0], "_".join(words)


def _words(name: str) -> list[str]:
    """The words of a name in small letters, those for sides in English."""
    words = _parts(name)
    if any(word in SIDES for word in words):
        return [SIDES.get(word, word) for word in words]
    glued = [(at, found) for at, word in enumerate(words) if (found := GLUED.fullmatch(word))]
    if len(glued) != 1:
        return words
    at, found = glued[0]
    return [*words[:at], SIDES[found[1] or found[4]], found[2] or found[3], *words[at + 1 :]]


def _parts(name: str) -> list[str]:
    """The words of a name in small letters: at blanks and marks, digits, capitals, and signs for sides."""
    name = unicodedata.normalize("NFC", name)
    shape = "".join(map(_kind, name))
    return [name[found.start() : found.end()].lower() for found in WORD.finditer(shape)]


def _kind(letter: str) -> str:
    """``U`` for a capital, ``l`` for another letter, ``d`` for a digit, ``s`` for a word of its own, else a blank."""
    if letter in "左右":
        return "s"
    if letter.isupper():
        return "U"
    return "d" if letter.isdecimal() else "l" if unicodedata.category(letter)[0] in "LM" else " "
