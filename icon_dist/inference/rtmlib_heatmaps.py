"""Heatmaps that rtmlib reads as given joints: what ``icon-dist export --for rtmlib`` puts behind a model.

``rtmlib.ViTPose`` decodes by one rule, whatever a model was trained with: it takes the highest pixel, blurs the map by
11 x 11 pixels, and steps to the top of the parabola through the logarithms around that pixel (DARK as in UDP). It then
takes the outermost pixels of the map for the edges of the box. Joints of a model with another codec come out up to a
heatmap pixel away. So the model's own decoding stays inside the file, and the map of a joint is drawn such that
rtmlib's rule gives back the joint and its score:

- The map has two input px a pixel and one pixel more than half the input: pixel i is at input px ``2 * i`` to rtmlib.
- Away from the border it is a Gaussian around the joint, which the blur widens and does not move.
- OpenCV's blur mirrors the map at its border and would pull the joint there. Near the border three pixels are solved
  such that the three *blurred* values lie on the parabola of the joint.
- rtmlib raises values below .001 to it, before the logarithm, and knows nothing beyond the map. Where that spoils the
  parabola (a score below about .01, or a joint within 3 px of the border) one pixel is drawn in a map of negative
  values, which rtmlib gives back as it is: such a joint is rounded to 2 px.
"""

from __future__ import annotations

import cv2
import torch
from jaxtyping import Float
from torch import Tensor, nn

PIXEL = 2  # input px per pixel of the map
KERNEL = 11  # of rtmlib's blur
WIDTH = 1.0  # sigma of the Gaussian, px of the map
SOLVED_WIDTH = 2.0  # of the parabola near the border: that of the blur alone, whose middle pixel is then the highest
REACH = KERNEL // 2 + 1  # px of the map that a value beside the peak is blurred from
FLOOR = 0.001  # least value whose logarithm rtmlib takes


def blur_matrix(size: int) -> Float[Tensor, "size size"]:
    """A row of a map to the blurred row: OpenCV's Gaussian, mirrored at the border without repeating the last pixel."""
    weights = torch.from_numpy(cv2.getGaussianKernel(KERNEL, 0)[:, 0])
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        for offset, weight in enumerate(weights, start=-(KERNEL // 2)):
            column = abs(row + offset)
            matrix[row, min(column, 2 * (size - 1) - column)] += weight
    return matrix


class Axis(nn.Module):
    """One axis of the maps: the profile whose blurred logarithm peaks at a given place."""

    _blur: Tensor
    _inverse: Tensor

    def __init__(self, pixels: int) -> None:
        super().__init__()
        blur = blur_matrix(pixels)
        middles = range(1, pixels - 1)
        inverses = [torch.linalg.inv(blur[i - 1 : i + 2, i - 1 : i + 2]) for i in middles]
        self.pixels = pixels
        self.register_buffer("_blur", blur.float(), persistent=False)
        self.register_buffer("_inverse", torch.stack(inverses).float(), persistent=False)

    def forward(
        self, at: Float[Tensor, "N K"]
    ) -> tuple[Float[Tensor, "N K size"], Float[Tensor, "N K size"], Float[Tensor, "N K"]]:
        """``at`` in px of the map: the profile with 1 at its highest pixel, 1 at that pixel alone and -1 elsewhere,
        and the least of the three blurred values around it (0 where there are none)."""
        pixel = torch.arange(self.pixels, device=at.device)
        nearest = (at + 0.5).floor().long().clamp(0, self.pixels - 1)
        middle = nearest.clamp(1, self.pixels - 2)
        three = middle[..., None] + torch.arange(-1, 2, device=at.device)
        parabola = torch.exp(-((three - at[..., None]) ** 2) / (2 * SOLVED_WIDTH**2))
        values = (self._inverse[middle - 1] * parabola[..., None, :]).sum(-1)
        solved = (values[..., None] * (pixel == three[..., None])).sum(-2)
        gaussian = torch.exp(-((pixel - at[..., None]) ** 2) / (2 * WIDTH**2))
        near = (nearest < REACH) | (nearest >= self.pixels - REACH)
        profile = torch.where(near[..., None], solved, gaussian)
        profile = profile / profile.gather(-1, middle[..., None])
        blurred = (profile @ self._blur.T).gather(-1, three).amin(-1)
        inner = (nearest > 1) & (nearest < self.pixels - 2)
        alone = torch.where(pixel == nearest[..., None], 1.0, -1.0)
        return profile, alone, blurred * inner


class RtmlibHeatmaps(nn.Module):
    """Joints in px of an input of size ``input_hw`` to maps that rtmlib reads as these joints with these scores."""

    def __init__(self, input_hw: tuple[int, int]) -> None:
        super().__init__()
        height, width = input_hw
        self.rows, self.columns = Axis(height // PIXEL + 1), Axis(width // PIXEL + 1)

    def forward(self, xy: Float[Tensor, "N K 2"], scores: Float[Tensor, "N K"]) -> Float[Tensor, "N K a b"]:
        """Return the maps of joints ``xy`` in input px and their ``scores``, for rtmlib to decode.

        With an input of H x W px, a = H // 2 + 1 and b = W // 2 + 1.
        """
        column, column_alone, low_x = self.columns(xy[..., 0] / PIXEL)
        row, row_alone, low_y = self.rows(xy[..., 1] / PIXEL)
        drawn = row[..., :, None] * column[..., None, :] * scores[..., None, None]
        highest = torch.minimum(row_alone[..., :, None], column_alone[..., None, :]) > 0
        single = torch.where(highest, scores[..., None, None], -1 - scores.abs()[..., None, None])
        readable = (low_x * low_y * scores > FLOOR)[..., None, None]
        return torch.where(readable, drawn, single)
