"""A trained model as a function from images to poses: ``icon_dist.load``.

The crop, the network and the decoding are those of an evaluation; only the images come from elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from icon_dist.codec import Codec
from icon_dist.codec.affine import invert
from icon_dist.config import EvalConfig
from icon_dist.data.crops import cut
from icon_dist.errors import ConfigError, DataError, shown
from icon_dist.images import photo
from icon_dist.images.photo import Conversion
from icon_dist.inference import calibration_file, trained
from icon_dist.inference.device import chosen_device
from icon_dist.inference.poses import Poses
from icon_dist.inference.predictor import Forward, predict, require_finite
from icon_dist.metrics.calibration import Curve, calibrated
from icon_dist.metrics.oks_nms import rescore
from icon_dist.shards.reader import Photos, photo_source
from icon_dist.types import Batch, Instance, Skeleton

HELD = 256 << 20  # bytes of images that wait for their batch; large photos make smaller batches
LONGEST_SIDE = 32766  # px, of an image that OpenCV can warp
RGB = NDArray[np.uint8]  # [H, W, 3]
Input = str | os.PathLike[str] | RGB | Image.Image | BinaryIO
Detector = Callable[[RGB], ArrayLike]  # boxes [n, 4] of an RGB image, x, y, width, height in px; [n, 5] with scores


def load(
    uri: str | os.PathLike[str], *, device: str | None = None, flip: bool = False, batch: int = 32
) -> PoseEstimator:
    """The model of a run (its best checkpoint) or of a file that ``icon-dist fetch`` wrote, ready to predict.

    ``uri`` is a path or ``s3://``. ``device`` is a GPU if there is one, else the CPU. ``flip`` averages the heatmaps
    with those of the mirrored image, as ``icon-dist evaluate`` does: a little better, at twice the time; off by
    default. Where ``icon-dist evaluate --calibrate`` has left its file beside the model, scores are probabilities that
    a joint is right, else heights of heatmap peaks; ``conditions`` says so. ``batch`` instances go through the network
    at once. Sub-pixel decoding and codec are the model's own.

    CheckpointError where no model is there, or where it is damaged; ConfigError for a device that is not there.
    """
    name = os.fspath(uri)
    if batch < 1:
        raise ConfigError(f"batch={batch}: expected 1 or more instances")
    place = chosen_device(device, option="device")
    model, weights, codec = trained.load(name, device=place)
    config = weights.config
    settings = EvalConfig(batch=batch, flip=flip, decode=config.eval.decode, refine_below=config.eval.refine_below)
    conditions = {
        "model": name,
        "checkpoint": weights.checkpoint,
        "step": weights.step,
        "backbone": config.model.backbone,
        "input": config.data.input,
        "channel_order": model.channel_order,
        "flip": flip,
        "decode": settings.decode,
        "codec": codec.name,
    }
    calibration = calibration_file.read(name, weights)
    if calibration is not None:
        conditions["scores"] = "probabilities"
    return PoseEstimator(
        model,
        weights.skeleton,
        codec=codec,
        settings=settings,
        device=place,
        conditions=conditions,
        curves=None if calibration is None else calibration.of(flip=flip),
    )


class PoseEstimator:
    """A trained model that gives the poses of images; :func:`load` makes one.

    ``skeleton`` says what its joints are and ``conditions`` how it predicts: model, step, channel order, flip, decode,
    codec. ``forward`` is the network.
    """

    def __init__(
        self,
        forward: Forward,
        skeleton: Skeleton,
        *,
        codec: Codec,
        settings: EvalConfig,
        device: str,
        conditions: Mapping[str, object],
        curves: Sequence[Curve] | None = None,
    ) -> None:
        """``forward`` is a network in evaluation mode on ``device``, and ``codec`` what it was trained with.

        ``curves`` make probabilities of the scores, one for each joint.
        """
        self.skeleton = skeleton
        self.conditions = conditions
        self._curves = curves
        self.forward, self._codec, self._settings, self._device = forward, codec, settings, device

    @overload
    def __call__(self, images: Input, boxes: ArrayLike | Detector | None = None) -> Poses: ...

    @overload
    def __call__(
        self, images: list[Input] | tuple[Input, ...], boxes: Sequence[ArrayLike] | Detector | None = None
    ) -> list[Poses]: ...

    def __call__(self, images: Any, boxes: Any = None) -> Poses | list[Poses]:
        """The poses of one image, or those of each image of a list.

        An image is the path of a photo (JPEG, PNG, WebP, BMP or TIFF; turned upright as its EXIF says), an RGB array
        ``[H, W, 3]`` of uint8, a Pillow image, or a photo that is open for reading as bytes. ``boxes`` are the
        instances of an image, ``[n, 4]`` x, y, width, height in px, or ``[n, 5]`` with a score; for a list of images,
        a list of such boxes. They may also be a function that finds them in an RGB array. Without them, the whole
        image is one instance.

        DataError for a photo that cannot be read, ConfigError for boxes or arrays that are none.
        """
        if not isinstance(images, list | tuple):
            return next(self.stream(iter([(images, boxes)])))
        given = [boxes] * len(images) if boxes is None or callable(boxes) else list(boxes)
        if len(given) != len(images):
            raise ConfigError(f"boxes: {len(given)} for {len(images)} images; give boxes for each image")
        return list(self.stream(zip(images, given, strict=True)))

    def stream(self, pairs: Iterable[tuple[Input, ArrayLike | Detector | None]]) -> Iterator[Poses]:
        """The poses of (image, boxes) pairs, one image after the other, for as many as there are.

        Batches go across images, and few images are in memory at once.
        """
        waiting: list[tuple[RGB, NDArray[np.float64]]] = []
        instances = held = 0
        for image, given in pairs:
            pixels, name = _pixels(image)
            found = given(pixels) if callable(given) else given
            if found is None and given is not None:
                raise ConfigError(f"{name}: boxes=None of the function that finds them; return [] where there are none")
            boxes = boxes_of(found, wh=pixels.shape[1::-1], name=name)
            full = instances + len(boxes) > self._settings.batch or held + pixels.nbytes > HELD
            if waiting and full:
                yield from self._poses(waiting)
                waiting, instances, held = [], 0, 0
            waiting.append((pixels, boxes))
            instances, held = instances + len(boxes), held + pixels.nbytes
        yield from self._poses(waiting)

    def _poses(self, images: Sequence[tuple[RGB, NDArray[np.float64]]]) -> Iterator[Poses]:
        people = _instances([boxes for _, boxes in images], self.skeleton)
        found = predict(
            self.forward,
            self._batches([image for image, _ in images], people),
            people,
            codec=self._codec,
            settings=self._settings,
            device=self._device,
        )
        require_finite(found)
        found = rescore(found if self._curves is None else calibrated(found, self._curves))
        for number, (image, boxes) in enumerate(images):
            own = found.take(found.image_id == number)
            yield Poses(
                xy=own.keypoints[..., :2],
                scores=own.keypoints[..., 2],
                boxes=boxes[:, :4],
                pose_scores=own.box_score,
                skeleton=self.skeleton,
                image=image,
            )

    def _batches(self, images: Sequence[RGB], people: Photos) -> Iterator[Batch]:
        """Network inputs, as :class:`icon_dist.data.stream.EvalStream` makes them of files."""
        joints = self.skeleton.num_joints
        for start in range(0, len(people), self._settings.batch):
            row = np.arange(start, min(start + self._settings.batch, len(people)))
            to_photo = invert(self._codec.frame.boxes(people.box[row]))
            crops = np.empty((len(row), *self._codec.input_hw, 3), np.uint8)
            for crop, number, matrix in zip(crops, people.image_id[row].tolist(), to_photo, strict=True):
                cut(images[number], matrix, out=crop)
            unlabelled = torch.zeros(len(row), joints, dtype=torch.bool)
            yield Batch(
                image=torch.from_numpy(crops),
                joints=torch.zeros(len(row), joints, 2),
                labelled=unlabelled,
                visible=unlabelled,
                instance=torch.from_numpy(people.instance[row]),
                image_id=torch.from_numpy(people.image_id[row]),
                row=torch.from_numpy(row),
                to_photo=torch.from_numpy(to_photo.astype(np.float32)),
            )


def read_photo(place: str | Path, *, bits: int | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB pixels of a photo, upright as its EXIF says.

    ``bits`` are those that the values of a photo of 16 bits a channel have; its own largest value tells without. A
    DataError says what is wrong with a file that is no photo.
    """
    name = os.fspath(place)
    try:
        return _decoded(photo.read(name), name=name, bits=bits)
    except FileNotFoundError:
        raise DataError(f"{name}: no such photo; check the path") from None


