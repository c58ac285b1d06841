"""Ultralytics' YOLO pose: a ``data.yaml`` that says where photos are, and a text file of fractions for each photo.

A line of a label file is a class, the box's center and size, then x and y of every joint, each with a visibility if
``kpt_shape`` is ``[joints, 3]``: https://docs.ultralytics.com/datasets/pose/. What becomes of it is a COCO-format
document, which goes through all checks of such files.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from icon_dist.datasets import coco
from icon_dist.datasets.annotation_file import Entry, Faults, name_fault
from icon_dist.datasets.coco_json import people_of
from icon_dist.datasets.derived_skeleton import Evidence, derived_for, find_skeleton, numbered
from icon_dist.datasets.joint_names import mirror_pairs
from icon_dist.datasets.yolo_labels import LabelFiles
from icon_dist.datasets.yolo_yaml import SHAPE, YoloYaml, read_yolo_yaml
from icon_dist.errors import DataError, plural
from icon_dist.images.photo import Exif
from icon_dist.images.size import size_as_read
from icon_dist.types import Annotations, Skeleton


def read(
    annotations: str | Path,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    skeleton: str | Path | Skeleton | None = None,
    sigmas: tuple[float, ...] = (),
    exif: Exif | None = None,
    drop_invalid: bool = False,
) -> Annotations:
    """The people of one ``split`` of a ``data.yaml``: train, else the only one.

    ``images`` is the folder to use in place of the file's ``path``. Without a ``skeleton`` it is derived, with
    ``sigmas`` if there are any. ``exif="ignore"``: fractions are of the pixels as stored, not of the upright picture
    that Ultralytics makes of them.
    """
    said = read_yolo_yaml(annotations)
    chosen = said.choose(split)
    files, wrong = said.photos(chosen, root=images)
    apart = Path(images).absolute() if images is not None else None
    labels = LabelFiles(home=said.file.absolute().parent, split=chosen, apart=apart)
    faults = Faults(said.file, drop=drop_invalid)
    if not said.joints:
        shape = labels.shape(files)
        if shape is None:
            raise DataError(f"{said.file} kpt_shape: missing, and its label lines do not show it; {SHAPE}")
        said = read_yolo_yaml(said.file, shape=shape)
        faults.note(f"kpt_shape is missing; {[*shape]} is what all lines of poses have")
    faults.note(*said.notes)
    for text in wrong:
        faults.add(text)
    folder = os.path.commonpath([file.parent for file in files])
    document = _document(files, Path(folder), said, faults, labels=labels, exif=exif or "apply")
    found = _skeleton(said, document, skeleton, sigmas, faults)
    for category in document["categories"]:
        category["keypoints"] = list(found.joints)
    people = people_of(document, faults, skeleton=found, images=None)
    return replace(people, folder=folder, split=chosen)


def _document(
    files: list[Path], folder: Path, said: YoloYaml, faults: Faults, *, labels: LabelFiles, exif: Exif
) -> Entry:
    """A COCO-format document of all photos; ids of photos and people follow ``files`` and lines, from 1."""
    photos: list[Entry] = []
    people: list[Entry] = []
    for file in files:
        name = file.relative_to(folder).as_posix()
        try:
            fault = name_fault(name)
            width, height = size_as_read(file, exif) if fault is None else (0, 0)
        except DataError as error:
            fault = str(error)
        if fault is not None:
            faults.add(f"image {fault}")
            continue
        photos.append({"id": len(photos) + 1, "file_name": name, "width": width, "height": height})
        for where, person in labels.people(file, (width, height), said, faults):
            people.append(person | {"id": len(people) + 1, "image_id": len(photos)})
            faults.places[len(people)] = where
    if not labels.photo_folders:
        where = labels.expected(files[0])
        raise DataError(f"{said.file}: none of {plural(len(files), 'photo')} has a label file; {where}")
    faults.note(*labels.notes())
    categories = [{"id": number, "name": name} for number, name in sorted(said.classes.items())]
    return {"images": photos, "annotations": people, "categories": categories}


def _skeleton(
    said: YoloYaml,
    document: Entry,
    skeleton: str | Path | Skeleton | None,
    sigmas: tuple[float, ...],
    faults: Faults,
) -> Skeleton:
    """The skeleton asked for, of as many joints as the file has, or one derived from the file."""
    if skeleton is not None:
        found = find_skeleton(skeleton)
        if found.num_joints != said.joints:
            have = f"kpt_shape has {plural(said.joints, 'joint')}, skeleton {found.name} {found.num_joints}"
            raise DataError(f"{said.file}: {have}; name the right skeleton, or leave it out to have one derived")
        if said.flips is not None and {frozenset(p) for p in said.flips} != {frozenset(p) for p in found.flips}:
            faults.note(f"flip_idx has other pairs than skeleton {found.name}, which is used")
        return found
    names = said.names
    if not names and said.joints == len(coco.SKELETON.joints) and said.flips == coco.SKELETON.flips:
        names = coco.SKELETON.joints  # COCO's own sets are the ones without names
    flips = said.flips
    if flips == () and mirror_pairs(names):
        faults.note("flip_idx exchanges no joints, although their names have left and right; the names are used")
        flips = None
    poses = [person["keypoints"] for person in document["annotations"] if person["keypoints"]]
    keypoints = np.array(poses, np.float64).reshape(-1, said.joints, 3)
    evidence = Evidence(
        name=_name(said.file),
        joints=names or numbered(said.joints),
        flips=flips,
        bones=said.bones,
        visible_at=2 if (keypoints[..., 2] == 2).any() else 1,
        keypoints=keypoints,
        sigmas=sigmas,
    )
    return derived_for(faults, evidence)


def _name(file: Path) -> str:
    """Of the file, or of its folder where the file has the name that all have."""
    folder = file.absolute().parent.name
    return folder if file.stem.lower() in ("data", "dataset", "classes") and folder else file.stem
