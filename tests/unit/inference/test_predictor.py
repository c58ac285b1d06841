"""``predict.predict`` on networks made here: what the flip average does, and the way to the photo of every codec."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist.codec import Codec, heatmap
from icon_dist.codec.affine import invert, transform
from icon_dist.codec.frame import InputFrame
from icon_dist.config import EvalConfig
from icon_dist.datasets import load_skeleton
from icon_dist.inference.predictor import predict
from icon_dist.shards.reader import Photos, photo_source
from icon_dist.types import Batch, Instance, Outputs, Predictions

COCO = load_skeleton("coco")
HW, MAP, STRIDE, SIGMA, N, K = (256, 192), (64, 48), 4, 2.0, 6, 17
RNG = np.random.default_rng(0)
SWAPPED = torch.tensor(COCO.mirrored)


def people() -> Photos:
    boxes = np.column_stack([RNG.uniform(0, 300, (N, 2)), RNG.uniform(60, 200, (N, 2))])
    empty = np.zeros((K, 3), np.float32)
    found = [Instance(i, i, f"{i}.jpg", (640, 480), tuple(box), 1.0, empty) for i, box in enumerate(boxes.tolist())]
    return photo_source("photos", found, skeleton=COCO)


def batch_of(image: Tensor, to_photo: np.ndarray) -> Batch:
    none = torch.zeros(N, K, dtype=torch.bool)
    row = torch.arange(N)
    matrix = torch.from_numpy(to_photo).float()
    return Batch(image, torch.zeros(N, K, 2), none, none, row, row, row, matrix)


class Oracle:
    """Answers with the target of the joints in the crop, or of the mirrored crop; a mark in column 0 says which."""

    def __init__(self, joints: Tensor, *, codec: str) -> None:
        self.joints, self.codec = joints, codec

    def __call__(self, image: Tensor) -> Outputs:
        joints = self.joints
        if not image[0, 0, 0, 0]:
            joints = joints[:, SWAPPED] * torch.tensor([-1, 1]) + torch.tensor([HW[1] - 1, 0])
        every = torch.ones(N, K, dtype=torch.bool)
        return Outputs(heatmap.encode(joints, every, hw=MAP, stride=STRIDE, sigma=SIGMA, codec=self.codec)[0])


def asked(forward: Oracle | Random, batch: Batch, crowd: Photos, *, codec: str, flip: bool, decode: str) -> Predictions:
    settings = EvalConfig(flip=flip, decode=decode)
    return predict(forward, [batch], crowd, codec=Codec(codec, HW, STRIDE, SIGMA), settings=settings, device="cpu")


@pytest.mark.parametrize(
    ("codec", "flip", "decode", "bias", "spread"),
    [
        ("udp", True, "dark", 0, 1e-3),
        ("udp", False, "dark", 0, 1e-3),
        ("dark", False, "dark", 0, 1e-3),
        ("dark", True, "dark", 0.125, 1e-2),  # the mirrored map, shifted by a whole pixel, is a quarter too far
        ("udp", True, "quarter", 0, 0.251),
        ("msra", True, "quarter", 0, 0.751),
        ("msra", False, "argmax", 0, 0.501),
    ],
)
def test_joints_come_back_to_the_photo(codec: str, flip: bool, decode: str, bias: float, spread: float) -> None:
    crowd = people()
    matrix = InputFrame(HW, codec).boxes(crowd.box)
    joints = RNG.uniform((45, 45), (145, 210), (N, K, 2))
    image = torch.zeros(N, *HW, 3, dtype=torch.uint8)
    image[:, :, 0] = 255
    oracle = Oracle(torch.from_numpy(joints).float(), codec=codec)
    found = asked(oracle, batch_of(image, invert(matrix)), crowd, codec=codec, flip=flip, decode=decode)
    unit = heatmap.unit(MAP, stride=STRIDE, codec=codec)
    off = (transform(matrix, found.keypoints[..., :2]) - joints) / unit
    assert np.abs(off - (bias, 0)).max() < spread
    assert found.keypoints.shape == (N, K, 3)
    assert (found.keypoints[..., 2] > 0.8).all()


class Random:
    """A strided convolution of no meaning, which sees its input through a window: no peak on the border."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(K, 3, 9, 9, generator=generator)
        ramps = [torch.arange(size).sub((size - 1) / 2).abs() for size in MAP]
        self.window = (ramps[0] < 26)[:, None] & (ramps[1] < 18)

    def __call__(self, image: Tensor) -> Outputs:
        maps = F.conv2d(image.permute(0, 3, 1, 2).float() / 255, self.weight, stride=STRIDE, padding=4)
        return Outputs(maps * self.window)


@pytest.mark.parametrize("decode", ["argmax", "quarter"])
@pytest.mark.parametrize("codec", ["udp", "msra"])
def test_a_mirrored_photo_has_the_mirrored_pose(codec: str, decode: str) -> None:
    """Of any network, with UDP; the shift of the other codecs breaks the symmetry."""
    crowd = people()
    image = torch.from_numpy(RNG.integers(0, 256, (N, *HW, 3), dtype=np.uint8))
    same = np.tile(np.eye(2, 3), (N, 1, 1))
    straight, mirrored = (
        asked(Random(), batch_of(one, same), crowd, codec=codec, flip=True, decode=decode).keypoints
        for one in (image, image.flip(2))
    )
    expected = straight[:, SWAPPED] * (-1, 1, 1) + (HW[1] - 1, 0, 0)
    equal = np.isclose(mirrored, expected, atol=1e-4).all(-1)
    assert equal.all() == (codec == "udp")
