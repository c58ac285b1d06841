"""Any COCO-format json: its skeleton is one small YAML, one of those that ship here, or derived from the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from icon_dist.datasets.annotation_file import Entry, Faults, are_numbers, is_id, load
from icon_dist.datasets.coco_document import check_sections, mend_values
from icon_dist.datasets.coco_json import people_of
from icon_dist.datasets.derived_skeleton import Evidence, Pairs, derived_for, find_skeleton, numbered, shipped_as
from icon_dist.datasets.joint_names import standard
from icon_dist.datasets.photo_links import find_by_ends
from icon_dist.datasets.skeleton import LONGEST_NAME, MAX_JOINTS
from icon_dist.errors import DataError, plural, shorten
from icon_dist.images.photo import Exif
from icon_dist.types import Annotations, Skeleton

STORED = {"halpe26": 136}  # joints that the set's own files hold, of which the skeleton's come first
WHOLE_BODY = ("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")


def read(
    annotations: str | Path,
    *,
    skeleton: str | Path | Skeleton | None = None,
    sigmas: tuple[float, ...] = (),
    images: str | Path | None = None,
    drop_invalid: bool = False,
    exif: Exif | None = None,
) -> Annotations:
    """A COCO-format file with the joints of ``skeleton``: a YAML path or a shipped name, else derived."""
    named = find_skeleton(skeleton) if skeleton is not None else None
    document, faults = load(annotations), Faults(annotations, drop=drop_invalid)
    check_sections(document, source=annotations)
    mend_values(document, faults)
    if images is not None:
        find_by_ends(document["images"], images, faults)
    people = [entry for entry in document["annotations"] if type(entry) is dict]  # the others are named by people_of
    _require_poses(document, people, faults)
    found = named or _derived(document, people, faults, sigmas)
    _cut(document["categories"], people, found, faults)
    return people_of(document, faults, skeleton=found, images=images, exif=exif)


def _require_poses(document: Entry, people: list[Entry], faults: Faults) -> None:
    """DataError where every joint is an annotation of its own, of a category with its name; a note on Label Studio."""
    poses = [person for person in people if person.get("keypoints")]
    kinds = {pose["category_id"] for pose in poses if is_id(pose.get("category_id"))}
    label_studio = type(info := document.get("info")) is dict and info.get("contributor") == "Label Studio"
    export = "Label Studio's JSON export says who is who: icon-dist shards build labelstudio"
    if len(kinds) > 1 and all(len(_flat(pose)) == 3 for pose in poses):
        what = f"{plural(len(poses), 'annotation')} of one joint each, in {len(kinds)} categories: nobody has a pose"
        raise DataError(f"{faults.source}: {what}; {export if label_studio else 'export poses'}")
    if label_studio and poses:
        faults.note(f"joints of all people in a photo are one person's in this export; {export}")


def _derived(document: Entry, people: list[Entry], faults: Faults, sigmas: tuple[float, ...]) -> Skeleton:
    """The skeleton of the category with the most poses; its joints take the place of the names in the file."""
    poses: dict[tuple[int, int], list[list[float]]] = {}  # by category and number of joints
    for person in people:
        if is_id(number := person.get("category_id", -1)) and (pose := _flat(person)):
            poses.setdefault((number, len(pose) // 3), []).append(pose)
    number, joints = max(poses, key=lambda kind: len(poses[kind]), default=(-1, 0))
    category = next((c for c in document["categories"] if c["id"] == number), document["categories"][0])
    stated = category.get("keypoints")
    given = [_name(name) for name in stated] if type(stated) is list else []
    joints = min(joints or len(given), MAX_JOINTS)
    if not joints:
        hint = "no annotation has keypoints that are numbers in threes"
        raise DataError(f"{faults.source}: {hint}, so no skeleton can be derived; export them, or pass --skeleton")
    keypoints = np.array(poses.get((number, joints), []), np.float64).reshape(-1, joints, 3)
    evidence = Evidence(
        name=shorten(str(category.get("name") or Path(faults.source).stem), LONGEST_NAME),
        joints=_names(given, joints, faults),
        bones=_bones(category.get("skeleton"), joints, faults),
        visible_at=2 if (keypoints[..., 2] == 2).any() or not len(keypoints) else 1,
        keypoints=keypoints,
        sigmas=sigmas,
    )
    found = derived_for(faults, evidence)
    if any(all(key in person for key in WHOLE_BODY) for person in people[:1000]):
        faults.note("has joints of feet, face and hands too; icon-dist shards build wholebody133 reads them")
    for other in document["categories"]:
        if other.get("keypoints") == stated and stated is not None:
            other["keypoints"] = list(found.joints)
    return found


def _flat(annotation: Entry) -> list[float]:
    """The keypoints of an annotation in one list; [] where they are no numbers in threes."""
    points = annotation.get("keypoints")
    if type(points) is not list:
        return []
    if points and all(type(point) is list and len(point) == 3 for point in points):
        points = [value for point in points for value in point]
    return points if len(points) % 3 == 0 and are_numbers(points) else []


def _name(stated: object) -> str:
    """The name of a joint, which some write as an object with a name."""
    return str(stated.get("name", "") if type(stated) is dict else stated).strip()


def _names(given: list[str], joints: int, faults: Faults) -> tuple[str, ...]:
    """Different names of so many joints: the file's, those of a public set that begins with them, else numbers."""
    fit = all(name and name.isprintable() and len(name) <= LONGEST_NAME for name in given)
    if not fit or len({*given}) < len(given):
        why = "names that are empty, too long or given twice"
    elif len(given) >= joints:
        if len(given) > joints:
            faults.note(f"{plural(len(given), 'joint')} are named, people have {joints}; the first")
        return tuple(given[:joints])
    elif (known := shipped_as(given, joints)) is not None:
        return known
    else:
        why = f"{plural(len(given), 'name')} for {plural(joints, 'joint')}" if given else "no names"
    faults.note(f"keypoints of the category: {why}; numbered instead")
    return numbered(joints)


