"""A folder of results: every photo and video with its poses drawn, and ``poses.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

import numpy as np

from icon_dist import storage
from icon_dist.errors import StorageError
from icon_dist.images.encode import encode
from icon_dist.inference import video
from icon_dist.inference.box_files import FileBoxes
from icon_dist.inference.inputs import Source
from icon_dist.inference.poses import Poses
from icon_dist.storage import local, tempdirs
from icon_dist.types import Skeleton

FILE = "poses.json"
QUALITY = 95  # of the drawn photos, JPEG


class Results:
    """Writes the drawings as they come, and notes what belongs into ``poses.json``."""

    def __init__(self, out: str, scratch: Path, annotations: BufferedRandom, *, given: FileBoxes) -> None:
        self.instances = self.empty = 0  # instances, and images without one
        self.images: list[str] = []  # JSON, one a photo or frame
        self._out, self._scratch, self._annotations = out, scratch, annotations
        self._image_ids, self._next_id = given.image_ids, max(given.image_ids.values(), default=0) + 1
        self._category = given.category
        self._video: tuple[Source, video.Writer] | None = None

    def add(self, source: Source, poses: Poses, *, frame: int | None = None) -> None:
        """The poses of a photo, or of the next frame of a video, whose number from 0 is ``frame``."""
        number = self._image_ids.get(source.place, self._next_id)
        self._next_id += number == self._next_id
        moment = {} if frame is None else {"frame": frame}
        height, width = poses.image.shape[:2]
        about = {"id": number, "file_name": source.name, "width": width, "height": height, **moment}
        self.images.append(json.dumps(about))
        for one in poses.to_coco(image_id=number, category_id=self._category):
            self.instances += 1
            _, _, w, h = one["bbox"]
            line = {
                "id": self.instances,
                **one,
                "area": w * h,
                "iscrowd": 0,
                "num_keypoints": len(poses.names),
                **moment,
            }
            comma = b",\n" if self.instances > 1 else b""
            self._annotations.write(comma + json.dumps(line).encode())
        self.empty += not len(poses)
        if source.video is None:
            drawing = np.ascontiguousarray(poses.drawing()[..., ::-1])
            storage.write(storage.join(self._out, source.output), encode(drawing, QUALITY))
        else:
            self._append(source, source.video, poses)

    def _append(self, source: Source, about: video.Video, poses: Poses) -> None:
        if self._video is None or self._video[0] is not source:
            self.end_video()
            self._video = source, video.Writer(self._place(source), wh=about.wh, fps=about.fps)
        self._video[1].add(poses.drawing())

    def end_video(self) -> None:
        """Finish the video that is being written, if one is, and put it into the folder."""
        if self._video is None:
            return
        source, writer = self._video
        self._video = None
        writer.close()
        place = self._place(source)
        if video.frame_count(str(place)) != writer.frames:
            raise StorageError(f"{place}: not all of the video could be written; free some space, or set TMPDIR")
        storage.write(storage.join(self._out, source.output), place)
        place.unlink()

    def _place(self, source: Source) -> Path:
        return self._scratch / source.output


@contextmanager
def results(out: str, skeleton: Skeleton, conditions: Mapping[str, object], *, given: FileBoxes) -> Iterator[Results]:
    """Results in the folder ``out``; ``poses.json`` is written when the block ends without an error.

    It is a COCO annotation file: ``annotations`` are COCO results with the ids of their ``images``, ``categories``
    name joints and bones, and ``conditions`` say by what they were predicted. Photos and the category have the ids that
    they have in the file of boxes, ``given``.
    """
    category = {
        "id": given.category,
        "name": skeleton.name,
        "keypoints": list(skeleton.joints),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.bones or skeleton.limbs],
    }
    with tempdirs.Folder("predict") as scratch:
        place = Path(scratch) / FILE
        with local.replacing(place) as file:
            file.write(f'{{"conditions": {json.dumps(conditions)},\n"categories": [{json.dumps(category)}],\n'.encode())
            file.write(b'"annotations": [\n')
            found = Results(out, Path(scratch), file, given=given)
            yield found
            found.end_video()
            file.write(b'\n],\n"images": [\n' + ",\n".join(found.images).encode() + b"\n]}\n")
        storage.write(storage.join(out, FILE), place)
