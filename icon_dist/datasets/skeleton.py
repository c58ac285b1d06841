"""A skeleton as text: YAML for custom sets, JSON in a shard manifest. Joints are named, never numbered.

The class is :class:`icon_dist.types.Skeleton`; the joints and limbs of a data set are in its file, ``coco.py``
or ``lsp.yaml``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from icon_dist.datasets.annotation_file import read_mapping
from icon_dist.errors import DataError, shorten, shown
from icon_dist.types import Json, Skeleton

T = TypeVar("T")
MAX_JOINTS = 1000
SMALLEST_SIGMA = 0.001
MAX_BYTES = 1 << 18  # of a YAML file: COCO's 133 whole-body joints take a tenth, and a parser a second
LONGEST_NAME = 100  # letters
METRICS = ("coco", "crowdpose", "pckh", "pck")
PAIRS = ("flips", "limbs", "bones")
GROUPS = ("upper", "lower")
FIELDS = ("name", "joints", *PAIRS, "sigmas", "visible_at", *GROUPS, "metric", "torso")


def skeleton_to_dict(skeleton: Skeleton) -> Json:
    """Plain lists and names: what :func:`skeleton_from_dict` and a YAML file hold."""
    names = skeleton.joints
    return {
        "name": skeleton.name,
        "joints": list(names),
        **{key: [[names[a], names[b]] for a, b in getattr(skeleton, key)] for key in PAIRS},
        "sigmas": list(skeleton.sigmas),
        "visible_at": skeleton.visible_at,
        **{key: [names[j] for j in getattr(skeleton, key)] for key in GROUPS},
        "metric": skeleton.metric,
        "torso": [names[j] for j in skeleton.torso] if len(set(skeleton.torso)) == 2 else [],
    }


def skeleton_yaml(skeleton: Skeleton) -> str:
    """The text of a YAML file that :func:`read_skeleton` reads as ``skeleton``."""
    text = "# Correct what is not right, and build with --skeleton and this file.\n"
    for key, value in skeleton_to_dict(skeleton).items():
        nested = key in PAIRS and bool(value)
        body = yaml.safe_dump(value, default_flow_style=None, width=100, allow_unicode=True).removesuffix("...\n")
        text += f"{key}:\n{body}" if nested else f"{key}: {body}"
    return text


def skeleton_from_dict(fields: Mapping[str, Any], *, source: str = "skeleton") -> Skeleton:
    """Validated; ``source`` names the file in errors."""
    _check_keys(fields, source=source)
    joints = fields["joints"]
    if not _is_list(joints, str) or not joints or len(set(joints)) != len(joints):
        raise DataError(f"{source} joints={shown(joints)}: expected different names, in annotation order; quote them")
    if len(joints) > MAX_JOINTS or not all(n and n.isprintable() and len(n) <= LONGEST_NAME for n in joints):
        form = f"at most {MAX_JOINTS} printable names of at most {LONGEST_NAME} letters"
        raise DataError(f"{source} joints: expected {form}; shorten or correct them")
    index = {name: i for i, name in enumerate(joints)}

    def at(key: str, names: Any, *, length: int | None = None) -> tuple[int, ...]:
        """Return the indices of the named joints; DataError if one is unknown or repeated, or their number is wrong."""
        if not _is_list(names, str) or (length is not None and len(names) != length):
            raise DataError(f"{source} {key}={shown(names)}: expected a list of {length or ''} joint names")
        for name in names:
            if name not in index:
                raise DataError(f"{source} {key}: no joint {shown(name)}{_suggest(name, index)}")
        if len(set(names)) != len(names):
            raise DataError(f"{source} {key}={shown(names)}: the same joint twice")
        return tuple(index[name] for name in names)

    def pairs(key: str) -> tuple[tuple[int, int], ...]:
        """Return the joint indices of the pairs in ``fields[key]``; DataError if a pair is repeated, or no pair."""
        if not _is_list(fields[key], list):
            raise DataError(f"{source} {key}={shown(fields[key])}: expected a list of [joint, joint]")
        ends = (at(f"{key}[{i}]", names, length=2) for i, names in enumerate(fields[key]))
        found = tuple((a, b) for a, b in ends)
        if len({frozenset(pair) for pair in found}) != len(found):
            raise DataError(f"{source} {key}: the same two joints are given twice; leave one of them out")
        return found

    flips = pairs("flips")
    if len({j for pair in flips for j in pair}) != 2 * len(flips):
        raise DataError(f"{source} flips: a joint is in two pairs; each joint changes places with one other")
    metric = _choice("metric", fields["metric"], METRICS, source=source)
    torso = (0, 0) if fields["torso"] == [] else at("torso", fields["torso"], length=2)
    if metric == "pck" and torso[0] == torso[1]:
        raise DataError(f"{source} torso=[]: metric pck measures by two joints; name them, or use metric: coco")
    name = fields["name"]
    if type(name) is not str or not name or not name.isprintable():
        raise DataError(f"{source} name={shown(name)}: expected a name")
    return Skeleton(
        name=name,
        joints=tuple(joints),
        flips=flips,
        limbs=pairs("limbs"),
        bones=pairs("bones"),
        sigmas=_sigmas(fields["sigmas"], len(joints), source=source),
        visible_at=_choice("visible_at", fields["visible_at"], (1, 2), source=source),
        upper=at("upper", fields["upper"]),
        lower=at("lower", fields["lower"]),
        metric=metric,
        torso=(torso[0], torso[1]),
    )


def read_skeleton(path: str | Path) -> Skeleton:
    """The skeleton of a YAML file; ``datasets/lsp.yaml`` is an example with every field."""
    what, keys = "a skeleton YAML or the name of one", ", ".join(FIELDS)
    fields = read_mapping(path, most=MAX_BYTES, what=what, keys=keys)
    return skeleton_from_dict(fields, source=str(path))


def _check_keys(fields: Mapping[str, Any], *, source: str) -> None:
    for key in fields:
        if key not in FIELDS:
            raise DataError(f"{source}: unknown key {shown(key)}{_suggest(shown(key), FIELDS)}")
    missing = [key for key in FIELDS if key not in fields]
    if missing:
        raise DataError(f"{source}: missing {', '.join(missing)}; a skeleton has {', '.join(FIELDS)}")


def _is_list(value: object, kind: type) -> bool:
    return type(value) is list and all(type(v) is kind for v in value)


def _choice(key: str, value: T, choices: Iterable[T], *, source: str) -> T:
    allowed = list(choices)
    if value not in allowed or type(value) is bool:
        raise DataError(f"{source} {key}={shown(value)}: expected one of {allowed}")
    return value


def _sigmas(values: object, joints: int, *, source: str) -> tuple[float, ...]:
    if type(values) is not list or len(values) != joints:
        raise DataError(f"{source} sigmas: expected {joints} numbers, one per joint")
    for value in values:
        if type(value) not in (int, float) or not SMALLEST_SIGMA <= value <= 1:
            what = f"no number from {SMALLEST_SIGMA} to 1, as COCO's of .025 to .107 (in YAML write 0.05 or 5.0e-2)"
            raise DataError(f"{source} sigmas: {shown(value)} is {what}")
    return tuple(float(v) for v in values)


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:LONGEST_NAME], list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {shorten(', '.join(known))}"
