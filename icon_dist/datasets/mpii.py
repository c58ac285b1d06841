"""MPII in HRNet's json: 1-based joints and centers, a scale in units of 200 px, no boxes and no ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_dist.datasets import repair
from icon_dist.datasets.annotation_file import (
    NUMBER,
    Entry,
    Faults,
    are_numbers,
    is_vector,
    load,
    missing_files,
    name_fault,
)
from icon_dist.datasets.photo_links import mend_letters, mend_slashes
from icon_dist.errors import DataError, shown
from icon_dist.images.photo import Exif
from icon_dist.images.size import size_as_read
from icon_dist.storage import local
from icon_dist.types import Annotations, Instance, Skeleton, Truth, TruthImage, TruthPerson

SKELETON = Skeleton(
    name="mpii",
    joints=(
        *("rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelvis", "thorax"),
        *("upneck", "headtop", "rwri", "relb", "rsho", "lsho", "lelb", "lwri"),
    ),
    flips=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    limbs=((13, 14), (14, 15), (12, 11), (11, 10), (3, 4), (4, 5), (2, 1), (1, 0)),
    bones=(
        *((9, 8), (8, 7), (7, 6), (7, 12), (7, 13), (6, 2), (6, 3)),
        *((13, 14), (14, 15), (12, 11), (11, 10), (3, 4), (4, 5), (2, 1), (1, 0)),
    ),
    sigmas=(
        *(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079),
        *(0.079, 0.079, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062),
    ),
    visible_at=1,
    upper=(),  # no half-body augmentation on MPII
    lower=(),
    metric="pckh",
    torso=(13, 2),
)


LARGEST_BOX = 10  # longer sides of the photo; the largest of the 2958 people of valid has 2.4


def read(
    annotations: str | Path,
    *,
    images: str | Path | None = None,
    headboxes: str | Path | None = None,
    drop_invalid: bool = False,
    exif: Exif | None = None,
) -> Annotations:
    """``train.json``, ``valid.json``, ``trainval.json``. Ids are rows of the file; image ids follow first appearance.

    ``headboxes``: ``gt_valid.mat``, whose rows are the people of ``valid.json``; PCKh needs it, and takes joints and
    visibility from it as the official script does. Photo sizes come from the jpegs: without ``images`` they are (0, 0).
    """
    document = _entries(annotations)
    faults = Faults(annotations, drop=drop_invalid)
    mend_slashes(document, "image", images, faults)
    mend_letters(document, "image", images, faults)
    given = (entry.get("image") for entry in document if type(entry) is dict)
    names = {name for name in given if type(name) is str and name_fault(name) is None}
    absent = missing_files(names, images) if images is not None else set()
    sizes: dict[str, tuple[int, int]] = {}
    rows = []
    for row, entry in enumerate(document):
        if fault := _place_fault(entry) or _joints_fault(entry) or _photo_fault(entry, images, absent, sizes, exif):
            faults.add(f"ann id={row} {fault}")
        else:
            rows.append(row)
    entries = [document[row] for row in rows]
    files = list(dict.fromkeys(e["image"] for e in entries))
    image_ids = {f: i for i, f in enumerate(files)}
    boxes = _boxes(entries)
    keypoints = np.empty((len(entries), SKELETON.num_joints, 3))
    keypoints[..., :2] = np.array([e["joints"] for e in entries], dtype=np.float64).reshape(-1, 16, 2) - 1
    keypoints[..., 2] = np.array([e["joints_vis"] for e in entries], dtype=np.float64).reshape(-1, 16)
    wh = np.array([sizes[e["image"]] for e in entries], dtype=np.float64).reshape(-1, 2)
    repair.require_pixels(keypoints + np.array([1, 1, 0]), boxes, wh, source=annotations)
    repair.forget_far_joints(keypoints, wh, ids=rows, joints=SKELETON.joints, faults=faults)
    if not (keypoints[..., 2] > 0).any():
        raise faults.nobody(people=len(document), crowds=0, unlabelled=len(rows))
    faults.warn()
    truth, heads = (keypoints, None) if headboxes is None else _ground_truth(headboxes, keypoints, rows, annotations)
    people: list[Instance] = []
    records: list[TruthPerson] = []
    columns = zip(rows, entries, boxes.tolist(), keypoints.astype(np.float32), truth, strict=True)
    for row, entry, (x, y, w, h), points, true in columns:
        file = entry["image"]
        if (points[:, 2] > 0).any():
            people.append(Instance(row, image_ids[file], file, sizes[file], (x, y, w, h), w * h, points))
        records.append(
            {
                "id": row,
                "image_id": image_ids[file],
                "category_id": 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "num_keypoints": int((true[:, 2] > 0).sum()),
                "keypoints": true.ravel().tolist(),
            }
        )
    if heads is not None:
        for record, head in zip(records, heads.tolist(), strict=True):
            record["head"] = head
    photos = [TruthImage(id=image_ids[f], file_name=f, width=sizes[f][0], height=sizes[f][1]) for f in files]
    found = Truth(images=photos, annotations=records)
    if faults.notes:
        found["notes"] = faults.notes
    return Annotations(SKELETON, people, found)


def read_places(annotations: str | Path) -> Annotations:
    """``test.json``: where the people are, without joints; ids are rows of the file, the truth is empty."""
    entries = _entries(annotations)
    faults = Faults(annotations, drop=False)
    for row, entry in enumerate(entries):
        if (fault := _place_fault(entry)) is not None:
            faults.add(f"ann id={row} {fault}")
    image_ids = {f: i for i, f in enumerate(dict.fromkeys(e["image"] for e in entries))}
    nothing = np.zeros((SKELETON.num_joints, 3), np.float32)
    people = [
        Instance(row, image_ids[e["image"]], e["image"], (0, 0), (x, y, w, h), w * h, nothing)
        for row, (e, (x, y, w, h)) in enumerate(zip(entries, _boxes(entries).tolist(), strict=True))
    ]
    photos = [TruthImage(id=i, file_name=f, width=0, height=0) for f, i in image_ids.items()]
    return Annotations(SKELETON, people, Truth(images=photos, annotations=[]))


def _entries(annotations: str | Path) -> list[Any]:
    document = load(annotations)
    if type(document) is not list or not document:
        raise DataError(f"{annotations}: expected a list of people on top, as in HRNet's valid.json")
    return document


def _boxes(entries: list[Entry]) -> NDArray[np.float64]:
    """Squares ``[n, 4]`` that ``codec.affine.center_scale`` turns into the official center and scale."""
    center = np.array([e["center"] for e in entries], dtype=np.float64).reshape(-1, 2)
    scale = np.array([e["scale"] for e in entries], dtype=np.float64)
    known = center[:, 0] != -1
    center[:, 1] += np.where(known, 15 * scale, 0)
    side = np.where(known, 200 * scale, 200 * scale / 1.25)  # center_scale pads by 1.25: only known centers are padded
    corner = center - 1 - side[:, None] / 2
    return np.concatenate([corner, side[:, None], side[:, None]], axis=1)


def _place_fault(entry: Any) -> str | None:
    if type(entry) is not dict:
        return "is not an object"
    if (fault := name_fault(entry.get("image"))) is not None:
        return f"image={fault}"
    if not is_vector(entry.get("center"), 2):
        return f"center={shown(entry.get('center'))}: expected [x, y]"
    if not are_numbers([entry.get("scale")]) or entry["scale"] <= 0:
        return f"scale={shown(entry.get('scale'))}: expected a number > 0"
    return None


def _joints_fault(entry: Entry) -> str | None:
    joints, visible = entry.get("joints"), entry.get("joints_vis")
    if type(joints) is not list or type(visible) is not list:
        return "joints, joints_vis: missing; the test set has none, use train.json or valid.json"
    if len(joints) != 16 or not all(is_vector(xy, 2) for xy in joints):
        return f"joints: {len(joints)} entries, expected 16 x [x, y] of finite numbers"
    if len(visible) != 16 or not all(type(v) in NUMBER and v in (0, 1) for v in visible):
        return f"joints_vis={shown(visible)}: expected 16 x 0 or 1"
    return None


def _photo_fault(
    entry: Entry,
    images: str | Path | None,
    absent: set[str],
    sizes: dict[str, tuple[int, int]],
    exif: Exif | None,
) -> str | None:
    """Why a photo is not that of a person; its size goes into ``sizes``, (0, 0) without ``images``."""
    name = entry["image"]
    if name in absent:
        return f"image={name!r}: not in {images}"
    if name not in sizes:
        try:
            sizes[name] = size_as_read(Path(images) / name, exif or "ignore") if images else (0, 0)
        except DataError as error:
            return f"image={name!r}: {error}"
    width, height = sizes[name]
    x, y, w, h = _boxes([entry])[0].tolist()
    if images and not (x + w > 1 and y + h > 1 and x < width - 1 and y < height - 1):
        return f"center={entry['center']} scale={entry['scale']}: outside the {width}x{height} image"
    if images and not 2 <= w <= LARGEST_BOX * max(width, height):
        return f"scale={entry['scale']}: a box of {w:g} px for the {width}x{height} image"
    return None


def _ground_truth(
    headboxes: str | Path, keypoints: NDArray[np.float64], rows: list[int], annotations: str | Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Joints ``[n, 16, 3]`` (0-based) and head box diagonals ``[n]`` px of the people ``rows`` of ``gt_valid.mat``."""
    from scipy.io import loadmat  # only this file of MPII's needs it

    try:
        local.require_regular(Path(headboxes))
        mat = loadmat(headboxes, variable_names=["headboxes_src", "pos_gt_src", "jnt_missing"])
        xy = mat["pos_gt_src"].transpose(2, 0, 1) - 1
        seen = 1.0 - mat["jnt_missing"].T
        diagonal = np.linalg.norm(mat["headboxes_src"][1] - mat["headboxes_src"][0], axis=0)
    except Exception as error:  # whatever loadmat makes of a foreign or damaged file
        raise DataError(f"{headboxes}: not MPII's gt_valid.mat ({error}); take it from HRNet's annot folder") from None
    if rows[-1] >= len(xy):
        raise DataError(f"{headboxes}: {len(xy)} people, {annotations} has more; gt_valid.mat goes with valid.json")
    joints = np.concatenate([xy, seen[..., None]], axis=2)[rows]
    both = (joints[..., 2] > 0) & (keypoints[..., 2] > 0)
    apart = (np.abs(joints[..., :2] - keypoints[..., :2]).max(axis=2) * both).max(axis=1) > 2
    if apart.mean() > 0.01:
        first = rows[int(apart.argmax())]
        raise DataError(
            f"{headboxes}: joints differ from {annotations}#ann id={first}; rows must be those of valid.json"
        )
    return joints, diagonal[rows]
