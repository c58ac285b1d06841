"""The poses of one image as a value: coordinates, scores, a drawing, COCO results."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from PIL import Image

from icon_dist.drawing import skeletons
from icon_dist.metrics.oks_nms import JOINT_THRESHOLD
from icon_dist.types import PERSON, Json, Skeleton


@dataclass(frozen=True)
class Poses:
    """The poses of the n instances in one image, one row each, in the order of the boxes."""

    xy: Float[np.ndarray, "n K 2"]  # px of the image; pixel centers sit on integers
    scores: Float[np.ndarray, "n K"]  # heights of the heatmap peaks; about 0 (not found) to 1
    boxes: Float[np.ndarray, "n 4"]  # x, y, width, height in px, as they were given
    pose_scores: Float[np.ndarray, " n"]  # score of the box x mean of the joint scores above .2, by which AP ranks
    skeleton: Skeleton = field(repr=False)
    image: UInt8[np.ndarray, "H W 3"] = field(repr=False)  # RGB
    track_ids: Int64[np.ndarray, " n"] | None = None  # of frames that were tracked

    def __len__(self) -> int:
        """The number of instances."""
        return len(self.xy)

    @property
    def names(self) -> tuple[str, ...]:
        """The K names of the joints, in the order of ``xy`` and ``scores``."""
        return self.skeleton.joints

    def draw(self, *, threshold: float = JOINT_THRESHOLD) -> Image.Image:
        """The whole image with every pose on it, as a picture of Pillow: ``poses.draw().save("out.jpg")``.

        Joints with a score below ``threshold`` are hollow. Left is blue and right is orange; instances of a skeleton
        without sides, and those with ``track_ids``, have a color each.
        """
        return Image.fromarray(self.drawing(threshold=threshold))

    def drawing(self, *, threshold: float = JOINT_THRESHOLD) -> UInt8[np.ndarray, "H W 3"]:
        """The same picture as :meth:`draw` gives, as an RGB array."""
        drawn: NDArray[np.uint8] = self.image.copy()
        certain = np.where(self.scores >= threshold, 2, self.scores > 0)  # 2: certain, 1: drawn hollow, 0: not found
        skeletons.overlay(
            drawn,
            np.concatenate([self.xy, certain[..., None]], -1),
            self.skeleton,
            sizes=np.sqrt(self.boxes[:, 2:].prod(-1)),
            ids=None if self.track_ids is None else self.track_ids.tolist(),
        )
        return drawn

    def to_coco(self, *, image_id: int = 1, category_id: int = PERSON) -> list[Json]:
        """COCO results, one dict for each instance, such as ``pycocotools`` reads with ``COCO.loadRes``.

        ``keypoints`` holds x, y and score of every joint; ``score`` is the pose's, ``bbox`` its box, and ``track_id``
        its track where there is one.
        """
        points = np.concatenate([self.xy, self.scores[..., None]], -1).reshape(len(self), 3 * len(self.names))
        results = [
            {"image_id": image_id, "category_id": category_id, "keypoints": keypoints, "score": score, "bbox": box}
            for keypoints, score, box in zip(
                points.tolist(), self.pose_scores.tolist(), self.boxes.tolist(), strict=True
            )
        ]
        ids = [] if self.track_ids is None else self.track_ids.tolist()
        return [one | {"track_id": number} for one, number in zip(results, ids, strict=True)] if ids else results
