"""Tasks for Label Studio with what a model predicts, and the labelling interface that they are made for.

https://labelstud.io/guide/predictions: places are percent of the image, keypoints name the rectangle of their instance
as ``parentID``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Float

from icon_dist.drawing import skeletons
from icon_dist.types import Json, Skeleton

IMAGE, BOX, JOINT, INSTANCE = "image", "box", "joint", "instance"  # names of tags, and the label of every rectangle
LOCAL = "/data/local-files/?d="  # how Label Studio serves files of its own machine
WIDTH = 0.6  # percent: of the dot that stands for a joint


@dataclass(frozen=True)
class Predicted:
    """One instance of an image."""

    box: tuple[float, float, float, float]  # x, y, w, h in px
    joints: Float[np.ndarray, "K 3"]  # x, y in px of the image, score


def task(url: str, wh: tuple[int, int], people: list[Predicted], names: tuple[str, ...], *, version: str) -> Json:
    """One image with its predictions; ``meta`` is added by who knows why it was chosen."""
    results = [one for number, person in enumerate(people) for one in _regions(person, f"i{number}", wh, names)]
    score = float(np.mean([person.joints[:, 2].mean() for person in people]))
    return {
        "data": {IMAGE: url},
        "predictions": [{"model_version": version, "score": round(score, 4), "result": results}],
    }


def _regions(person: Predicted, number: str, wh: tuple[int, int], names: tuple[str, ...]) -> Iterator[Json]:
    """The rectangle, inside the image, and the joints that lie in the image."""
    size = np.array(wh, np.float64)
    low = np.clip(np.array(person.box[:2]), 0, size)
    high = np.clip(np.array(person.box[:2]) + np.array(person.box[2:]), 0, size)
    (x, y), (w, h) = (100 * low / size).tolist(), (100 * (high - low) / size).tolist()
    frame = {"original_width": wh[0], "original_height": wh[1], "image_rotation": 0, "to_name": IMAGE}
    place = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
    yield {
        "id": number,
        "type": "rectanglelabels",
        "from_name": BOX,
        **frame,
        "value": {**place, "rectanglelabels": [INSTANCE]},
    }
    for k, (name, (px, py, score)) in enumerate(zip(names, person.joints.tolist(), strict=True)):
        left, top = 100 * px / wh[0], 100 * py / wh[1]  # as its own converters read it
        if score > 0 and 0 <= left <= 100 and 0 <= top <= 100:
            yield {
                "id": f"{number}_{k}",
                "type": "keypointlabels",
                "from_name": JOINT,
                **frame,
                "parentID": number,
                "score": round(score, 4),
                "value": {"x": left, "y": top, "width": WIDTH, "keypointlabels": [name]},
            }


def url_of(name: str, prefix: str | None) -> str:
    """Where Label Studio finds an image: below ``prefix``, in a bucket, or on its own machine."""
    if name.startswith("s3://") and prefix is None:
        return name
    if prefix is None:
        return f"{LOCAL}{quote(name.lstrip('/'))}"
    return f"{prefix if prefix.endswith(('/', '=')) else prefix + '/'}{quote(name.lstrip('/'))}"


def interface(skeleton: Skeleton) -> str:
    """The labelling interface: a rectangle for each instance, a keypoint for each joint."""
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in skeletons.sides(skeleton)]
    joints = "\n".join(
        f"    <Label value={quoteattr(joint)} background={quoteattr(color)}/>"
        for joint, color in zip(skeleton.joints, colors, strict=True)
    )
    return f"""<View>
  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>
  <RectangleLabels name="{BOX}" toName="{IMAGE}">
    <Label value="{INSTANCE}"/>
  </RectangleLabels>
  <KeyPointLabels name="{JOINT}" toName="{IMAGE}" strokeWidth="3">
{joints}
  </KeyPointLabels>
</View>
"""
