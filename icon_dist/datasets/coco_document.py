"""A COCO-format document without its people: its sections, its categories and its images, every entry checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from icon_dist.datasets.annotation_file import (
    Entry,
    Faults,
    are_numbers,
    id_fault,
    is_id,
    load,
    mend_wholes,
    name_fault,
)
from icon_dist.datasets.joint_names import are_positions, standard
from icon_dist.datasets.photo_links import mend_letters, mend_slashes
from icon_dist.datasets.repair import forget_blank_joints
from icon_dist.errors import DataError, plural, shorten, shown
from icon_dist.images.photo import Exif
from icon_dist.images.size import size_as_read
from icon_dist.types import Annotations, Skeleton, TruthImage


def read_photos(file: str | Path, *, skeleton: Skeleton) -> Annotations:
    """The photos of a set without annotations, such as ``image_info_test-dev2017.json``; nobody is known in them."""
    document = load(file)
    if type(document) is not dict or type(document.get("images")) is not list:
        raise DataError(f"{file}: no list of images; expected a file like image_info_test-dev2017.json")
    photos = images_of(document["images"], Faults(file, drop=False), image_field=None, images=None)
    return Annotations(skeleton, [], {"images": list(photos.values()), "annotations": []})


def check_sections(document: Any, *, source: str | Path) -> None:
    """Raise a DataError where a document lacks the sections of a COCO keypoints file, or ids of its categories."""
    if type(document) is not dict:
        kind = "a list" if type(document) is list else f"{type(document).__name__}"
        other = _other_kind(document)
        guess = f" (it looks like {other})" if other else ""
        raise DataError(f"{source}: {kind} on top{guess}, expected an object with images, annotations, categories")
    for name in ("images", "annotations", "categories"):
        if type(document.get(name)) is not list:
            found = "missing" if name not in document else "not a list"
            other = _other_kind(document)
            form = "expected a COCO keypoints file (person_keypoints_*.json)"
            what = f"{form}, it looks like {other}" if other else form
            raise DataError(f"{source} {name}: {found}; {what}; export the labels in that format")
    mend_wholes(document["categories"], "id")
    ids = [c.get("id") if type(c) is dict else None for c in document["categories"]]
    if not ids or not all(map(is_id, ids)) or len(set(ids)) != len(ids):
        raise DataError(f"{source} categories: ids {shown(ids)}, expected at least one, all different integers >= 0")


def _other_kind(document: Any) -> str | None:
    """What a document is that other tools write, if it is known."""
    one = next(iter(document), None) if type(document) is list else document
    if type(one) is not dict:
        return None
    if type(document) is list:
        if ("annotations" in one or "annotator" in one) and "images" not in one:
            return "Label Studio's JSON export, which icon-dist shards build labelstudio reads"
        return "results of a model, no labels" if "image_id" in one else None
    names = {
        "shapes": "the labels of one photo, by LabelMe",
        "_via_img_metadata": "a project of the VGG Image Annotator",
        "people": "poses of one photo, as OpenPose writes them",
        "instance_info": "poses, as MMPose's demo writes them",
    }
    return next((what for key, what in names.items() if key in one), None)


def mend_values(document: Entry, faults: Faults) -> None:
    """Read what tables and other tools write for integers, for what is not known and for joints that nobody clicked."""
    annotations = document["annotations"]
    mend_wholes(annotations, "id", "image_id", "category_id", "iscrowd")
    blank, first = 0, 0
    for number, entry in enumerate(annotations):
        if type(entry) is dict:
            if entry.get("iscrowd", 0) is None:
                del entry["iscrowd"]
            if found := forget_blank_joints(entry.get("keypoints")):
                first = first if blank else number
                blank += found
    if blank:
        where = f"ann {entry_name(annotations[first], first)} the first"
        faults.note(f"{plural(blank, 'joint')} without coordinates (null, NaN), read as not labelled ({where})")


def categories_of(document: Entry, skeleton: Skeleton, faults: Faults) -> tuple[dict[int, str], set[int]]:
    """Categories whose people have the joints of ``skeleton``, with their names; and those that are left out.

    Where no category lists these joints, it is those without a list whose annotations have keypoints.
    """
    categories, joints = document["categories"], list(skeleton.joints)
    uses = [a.get("category_id") for a in document["annotations"] if type(a) is dict]
    stated = [c["id"] for c in categories if lists_joints(c, skeleton)]
    if not stated and (stated := [c["id"] for c in categories if _numbers_joints(c, skeleton)]):
        faults.note(f"joints that are only numbered are taken for those of skeleton {skeleton.name}, in its order")
    others = [(i, c) for i, c in enumerate(categories) if c.get("keypoints") and c["id"] not in stated]
    if not stated:
        silent = {c["id"] for c in categories if not c.get("keypoints")}
        posed = [a.get("category_id") for a in document["annotations"] if type(a) is dict and a.get("keypoints")]
        stated = sorted(silent & {i for i in posed if is_id(i)})
        if not stated and others:
            at, wrong = next(((i, c) for i, c in others if c["id"] in uses), others[0])
            raise DataError(
                f"{faults.source} categories[{at}].keypoints: {shown(wrong['keypoints'])} are not the joints of "
                f"skeleton {skeleton.name}: {joints}; icon-dist shards build custom, without --skeleton, derives one"
            )
        stated = stated or sorted(silent)
    left = {c["id"]: c.get("name") for c in categories if c["id"] not in stated}
    if left:
        number = sum(1 for i in uses if is_id(i) and i in left)
        names = ", ".join(f"{shown(name)} (id {i})" for i, name in list(left.items())[:5])
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        of = f"with {plural(number, 'annotation')}" if number else "without annotations"
        what = f"{plural(len(left), 'category', 'categories')} {of}"
        faults.note(f"left out {what}, not of the joints of skeleton {skeleton.name}: {names}{more}")
    return {c["id"]: _name(c) for c in categories if c["id"] in stated}, set(left)


def lists_joints(category: Entry, skeleton: Skeleton) -> bool:
    """Whether the names of a category's keypoints are the joints of ``skeleton``, however they are written."""
    names = category.get("keypoints")
    if type(names) is not list or len(names) != skeleton.num_joints or not all(type(name) is str for name in names):
        return False
    return all(standard(a) == standard(b) for a, b in zip(names, skeleton.joints, strict=True))