def _bones(links: object, joints: int, faults: Faults) -> Pairs:
    """Pairs of the category's ``skeleton``, which are counted from 1, or from 0 where there is a 0."""
    if type(links) is not list or not links:
        return ()
    pairs = [
        (int(link[0]), int(link[1]))
        for link in links
        if type(link) is list and len(link) == 2 and are_numbers(link) and all(end % 1 == 0 for end in link)
    ]
    ends = [end for pair in pairs for end in pair]
    if len(pairs) < len(links):
        faults.note("skeleton of the category: no pairs of numbers; left out")
        return ()
    first = 0 if min(ends) == 0 else 1
    if min(ends) < 0 or max(ends) - first >= joints:
        faults.note(f"skeleton of the category: numbers up to {max(ends)} for {plural(joints, 'joint')}; left out")
        return ()
    return tuple(dict.fromkeys((min(a, b) - first, max(a, b) - first) for a, b in pairs if a != b))


def _cut(categories: list[Entry], people: list[Entry], skeleton: Skeleton, faults: Faults) -> None:
    """Leave of a set's joints those of the skeleton, of which the file has more, or names more."""
    joints, stored = skeleton.num_joints, STORED.get(skeleton.name, 0)
    listed = [person for person in people if type(person.get("keypoints")) is list]
    if whole := [person for person in listed if stored and len(person["keypoints"]) == 3 * stored]:
        for person in whole:
            person["keypoints"] = person["keypoints"][: 3 * joints]
        faults.note(f"the first {joints} of {stored} joints of {plural(len(whole), 'person')}")
    lengths = {len(person["keypoints"]) for person in listed}
    for category in categories:
        names = category.get("keypoints")
        if type(names) is list and len(names) > joints and lengths <= {0, 3 * joints}:
            first = [standard(str(name)) for name in names[:joints]]
            if first == [standard(name) for name in skeleton.joints]:
                category["keypoints"] = list(skeleton.joints)
