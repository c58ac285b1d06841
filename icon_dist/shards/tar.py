"""One shard: people and their photos to the bytes of a plain WebDataset tar and its part of the index."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from icon_dist import storage
from icon_dist.errors import DataError
from icon_dist.images import photo
from icon_dist.images.encode import Window, encode, encode_alike, quantization
from icon_dist.images.image import plain_jpeg
from icon_dist.images.photo import AS_STORED, Conversion
from icon_dist.shards.crop_window import ASPECTS, ZOOM, window
from icon_dist.shards.shard_set import index_schema
from icon_dist.types import Instance, Skeleton


@dataclass(frozen=True)
class Settings:
    """How instances and their images become shards; the manifest of a set records it."""

    max_input: tuple[int, int] | None = (384, 288)  # H, W of the largest input the crops are for; None = photo pixels
    quality: int = 95  # of JPEG, where a crop cannot be rounded as its photo was
    per_shard: int = 1000  # people
    seed: int = 0  # of the one shuffle of people over shards
    photos: Conversion = AS_STORED

    def manifest(self) -> Mapping[str, Any]:
        """What readers of the shards are told; of the photos only where something is unusual."""
        record = {**asdict(self), "aspects": self.aspects, "zoom": ZOOM}
        return record if self.photos != AS_STORED else {k: v for k, v in record.items() if k != "photos"}

    @property
    def aspects(self) -> tuple[float, ...]:
        """width / height of the inputs that the windows have margin for, and all between."""
        own = () if self.max_input is None else (self.max_input[1] / self.max_input[0],)
        return tuple(sorted({*ASPECTS, *own}))


@dataclass(frozen=True)
class Job:
    """One shard to write."""

    number: int
    people: list[Instance]
    skeleton: Skeleton
    images: str
    out: str
    settings: Settings
    build: str  # digest of the whole build: tells a part of it from a part of another


def crop(
    data: bytes, part: Window, stored_wh: tuple[int, int], *, settings: Settings, name: str
) -> tuple[bytes, Window, tuple[int, int]]:
    """The JPEG of a window of a photo, with the window and size that it has in the end.

    A whole plain JPEG is kept as it is. Pixels that keep their size are rounded as the photo's were, on its grid.
    """
    found = photo.header(data, name=name)
    width, height = found.wh(settings.photos.exif)
    as_stored = stored_wh == part[2:] and not (settings.photos.exif == "apply" and found.orientation != 1)
    rounding = quantization(data) if as_stored else None
    pixels = photo.decode(data, name=name, conversion=settings.photos, smooth=rounding is None)
    if as_stored and part == (0, 0, width, height) and plain_jpeg(data):
        return data, part, stored_wh
    if rounding:
        part = rounding.aligned(part, (width, height))
        stored_wh = part[2:]
    x, y, w, h = part
    view = pixels[y : y + h, x : x + w]
    if rounding:
        return encode_alike(view, rounding), part, stored_wh
    if stored_wh != (w, h):
        view = np.asarray(cv2.resize(view, stored_wh, interpolation=cv2.INTER_AREA), np.uint8)
    return encode(view, settings.quality), part, stored_wh


def _member(person: Instance, part: Window, stored_wh: tuple[int, int]) -> bytes:
    """The json beside a crop: all an outside user needs, in px of the original photo."""
    fields = {
        "id": person.id,
        "image_id": person.image_id,
        "file": person.file,
        "photo_wh": person.wh,
        "box": person.box,
        "area": person.area,
        "score": person.score,
        "keypoints": [[float(str(v)) for v in row] for row in person.keypoints],  # fewest digits of the same float32
        "window": part,
        "stored_wh": stored_wh,
        "scale": [stored / size for stored, size in zip(stored_wh, part[2:], strict=True)],
    }
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()


def size_fault(person: Instance, found: photo.Header, exif: photo.Exif) -> str | None:
    """Why the size of a photo is not the annotated one."""
    (width, height), said = found.wh(exif), person.wh
    if (width, height) == said:
        return None
    turned = found.orientation >= 5 and said == (height, width)
    other = "ignore" if exif == "apply" else "apply"
    fix = "give the photo that was labelled"
    if said == (height, width):
        fix = "are width and height of the image exchanged in the annotations?"
    if turned:
        fix = f"with --exif {other} these agree, or correct the annotated size"
    return f"is {width} x {height} px, annotated as {said[0]} x {said[1]}; {fix}"


def _photo(job: Job, person: Instance) -> bytes:
    place = storage.join(job.images, person.file)
    try:
        data = photo.read(place)
    except FileNotFoundError:
        raise DataError(f"{place}: missing, the photo of person #{person.id}; correct --images") from None
    if fault := size_fault(person, photo.header(data, name=place), job.settings.photos.exif):
        raise DataError(f"{place}: {fault}")
    return data


def _row(job: Job, person: Instance) -> tuple[dict[str, object], bytes, bytes]:
    """Index row, image and json of a person."""
    settings = job.settings
    part, stored_wh = window(person, job.skeleton, aspects=settings.aspects, max_input=settings.max_input)
    name = storage.join(job.images, person.file)
    image, part, stored_wh = crop(_photo(job, person), part, stored_wh, settings=settings, name=name)
    row = {
        "shard": job.number,
        "size": len(image),
        "sha256": hashlib.sha256(image).hexdigest(),
        "key": f"{person.id:09d}",
        "instance": person.id,
        "image_id": person.image_id,
        "box": person.box,
        "area": person.area,
        "score": person.score,
        "keypoints": person.keypoints.reshape(-1),
        "window": part,
        "stored_wh": stored_wh,
        "photo_wh": person.wh,
    }
    return row, image, _member(person, part, stored_wh)


def tar_and_index(job: Job) -> tuple[bytes, pa.Table]:
    """The bytes of one shard and its part of the index."""
    file, rows = io.BytesIO(), []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for person in job.people:
            row, image, text = _row(job, person)
            for suffix, data in (("jpg", image), ("json", text)):
                header = tarfile.TarInfo(f"{row['key']}.{suffix}")  # mtime 0, uid 0, mode 644: nothing of this machine
                header.size = len(data)
                if suffix == "jpg":
                    row["offset"] = file.tell() + tarfile.BLOCKSIZE
                tar.addfile(header, io.BytesIO(data))
            rows.append(row)
    return file.getvalue(), pa.Table.from_pylist(rows, schema=index_schema(job.skeleton.num_joints))
