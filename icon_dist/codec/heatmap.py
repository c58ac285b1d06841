"""Joints to target heatmaps, and between their pixels and those of the input and the photo.

Three codecs; a model speaks the one it was trained with.

- ``msra``: the numbers of ``generate_target`` and ``flip_back`` of the HRNet code. The peak sits on a whole pixel.
- ``dark`` (Zhang et al., CVPR 2020; ``generate_target`` of ilovepose/DarkPose, MMPose ``MSRAHeatmap(unbiased=True)``):
  the peak sits on the joint itself, and nothing is cut off.
- ``udp`` (Huang et al., CVPR 2020; HuangJunJie2017/UDP-Pose, MMPose ``UDPHeatmap``): lengths are counted between the
  outermost pixel centers, W - 1 in place of W, in the crop (:func:`icon_dist.codec.affine.affine`), here, and back.
  Mirror columns of the map are then mirror places of the input, and the flip average needs no shift.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def unit(hw: tuple[int, int], *, stride: int, codec: str) -> tuple[float, float]:
    """Input px per heatmap px, (x, y), for heatmaps of size ``hw``: the stride, or UDP's ``(W - 1) / (w - 1)``."""
    if codec != "udp":
        return float(stride), float(stride)
    h, w = hw
    return (stride * w - 1) / (w - 1), (stride * h - 1) / (h - 1)


def encode(
    joints: Float[Tensor, "N K 2"],
    labelled: Bool[Tensor, "N K"],
    *,
    hw: tuple[int, int],
    stride: int,
    sigma: float,
    codec: str = "msra",
) -> tuple[Float[Tensor, "N K h w"], Float[Tensor, "N K"]]:
    """Gaussians of peak 1, and weights: 0 for unlabelled joints and where the support is outside.

    ``joints`` in input px, ``hw`` of the heatmaps. Support is what lies within 3 sigma of a center: of the joint for
    dark; else of a whole pixel, outside of which all is cut off.
    """
    # The window is a square and the Gaussian a product: two short profiles and one outer product per joint.
    (x, in_x), (y, in_y) = (
        _profile(joints[..., i] / length, hw[1 - i], sigma=sigma, codec=codec)
        for i, length in enumerate(unit(hw, stride=stride, codec=codec))
    )
    weight = (labelled & in_x & in_y).to(joints.dtype)
    return (y * weight[..., None])[..., None] * x[..., None, :], weight  # einsum would be a product, in TF32 on a GPU


def _profile(
    mu: Float[Tensor, "N K"], size: int, *, sigma: float, codec: str
) -> tuple[Float[Tensor, "N K size"], Bool[Tensor, "N K"]]:
    """The Gaussian along one axis, and whether its support reaches the map, to the pixel, by the public codes.

    They round the center by ``int(mu + .5)``, which goes toward zero: half a pixel to one and a half outside is
    pixel 0. And a support that ends right before the map still counts, with an empty target.
    """
    pixel = torch.arange(size, device=mu.device, dtype=mu.dtype)
    center = mu[..., None] if codec == "dark" else torch.trunc(mu + 0.5)[..., None]
    distance = pixel - (mu[..., None] if codec == "udp" else center)
    gaussian = torch.exp(-(distance**2) / (2 * sigma**2))
    if codec != "dark":
        gaussian = gaussian * ((pixel - center).abs() <= 3 * sigma)
    reaches = (center - 3 * sigma < size) & (center + 3 * sigma + 1 >= 0)
    return gaussian, reaches[..., 0]


def to_input(
    xy: Float[Tensor, "N K 2"], *, hw: tuple[int, int], stride: int, codec: str = "msra"
) -> Float[Tensor, "N K 2"]:
    """Heatmap px -> input px, for heatmaps of size ``hw``."""
    return torch.stack([xy[..., i] * length for i, length in enumerate(unit(hw, stride=stride, codec=codec))], -1)


def to_photo(xy: Float[Tensor, "N K 2"], *, matrix: Float[Tensor, "N 2 3"]) -> Float[Tensor, "N K 2"]:
    """Input px -> photo px; ``matrix`` is ``Batch.to_photo``.

    The public code inverts an affine made for the heatmap size. That is the same: it differs from the one for the
    input size by the factor of :func:`unit` exactly.
    """
    # Not einsum: a GPU would round coordinates to TF32's ten bits, a quarter of a px at 256.
    return (matrix[:, None, :, :2] * xy[:, :, None]).sum(-1) + matrix[:, None, :, 2]