def _numbers_joints(category: Entry, skeleton: Skeleton) -> bool:
    """Whether the names are as many, and only numbers of places."""
    names = category.get("keypoints")
    return type(names) is list and len(names) == skeleton.num_joints and are_positions(names)


def _name(category: Entry) -> str:
    name = category.get("name")
    return shorten(name) if type(name) is str else "person"


def images_of(
    entries: list[Any], faults: Faults, *, image_field: str | None, images: str | Path | None, exif: Exif = "ignore"
) -> dict[int, TruthImage]:
    """Images by id. Sizes that the file does not say are read from the photos in the folder ``images``, as ``exif``."""
    fields = ["id", "file_name", "width", "height", *([image_field] if image_field else [])]
    photos: dict[int, TruthImage] = {}
    measured = 0
    mend_wholes(entries, "id", "width", "height")
    mend_slashes(entries, "file_name", images, faults)
    mend_letters(entries, "file_name", images, faults)
    for number, entry in enumerate(entries):
        fault = None
        try:
            measured += _measure(entry, images, exif)
        except DataError as error:
            fault = f"width, height: missing, and {error}"
        fault = fault or _photo_fault(entry, image_field=image_field)
        if fault is None and entry["id"] in photos:
            fault = "duplicate id"
        if fault is not None:
            faults.add(f"image {entry_name(entry, number)} {fault}")
            continue
        photos[entry["id"]] = cast(TruthImage, {k: entry[k] for k in fields})
    if measured:
        faults.note(f"{plural(measured, 'image')} without width and height; taken from the photos")
    return photos


def _measure(entry: Any, images: str | Path | None, exif: Exif) -> bool:
    """Write the size of a photo into an entry without one; whether it had none."""
    if images is None or type(entry) is not dict or name_fault(entry.get("file_name")) is not None:
        return False
    if entry.get("width") not in (None, 0) and entry.get("height") not in (None, 0):
        return False
    entry["width"], entry["height"] = size_as_read(Path(images) / entry["file_name"], exif)
    return True


def _photo_fault(entry: Any, *, image_field: str | None) -> str | None:
    if type(entry) is not dict:
        return "is not an object"
    if not is_id(entry.get("id")):
        return id_fault("id", entry.get("id"))
    if (fault := name_fault(entry.get("file_name"))) is not None:
        return f"file_name={fault}"
    for key in ("width", "height"):
        if not is_id(entry.get(key)) or entry[key] == 0:
            return f"{key}={shown(entry.get(key))}: expected a positive integer"
    if image_field and not are_numbers([entry.get(image_field)]):
        return f"{image_field}={shown(entry.get(image_field))}: expected a number"
    return None


def entry_name(entry: Any, number: int) -> str:
    """What an entry is called in messages: by its id, or by its place in the list."""
    known = type(entry) is dict and is_id(entry.get("id"))
    return f"id={entry['id']}" if known else f"number {number}"
