"""The ground truth of an evaluation as columns, made once: what every metric compares poses with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped
from numpy.typing import NDArray

from icon_dist.errors import DataError
from icon_dist.types import Truth

OF_IMAGES = ("images", "files", "crowding")  # columns with a row an image
STRANGER = "not in the ground truth; predictions and truth are of different sets"


@dataclass(frozen=True)
class GroundTruth:
    """The images that count and the people annotated in them, one row each, in the order of the file; photo px."""

    images: Int64[np.ndarray, " i"]  # ids
    files: Shaped[np.ndarray, " i"]  # names
    crowding: Float[np.ndarray, " i"]  # CrowdPose's crowdIndex of an image; NaN where the file has none
    id: Int64[np.ndarray, " n"]
    image_id: Int64[np.ndarray, " n"]
    keypoints: Float[np.ndarray, "n K 3"]  # x, y, raw v
    box: Float[np.ndarray, "n 4"]  # x, y, w, h
    area: Float[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]  # a group: may be matched again and again, and is never missed
    labelled: Int64[np.ndarray, " n"]  # number of joints with v > 0
    head: Float[np.ndarray, " n"]  # diagonal of MPII's head box; NaN where the file has none

    def among(self, image_ids: Collection[int] | None) -> GroundTruth:
        """The truth of these images alone, or of all for None. DataError where one of them is not in it."""
        if image_ids is None:
            return self
        wanted = np.unique(np.fromiter(image_ids, dtype=np.int64))
        if len(strangers := np.setdiff1d(wanted, self.images)):
            raise DataError(f"image {strangers[0]}: {STRANGER}")
        inside = np.isin(self.images, wanted)
        people = self.people(np.isin(self.image_id, wanted))
        return GroundTruth(**vars(people) | {name: getattr(self, name)[inside] for name in OF_IMAGES})

    def people(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> GroundTruth:
        """The truth of these people alone, on the same images."""
        of_people = {name: column[rows] for name, column in vars(self).items() if name not in OF_IMAGES}
        return GroundTruth(**vars(self) | of_people)


def ground_truth(truth: Truth, *, joints: int) -> GroundTruth:
    """The columns of a COCO-shaped file, such as ``Annotations.truth`` and ``truth.json.gz``, of so many joints."""
    people, images = truth["annotations"], truth["images"]

    return GroundTruth(
        images=np.array([image["id"] for image in images], np.int64),
        files=np.array([image.get("file_name", str(image["id"])) for image in images], np.str_),
        crowding=np.array([image.get("crowdIndex", np.nan) for image in images], np.float64),
        id=np.array([person["id"] for person in people], np.int64),
        image_id=np.array([person["image_id"] for person in people], np.int64),
        keypoints=np.array([person["keypoints"] for person in people], np.float64).reshape(len(people), joints, 3),
        box=np.array([person["bbox"] for person in people], np.float64).reshape(len(people), 4),
        area=np.array([person["area"] for person in people], np.float64),
        crowd=np.array([bool(person["iscrowd"]) for person in people], bool),
        labelled=np.array([person["num_keypoints"] for person in people], np.int64),
        head=np.array([person.get("head", np.nan) for person in people], np.float64),
    )
