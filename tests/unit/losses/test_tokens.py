"""Where embeddings are read, pixel sets and pair tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from icon_dist.losses.tokens import limb_tokens, pixel_offsets, pixel_set, pixels_under, read_points


def gaussian(offset: tuple[float, float], sigma: float) -> float:
    return math.exp(-(offset[0] ** 2 + offset[1] ** 2) / (2 * sigma**2))


@pytest.mark.parametrize(("sigma", "pixels"), [(1.0, 4), (2.0, 20), (3.0, 36)])
def test_ring_is_every_pixel_whose_gaussian_is_at_least_half(sigma: float, pixels: int) -> None:
    offsets = [tuple(o) for o in pixel_offsets(sigma=sigma, points=100).tolist()]
    everything = [(x, y) for x in range(-9, 10) for y in range(-9, 10) if (x, y) != (0, 0)]
    assert set(offsets) == {o for o in everything if gaussian(o, sigma) >= 0.5}
    assert len(offsets) == pixels
    distances = [x * x + y * y for x, y in offsets]
    assert distances == sorted(distances)


def test_ring_stops_at_the_asked_number_and_is_empty_in_point_mode() -> None:
    assert len(pixel_offsets(sigma=2.0, points=16)) == 15
    assert pixel_offsets(sigma=2.0, points=1).shape == (0, 2)
    assert pixel_offsets(sigma=2.0, points=5).tolist() == [[0, -1], [-1, 0], [1, 0], [0, 1]]


def test_pixel_set_is_the_joint_then_pixels_around_the_peak_of_its_target() -> None:
    joints = torch.tensor([[[13.5, 6.0]]])  # the peak is floor(x / 4 + .5) = (3, 2)
    points = pixel_set(joints, torch.tensor([[0.0, -1.0], [2.0, 0.0]]))
    assert points.tolist() == [[[[13.5, 6.0], [12.0, 4.0], [20.0, 8.0]]]]


def naive_read(embedding: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Bilinear, written out, then unit norm."""
    x0, y0 = min(int(x), embedding.shape[2] - 2), min(int(y), embedding.shape[1] - 2)
    a, b = x - x0, y - y0
    mixed = (
        embedding[:, y0, x0] * (1 - a) * (1 - b)
        + embedding[:, y0, x0 + 1] * a * (1 - b)
        + embedding[:, y0 + 1, x0] * (1 - a) * b
        + embedding[:, y0 + 1, x0 + 1] * a * b
    )
    return mixed / mixed.norm()


@pytest.mark.parametrize("stride", [4, 16])
def test_read_points_is_bilinear_at_input_over_stride(stride: int) -> None:
    embedding = F.normalize(torch.randn(2, 5, 7, 4, dtype=torch.float64), dim=1)
    u = torch.rand(2, 3, 2, 2, dtype=torch.float64) * torch.tensor([3.0, 6.0], dtype=torch.float64)
    features, inside = read_points(embedding, u * stride, stride=stride)
    assert inside.all()
    for n in range(2):
        for k in range(3):
            for t in range(2):
                expected = naive_read(embedding[n], *u[n, k, t].tolist())
                torch.testing.assert_close(features[n, k, t], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [4, 16])
def test_read_points_can_take_the_nearest_pixel(stride: int) -> None:
    """Halves go up, as where targets have their peak."""
    embedding = F.normalize(torch.randn(1, 5, 7, 4, dtype=torch.float64), dim=1)
    where = torch.rand(1, 40, 1, 2, dtype=torch.float64) * torch.tensor([3.0, 6.0], dtype=torch.float64)
    where[0, :3, 0] = torch.tensor([[0.5, 2.5], [1.5, 0.49], [2.5, 5.5]])
    features, inside = read_points(embedding, where * stride, stride=stride, read="nearest")
    assert inside.all()
    for k in range(40):
        x, y = (math.floor(v + 0.5) for v in where[0, k, 0].tolist())
        torch.testing.assert_close(features[0, k, 0], embedding[0, :, y, x])