def _decoded(data: bytes, *, name: str, bits: int | None = None) -> RGB:
    require_side(photo.header(data, name=name).stored_wh, name=name)
    if bits is None:
        bits = photo.depth(photo.highest(data, photo.header(data, name=name), name=name))
    bgr = photo.decode(data, name=name, conversion=Conversion("apply", bits=bits))
    return np.ascontiguousarray(bgr[..., ::-1])


def require_side(wh: tuple[int, int], *, name: str) -> None:
    """DataError for an image that OpenCV cannot cut from."""
    if max(wh) > LONGEST_SIDE:
        raise DataError(f"{name}: {wh[0]} x {wh[1]} px; make it smaller, at most {LONGEST_SIDE} px a side")


def _pixels(image: Any) -> tuple[RGB, str]:
    """RGB pixels, and what to call the image in a message."""
    if isinstance(image, str | os.PathLike):
        return read_photo(os.fspath(image)), os.fspath(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
        require_side(image.shape[1::-1], name="image")
        return np.ascontiguousarray(image), "image"
    if isinstance(image, Image.Image) and not image.mode.startswith(("I", "F")):  # these have more than 8 bits
        require_side(image.size, name="image")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")), "image"
    if callable(getattr(image, "read", None)) and isinstance(data := image.read(), bytes):
        return _decoded(data, name="image"), "image"
    what = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else shown(type(image).__name__)
    kinds = "the path of a photo, an RGB array [H, W, 3] of uint8, a Pillow image of 8 bits, or a file open as bytes"
    raise ConfigError(f"image: {what}: expected {kinds}")


def boxes_of(given: ArrayLike | None, *, wh: tuple[int, int], name: str) -> Float[np.ndarray, "n 5"]:
    """Boxes with scores of an image of ``wh`` px: all of it without ``given``, and score 1 where there is none.

    ConfigError about the image ``name`` for boxes that are none, have no size or lie outside the image.
    """
    if given is None:
        return np.array([[0, 0, *wh, 1]], np.float64)
    expected = "expected [[x, y, width, height], ...] in px of the image, or a function that finds them"
    try:
        boxes = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: boxes={shown(given)}: {expected}") from None
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 5):
        raise ConfigError(f"{name}: boxes of shape {list(boxes.shape)}: {expected}")
    if boxes.shape[1] == 4:
        boxes = np.column_stack([boxes, np.ones(len(boxes))])
    for box in boxes.tolist():
        if fault := box_fault(box, wh=wh):
            raise ConfigError(f"{name}: box={shown([round(v, 2) for v in box[:4]])}: {fault}; {expected}")
    return boxes


def box_fault(box: Sequence[float], *, wh: tuple[int, int]) -> str:
    """What is wrong with a box x, y, width, height (and score) in an image of ``wh`` px, or nothing."""
    x, y, w, h = box[:4]
    if not np.isfinite(box).all():
        return "is not finite"
    if min(w, h) <= 0:
        return "has no size"
    if x >= wh[0] or y >= wh[1] or x + w <= 0 or y + h <= 0:
        return f"lies outside the image of {wh[0]}x{wh[1]} px"
    return ""


def _instances(boxes: Sequence[NDArray[np.float64]], skeleton: Skeleton) -> Photos:
    """The boxes ``[n, 5]`` of several images, image by image, as people without labels; ``image_id`` counts images."""
    unlabelled = np.zeros((skeleton.num_joints, 3), np.float32)
    rows = [(number, row) for number, several in enumerate(boxes) for row in several.tolist()]
    people = [
        Instance(i, number, "", (0, 0), (x, y, w, h), w * h, unlabelled, score)
        for i, (number, (x, y, w, h, score)) in enumerate(rows)
    ]
    return photo_source("", people, skeleton=skeleton)
