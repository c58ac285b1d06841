"""Label Studio's JSON export (and JSON-MIN): keypoints and rectangles on photos, https://labelstud.io/guide/export.

What becomes of it is a COCO-format document, which goes through all checks of such files. Predictions are no labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from icon_dist.datasets.annotation_file import Entry, Faults, is_id, load
from icon_dist.datasets.coco_json import people_of
from icon_dist.datasets.derived_skeleton import F64, Evidence, derived_for, find_skeleton, order_of
from icon_dist.datasets.joint_names import standard
from icon_dist.datasets.label_studio_regions import PERCENT, Drawn, Person, Region, RegionError
from icon_dist.datasets.photo_links import PhotoFolder
from icon_dist.errors import ConfigError, DataError, plural, shown
from icon_dist.images.photo import Exif
from icon_dist.images.size import size_as_read
from icon_dist.types import Annotations, Skeleton

PHOTO = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?)\b", re.IGNORECASE)
SAME = 0.5  # intersection over union of boxes of the same person, labelled twice


@dataclass
class _Photo:
    """A labelled photo: its people, and those of other annotations of the same task."""

    task: str
    file: str
    wh: tuple[int, int]
    people: list[Person]
    again: list[list[Person]]


@dataclass
class _Tally:
    """What is left out or chosen, for notes."""

    unlabelled: int = 0  # tasks
    predicted: int = 0  # of these, with predictions
    resized: list[str] = field(default_factory=list)  # photos that were labelled at another size
    several: int = 0  # tasks with several annotations
    outside: list[str] = field(default_factory=list)  # joints in no rectangle
    doubtful: list[str] = field(default_factory=list)  # joints in several rectangles, tied to none
    kinds: Counter[str] = field(default_factory=Counter)  # of results that are no keypoints or boxes

    def notes(self) -> Iterator[str]:
        """Yield a line about each kind of what was unusual."""
        if self.unlabelled:
            predicted = f"; {self.predicted} with predictions, which are no labels" if self.predicted else ""
            yield f"{plural(self.unlabelled, 'task')} without an annotation (or skipped ones only), left out{predicted}"
        if self.resized:
            what = f"{plural(len(self.resized), 'photo')} labelled at another size"
            yield f"{what} ({self.resized[0]} the first); labels are shares of it, so they fit the photo as it is"
        if self.several:
            chosen = "the one marked as ground truth, else the latest, is read"
            yield f"{plural(self.several, 'task')} with several annotations; {chosen}"
        if self.outside:
            what = f"{plural(len(self.outside), 'keypoint')} in none of several rectangles, left out"
            yield f"{what} ({self.outside[0]} the first); tie them by parentID or a relation"
        if self.doubtful:
            what = f"{plural(len(self.doubtful), 'keypoint')} in several rectangles, given to small ones first"
            yield f"{what} ({self.doubtful[0]} the first); tie them by parentID or a relation"
        for kind, count in self.kinds.items():
            yield f"{plural(count, 'result')} of type {kind}, which are no keypoints or boxes, left out"


def read(
    annotations: str | Path,
    *,
    images: str | Path | None = None,
    skeleton: str | Path | Skeleton | None = None,
    sigmas: tuple[float, ...] = (),
    exif: Exif | None = None,
    drop_invalid: bool = False,
) -> Annotations:
    """The people of an export, with the photos of the folder ``images``, whatever addresses the export has for them.

    Without a ``skeleton`` it is derived, with ``sigmas`` if there are any. ``exif="ignore"``: photos without a size in
    the export have that of the pixels as stored, not that of the upright picture that browsers show.
    """
    if images is None:
        raise ConfigError(f"{annotations}: the photos are needed, since an export names them by address; pass --images")
    named = find_skeleton(skeleton) if skeleton is not None else None
    tasks = load(annotations)
    if type(tasks) is not list or not tasks:
        raise DataError(f"{annotations}: expected a list of tasks, as Label Studio exports them as JSON{_other(tasks)}")
    faults, tally = Faults(annotations, drop=drop_invalid), _Tally()
    photos = [*_photos(tasks, PhotoFolder(images), Path(images), faults, tally, exif=exif or "apply")]
    faults.note(*tally.notes())
    labels = {label for photo in photos for person in photo.people for label in person.joints}
    if not labels:
        facts = [f"{tally.unlabelled} without an annotation or with skipped ones only"] if tally.unlabelled else []
        facts += [f"{tally.predicted} with predictions, which are no labels"] if tally.predicted else []
        facts += [f"{plural(len(faults.texts), 'bad task')}; the first: {faults.texts[0]}"] if faults.texts else []
        why = f" ({', '.join(facts)})" if facts else ""
        count = plural(len(tasks), "task")
        raise DataError(f"{annotations}: no keypoints in {count}{why}; label some, or export as JSON")
    found = named or _derived(labels, photos, sigmas, faults)
    document = _document(photos, found, faults)
    return people_of(document, faults, skeleton=found, images=images)


def _photos(
    tasks: list[Any], folder: PhotoFolder, images: Path, faults: Faults, tally: _Tally, *, exif: Exif
) -> Iterator[_Photo]:
    """Tasks with an annotation, as photos with people."""
    address_of: dict[str, str] = {}
    for number, task in enumerate(tasks):
        known = type(task) is dict and is_id(task.get("id"))
        name = f"task {task['id']}" if known else f"task number {number}"
        try:
            results = _results(task)
            if not results:
                tally.unlabelled += 1
                tally.predicted += bool(task.get("predictions"))
                continue
            drawn, *others = map(Drawn.of, results)
            address = _address(task, drawn.tags)
            file = folder.find(address)
            if address_of.setdefault(file, address) != address:
                raise DataError(f"{shown(address)} and {shown(address_of[file])} are both {file} in {images}")
            people, outside, several = drawn.people()
            again = [other.people()[0] for other in others]
            wh = size_as_read(images / file, exif)
            if min(drawn.wh) and drawn.wh != wh:
                if _same_shape(drawn.wh, wh):
                    tally.resized.append(file)
                else:
                    wh = drawn.wh  # of the pixels as stored, or of another photo: that of all photos tells
        except (RegionError, DataError) as error:
            faults.add(f"{name} {error}")
            continue
        tally.several += len(results) > 1
        tally.outside += [f"{joint.label} of {name}" for joint in outside]
        tally.doubtful += [f"{joint.label} of {name}" for joint in several]
        tally.kinds += drawn.kinds
        yield _Photo(name, file, wh, people, again)


def _results(task: Any) -> list[Any]:
    """The results of every annotation of a task that was not skipped, the one to be read first; of JSON-MIN its own."""
    if type(task) is not dict:
        raise DataError("is not an object")
    annotations = task.get("annotations", task.get("completions"))
    if annotations is None and "data" not in task:
        return [_of_json_min(task)]
    if type(annotations) is not list or not all(type(one) is dict for one in annotations):
        raise DataError(f"annotations={shown(annotations)}: expected a list, as in an export as JSON")
    sound = [one for one in annotations if not (one.get("was_cancelled") or one.get("skipped"))]
    sound.sort(key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))
    sound.sort(key=lambda one: bool(one.get("ground_truth")))
    return [one.get("result", []) for one in reversed(sound)]


def _of_json_min(task: Entry) -> list[Entry]:
    """Results as in the full export: there, each stands as its bare value in a list by the name of its tag."""
    values = (v for key, some in task.items() if type(some) is list for v in some if type(v) is dict)
    return [{"value": v, **{k: v[k] for k in ("original_width", "original_height") if k in v}} for v in values]


def _other(document: Any) -> str:
    """A word about a file of Label Studio that is another export."""
    if type(document) is not dict or "categories" not in document:
        return ""
    if "images" in document:
        return "; its COCO export is for icon-dist shards build custom"
    return "; notes.json is of its YOLO export: icon-dist shards build yolo FOLDER"


def _same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether one size is that of the other made smaller, with sides rounded to a pixel."""
    small, large = sorted((a, b))
    return abs(small[0] * large[1] - small[1] * large[0]) <= max(large)