def test_a_point_off_the_map_stays_off_when_the_nearest_pixel_is_on_it() -> None:
    _, inside = read_points(torch.randn(1, 2, 4, 4), torch.tensor([[[[12.4, 4.0]]]]), stride=4, read="nearest")
    assert not inside.any()


def test_an_integer_point_is_the_pixel_itself_up_to_the_last_one() -> None:
    embedding = F.normalize(torch.randn(1, 8, 6, 5), dim=1)
    features, inside = read_points(embedding, torch.tensor([[[[16.0, 20.0]]]]), stride=4)  # (4, 5), the corner
    assert inside.all()
    torch.testing.assert_close(features[0, 0, 0], embedding[0, :, 5, 4])


@pytest.mark.parametrize("xy", [(-0.1, 4.0), (4.0, -0.1), (16.1, 4.0), (4.0, 20.1)])
def test_points_off_the_map_are_told_and_finite(xy: tuple[float, float]) -> None:
    embedding = F.normalize(torch.randn(1, 8, 6, 5), dim=1)
    features, inside = read_points(embedding, torch.tensor(xy).view(1, 1, 1, 2), stride=4)
    assert not inside.any()
    assert features.isfinite().all()


def test_a_map_of_bf16_is_read_at_full_coordinates() -> None:
    """As bf16, x = 45.25 would become 45.25 / 64 with 8 bits: a quarter of a pixel off."""
    embedding = torch.arange(64.0).expand(1, 2, 64, 64).clone()
    embedding[:, 1] = 32.0
    features, _ = read_points(embedding.bfloat16(), torch.tensor([[[[181.0, 40.0]]]]), stride=4)
    torch.testing.assert_close(features[0, 0, 0, 0] / features[0, 0, 0, 1] * 32, torch.tensor(45.25))


def test_limb_tokens_are_unit_means_of_both_ends() -> None:
    features = F.normalize(torch.randn(2, 4, 3, 6, dtype=torch.float64), dim=-1)
    active = torch.rand(2, 4, 3) < 0.6
    limbs = ((0, 2), (3, 1))
    pairs, both = limb_tokens(features, active, torch.tensor(limbs))
    assert pairs.shape == (2, 2, 3, 6)
    for n in range(2):
        for p, (a, b) in enumerate(limbs):
            for t in range(3):
                mean = (features[n, a, t] + features[n, b, t]) / 2
                torch.testing.assert_close(pairs[n, p, t], mean / mean.norm())
                assert both[n, p, t] == (active[n, a, t] and active[n, b, t])


def test_opposite_ends_make_a_finite_pair_and_gradient() -> None:
    """Their mean is zero, which has no direction."""
    features = torch.tensor([[[[1.0, 0.0]], [[-1.0, 0.0]]]], requires_grad=True)
    pairs, _ = limb_tokens(features, torch.ones(1, 2, 1, dtype=torch.bool), torch.tensor([[0, 1]]))
    (grad,) = torch.autograd.grad(pairs.sum(), features)
    assert pairs.isfinite().all()
    assert grad.isfinite().all()


def test_pixels_under_points_are_all_that_bilinear_reading_touches_and_all_different() -> None:
    points = torch.rand(3, 4, 2, 2, generator=torch.Generator().manual_seed(0)) * 12 - 1  # some beyond the map
    points[:, 0] = points[:, 0].round()
    height, width = 9, 7
    found = pixels_under(points, (height, width), most=40)
    assert found.shape == (3, 40)
    for mine, pixels in zip(points, found.tolist(), strict=True):
        assert len(set(pixels)) == 40
        for x, y in mine.flatten(0, 1).tolist():
            for column in (math.floor(x), math.ceil(x)):
                for row in (math.floor(y), math.ceil(y)):
                    assert not (0 <= column < width and 0 <= row < height) or row * width + column in pixels
    assert pixels_under(points, (height, width), most=999).sort(1).values.tolist() == [[*range(63)]] * 3
