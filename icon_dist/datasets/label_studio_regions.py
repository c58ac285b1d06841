"""Regions that somebody drew on a photo in Label Studio, put together as people: a rectangle and its keypoints.

https://labelstud.io/guide/task_format. Keypoints say whose they are by ``parentID``, by relations, or by lying in a
rectangle. Coordinates are percent of the photo.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, starmap
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from icon_dist.datasets.annotation_file import Entry, are_numbers
from icon_dist.errors import shown

HIDDEN = frozenset(("occluded", "hidden", "invisible", "not visible", "not_visible"))  # a region's choice: v = 1
PERCENT = 100.0
MOST = 5000  # regions of a photo; a crowd of 100 people with COCO's joints has 1800
MARGIN = 0.1  # of the size of a box, by which a keypoint may be outside
BESIDE, NEVER = 1e6, 1e9  # added to, or in place of, the area of a box that does not hold a keypoint
FAR = 100.0  # percent of the photo by which a keypoint may be outside


PLACE = ("x", "y", "points")  # of a value: where its shape is


class RegionError(Exception):
    """What is wrong with the regions of a photo."""


@dataclass
class Region:
    """A keypoint, or the box of a rectangle, polygon or ellipse, in percent of the photo."""

    id: str
    label: str
    is_joint: bool
    x: float
    y: float
    w: float = 0.0
    h: float = 0.0
    parent: str = ""
    hidden: bool = False

    def cost(self, joint: Region) -> float:
        """The area of this box if ``joint`` lies in it, more if beside it, else ``NEVER``."""
        out = max(self.x - joint.x, joint.x - self.x - self.w), max(self.y - joint.y, joint.y - self.y - self.h)
        if max(out) <= 0:
            return self.w * self.h
        return BESIDE + self.w * self.h if out[0] <= MARGIN * self.w and out[1] <= MARGIN * self.h else NEVER


@dataclass
class Person:
    """A box, unless nobody drew one, and joints by their label."""

    box: Region | None
    joints: dict[str, Region] = field(default_factory=dict)

    def add(self, joint: Region) -> None:
        """Take a joint in. Raises RegionError where the person has one of its label."""
        if joint.label in self.joints:
            which = "in one rectangle" if self.box else "without rectangles"
            fix = "tie keypoints to rectangles by parentID or a relation"
            raise RegionError(f"keypoint {shown(joint.label)} twice {which}: whose is it? {fix}")
        self.joints[joint.label] = joint


@dataclass
class Drawn:
    """All regions of an annotation, and the size of the photo that they were drawn on; (0, 0) if that is not said."""

    regions: list[Region]
    links: list[tuple[str, str]]
    wh: tuple[int, int]
    kinds: Counter[str]  # of results that are read as nothing
    tags: set[str]  # of the labelling interface, on which regions are: each shows a photo

    @classmethod
    def of(cls, results: Any) -> Drawn:
        """The regions of the list ``results``; RegionError if one is none."""
        if type(results) is not list or not all(type(one) is dict for one in results):
            raise RegionError(f"result={shown(results)}: expected a list of regions")
        by_id: dict[str, list[Entry]] = {}
        if len(results) > MOST:
            raise RegionError(f"result: {len(results)} regions, more than the {MOST} that are read; split the photo")
        for number, one in enumerate(results):
            by_id.setdefault(str(one.get("id") or f"number {number}"), []).append(one)
        links = [(str(one.get("from_id")), str(one.get("to_id"))) for one in results if one.get("type") == "relation"]
        kinds: Counter[str] = Counter()
        regions = []
        for name, parts in chain.from_iterable(starmap(_apart, by_id.items())):
            if (region := _region(name, parts)) is not None:
                regions.append(region)
            else:
                kinds.update(str(part.get("type")) for part in parts if part.get("type") not in ("relation", "choices"))
        tags = {str(one["to_name"]) for one in results if one.get("to_name") and _is_region(one)}
        return cls(regions, links, _size(results), kinds, tags)

    def people(self) -> tuple[list[Person], list[Region], list[Region]]:
        """Regions as people; keypoints that are in none of several rectangles; and those that are in more than one."""
        people: list[Person] = []
        free: list[Region] = []
        for group in self._tied():
            boxes = [region for region in group if not region.is_joint]
            joints = [region for region in group if region.is_joint]
            if len(boxes) > 1:
                raise RegionError(f"keypoint {shown(joints[0].label)} is tied to several rectangles; leave one tie")
            if not boxes and len(joints) == 1:
                free += joints
                continue
            person = Person(boxes[0] if boxes else None)
            for joint in joints:
                person.add(joint)
            people.append(person)
        if not people and free:
            people.append(Person(None))
        if len(people) > 1:
            return people, *_give_by_box(free, people)
        for joint in free:
            people[0].add(joint)
        return people, [], []

    def _tied(self) -> Iterator[list[Region]]:
        """Regions in groups that parents and relations make; two rectangles that are related stay apart."""
        by_id = {region.id: region for region in self.regions}
        group = {name: name for name in by_id}
        parents = ((region.id, region.parent) for region in self.regions)
        for a, b in (*self.links, *parents):
            if a in by_id and b in by_id and (by_id[a].is_joint or by_id[b].is_joint) and group[a] != group[b]:
                old, new = group[a], group[b]
                group = {name: new if of == old else of for name, of in group.items()}
        members: dict[str, list[Region]] = {}
        for name, of in group.items():
            members.setdefault(of, []).append(by_id[name])
        yield from members.values()


def _give_by_box(free: list[Region], people: list[Person]) -> tuple[list[Region], list[Region]]:
    """Give untied keypoints to people by their boxes, each label once a person, so that boxes are as small as can be.

    Returns those that are in no box and beside none, and those that are in more than one. RegionError where boxes hold
    more keypoints of a label than there are people for.
    """
    boxed = [person for person in people if person.box is not None]
    outside: list[Region] = []
    several: list[Region] = []
    for label in dict.fromkeys(joint.label for joint in free):
        joints = [joint for joint in free if joint.label == label]
        takers = [person for person in boxed if label not in person.joints]
        costs = np.array([[p.box.cost(one) if p.box else NEVER for p in boxed] for one in joints]).reshape(
            len(joints), -1
        )
        several += [one for one, row in zip(joints, costs, strict=True) if (row < BESIDE).sum() > 1]
        columns = [boxed.index(person) for person in takers]
        chosen = dict(zip(*linear_sum_assignment(costs[:, columns]), strict=True))
        for row, joint in enumerate(joints):
            column = chosen.get(row)
            if column is not None and costs[row, columns[column]] < NEVER:
                takers[column].add(joint)
            elif (costs[row] < BESIDE).any():
                boxed[int(costs[row].argmin())].add(joint)  # where it is twice
            else:
                outside.append(joint)
    return outside, several


def _apart(name: str, parts: list[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """The results of one id by the shape that they are about: imported predictions may give several the same id."""
    shapes: dict[str, list[Entry]] = {}
    for part in filter(_is_region, parts):
        shapes.setdefault(str([part["value"].get(key) for key in PLACE]), []).append(part)
    others = [part for part in parts if not _is_region(part)]
    for number, some in enumerate(shapes.values() or [[]]):
        yield f"{name} ({number + 1})" if number else name, some + others


def _region(name: str, parts: list[Entry]) -> Region | None:
    """One region of the results with its id: a shape, perhaps its label apart, perhaps choices about it."""
    shape = next(filter(_is_region, parts), None)
    if shape is None:
        return None
    value = shape["value"]
    if shape.get("image_rotation") not in (None, 0):
        turned = shown(shape["image_rotation"])
        raise RegionError(f"region {name} image_rotation={turned}: draw it on the upright photo")
    labels = [word for part in parts for word in _words(part, "labels")]
    choices = {word.strip().lower() for part in parts for word in _words(part, "choices")}
    if not labels:
        return None
    hidden = value.get("hidden") is True or bool(HIDDEN & choices) or any(word.lower() in HIDDEN for word in labels[1:])
    parent = str(shape.get("parentID") or shape.get("parent_id") or "")
    is_joint = "points" not in value and "radiusX" not in value and "height" not in value
    if is_joint:
        x, y = _numbers(name, value, "x", "y")
        box = (x, y, 0.0, 0.0)
        if not all(-FAR <= number <= PERCENT + FAR for number in (x, y)):
            raise RegionError(f"region {name} x={x:g} y={y:g}: expected percent of the photo, 0 to 100")
    else:
        box = _box(name, value, _size([shape]))
    return Region(name, labels[0], is_joint, *box, parent=parent, hidden=hidden)


def _is_region(result: Any) -> bool:
    """Whether a result is a shape on a photo: it has a place, or points."""
    value = result.get("value") if type(result) is dict else None
    return type(value) is dict and (("x" in value and "y" in value) or "points" in value)


def _words(part: Entry, ending: str) -> list[str]:
    """Labels or choices of a result: texts in a list whose key ends so (keypointlabels, rectanglelabels, labels)."""
    value = part.get("value")
    lists = [v for k, v in value.items() if str(k).endswith(ending) and type(v) is list] if type(value) is dict else []
    return [word.strip() for words in lists for word in words if type(word) is str and word.strip()]


def _numbers(name: str, value: Entry, *keys: str) -> list[float]:
    found = [value.get(key) for key in keys]
    if not are_numbers(found):
        said = ", ".join(f"{key}={shown(number)}" for key, number in zip(keys, found, strict=True))
        raise RegionError(f"region {name} {said}: expected numbers, percent of the photo")
    return [float(number) for number in found]  # type: ignore[arg-type]


def _box(name: str, value: Entry, wh: tuple[int, int]) -> tuple[float, float, float, float]:
    """x, y, w, h in percent around a rectangle (turned about a corner), an ellipse (its center) or an outline."""
    if "points" in value:
        points = value["points"]
        if type(points) is not list or not points or not all(type(p) is list and len(p) == 2 for p in points):
            raise RegionError(f"region {name} points={shown(points)}: expected a list of [x, y]")
        if not are_numbers(number for point in points for number in point):
            raise RegionError(f"region {name} points={shown(points)}: expected numbers, percent of the photo")
        return _around(points)
    turn = value.get("rotation") or 0
    if not are_numbers([turn]):
        raise RegionError(f"region {name} rotation={shown(turn)}: expected degrees")
    aspect = wh[0] / wh[1] if min(wh) > 0 else 1.0  # turned in pixels, not in percent
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    if "radiusX" in value:
        x, y, rx, ry = _numbers(name, value, "x", "y", "radiusX", "radiusY")
        w, h = math.hypot(rx * cosine, ry * sine / aspect), math.hypot(rx * sine * aspect, ry * cosine)
        return x - w, y - h, 2 * w, 2 * h
    x, y, w, h = _numbers(name, value, "x", "y", "width", "height")
    if w < 0 or h < 0:
        raise RegionError(f"region {name} width={w:g} height={h:g}: below 0; draw it again")
    if max(x + w, y + h) > PERCENT + FAR:
        said = f"x={x:g} y={y:g} width={w:g} height={h:g}"
        raise RegionError(f"region {name} {said}: expected percent of the photo, 0 to 100")
    corners = [(a * w, b * h) for a in (0, 1) for b in (0, 1)]
    return _around([[x + a * cosine - b * sine / aspect, y + a * sine * aspect + b * cosine] for a, b in corners])


def _around(points: list[list[float]]) -> tuple[float, float, float, float]:
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _size(results: Iterable[Entry]) -> tuple[int, int]:
    """Width and height of the photo, as the first result that knows them says."""
    for one in results:
        width, height = one.get("original_width"), one.get("original_height")
        if are_numbers((width, height)) and min(width, height) >= 1:  # type: ignore[type-var, operator]
            return round(width), round(height)  # type: ignore[arg-type]
    return 0, 0