def _address(task: Entry, tags: set[str]) -> str:
    """What a task calls its photo: by the tag that regions are on, ``image``, or the only text that ends like one."""
    data = task.get("data", task)
    fields = data if type(data) is dict else {}
    texts = {key: value for key, value in fields.items() if type(value) is str}
    photos = [key for key, text in texts.items() if PHOTO.search(text)]
    listed = any(type(v) is list and any(type(one) is str and PHOTO.search(one) for one in v) for v in fields.values())
    if len(tags) > 1 or (listed and not photos):
        raise DataError("has several photos; one photo a task is read, so give each photo a task of its own")
    key = next((key for key in (*tags, "image") if key in texts), None)
    if key is None and len(photos) > 1:
        raise DataError(
            f"data has several photos, {', '.join(map(shown, photos))}; name the one that is labelled image"
        )
    found = texts.get(key or next(iter(photos), ""))
    if found is None:
        raise DataError(f"data={shown(data)}: expected the address of one photo, as image")
    if found.startswith("data:"):
        raise DataError("data.image: the photo itself, as text; expected the address of a file")
    return found


def _derived(labels: set[str], photos: list[_Photo], sigmas: tuple[float, ...], faults: Faults) -> Skeleton:
    """A skeleton of all labels of keypoints, in the order of a public set that has them, else by name."""
    joints = order_of(labels)
    poses = [_pose(person, joints, photo.wh) for photo in photos for person in photo.people if person.joints]
    evidence = Evidence(
        name=Path(faults.source).name.partition(".")[0] or "skeleton",
        joints=joints,
        keypoints=np.array(poses, np.float64).reshape(-1, len(joints), 3),
        twice=[*_twice(photos, joints)],
        sigmas=sigmas,
    )
    return derived_for(faults, evidence)


def _document(photos: list[_Photo], skeleton: Skeleton, faults: Faults) -> Entry:
    """A COCO-format document; boxes whose label never holds a keypoint are left out."""
    every = [(at, photo, person) for at, photo in enumerate(photos, 1) for person in photo.people]
    labels = sorted({person.box.label for _, _, person in every if person.box and person.joints})
    names = labels if all(person.box for _, _, person in every) or len(labels) == 1 else [*labels, "person"]
    number = {name: at for at, name in enumerate(dict.fromkeys(names), 1)}
    strange: Counter[str] = Counter()
    left: Counter[str] = Counter()
    people: list[Entry] = []
    known = {standard(joint) for joint in skeleton.joints}
    for at, photo, person in every:
        label = person.box.label if person.box else names[-1]
        if label not in number:
            left[label] += 1
            continue
        strange.update(joint for joint in person.joints if standard(joint) not in known)
        pose = _pose(person, skeleton.joints, photo.wh)
        entry: Entry = {"id": len(people) + 1, "image_id": at, "category_id": number[label]}
        entry["keypoints"] = [v for joint in pose for v in joint] if person.joints else []
        entry["bbox"] = _pixels(person.box, photo.wh) if person.box else None
        people.append(entry)
        faults.places[len(people)] = f"{photo.task} region {person.box.id}" if person.box else photo.task
    for name, count in left.items():
        faults.note(f"{plural(count, 'box', 'boxes')} of {shown(name)}, which never hold a keypoint, left out")
    for name, count in strange.items():
        faults.note(f"{plural(count, 'keypoint')} {shown(name)}, no joint of skeleton {skeleton.name}, left out")
    images = [
        {"id": at, "file_name": photo.file, "width": photo.wh[0], "height": photo.wh[1]}
        for at, photo in enumerate(photos, 1)
    ]
    kinds = [{"id": at, "name": name, "keypoints": list(skeleton.joints)} for name, at in number.items()]
    return {"images": images, "annotations": people, "categories": kinds}


def _pose(person: Person, joints: tuple[str, ...], wh: tuple[int, int]) -> list[list[float]]:
    """x, y in px and v of every joint: 2, 1 where a choice says that it is hidden, 0 where it was not labelled."""
    by_name = {standard(label): joint for label, joint in person.joints.items()}
    given = [by_name.get(standard(name)) for name in joints]
    width, height = wh[0] / PERCENT, wh[1] / PERCENT
    return [[one.x * width, one.y * height, 2.0 - one.hidden] if one else [0.0, 0.0, 0.0] for one in given]


def _pixels(box: Region, wh: tuple[int, int]) -> list[float]:
    width, height = wh[0] / PERCENT, wh[1] / PERCENT
    return [box.x * width, box.y * height, box.w * width, box.h * height]


def _twice(photos: list[_Photo], joints: tuple[str, ...]) -> Iterator[tuple[F64, F64, float]]:
    """People whom two annotations of a task have, as poses and an area: by their boxes, or the only ones of both."""
    for photo in photos:
        for other in photo.again:
            for person in photo.people:
                alone = len(photo.people) == len(other) == 1
                near = other if alone else [one for one in other if _overlap(person.box, one.box) > SAME]
                if near and person.joints and near[0].joints:
                    a, b = (np.array(_pose(one, joints, photo.wh)) for one in (person, near[0]))
                    labelled = a[a[:, 2] > 0, :2]
                    size = _pixels(person.box, photo.wh)[2:] if person.box else np.ptp(labelled, axis=0)
                    yield a, b, float(np.prod(size))


def _overlap(a: Region | None, b: Region | None) -> float:
    if a is None or b is None:
        return 0.0
    w = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    h = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    inside = max(w, 0) * max(h, 0)
    return inside / max(a.w * a.h + b.w * b.h - inside, 1e-9)
