"""Warps and cutouts against naive loops over pixels and boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from icon_dist.codec import Codec
from icon_dist.methods import hard_view
from icon_dist.methods.hard_view import Turns, erase, erased_boxes, turns, warp, warp_image
from icon_dist.tensors.random import uniform

HW = (24, 16)


def people(n: int, *, first: int = 0) -> torch.Tensor:
    return torch.arange(first, first + n)


def naive_warp(source: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``source [a, b]``: bilinear by hand, 0 outside."""
    a, b = source.shape
    out = np.zeros((a, b))
    for y in range(a):
        for x in range(b):
            sx, sy = matrix @ (x, y, 1)
            for py in (math.floor(sy), math.floor(sy) + 1):
                for px in (math.floor(sx), math.floor(sx) + 1):
                    if 0 <= py < a and 0 <= px < b:
                        out[y, x] += (1 - abs(sx - px)) * (1 - abs(sy - py)) * source[py, px]
    return out


def test_warp_is_bilinear_sampling() -> None:
    torch.manual_seed(0)
    maps = torch.rand(3, 2, 12, 9, dtype=torch.float64)
    drawn = turns(people(3), key=5)
    matrix = drawn.matrix(unit=(1, 1), center=(4.0, 6.5))
    found = warp(maps, matrix)
    for n in range(3):
        for d in range(2):
            np.testing.assert_allclose(found[n, d], naive_warp(maps[n, d].numpy(), matrix[n].numpy()), atol=1e-9)


def test_a_quarter_turn_moves_a_pixel_where_it_should() -> None:
    """Right of the center goes below it: the hard view at p shows the easy one at R p."""
    maps = torch.zeros(1, 1, 9, 9)
    maps[0, 0, 4, 7] = 1
    quarter = Turns(torch.tensor([math.pi / 2], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    out = warp(maps, quarter.matrix(unit=(1, 1), center=(4, 4)))
    assert out[0, 0].argmax() == 7 * 9 + 4  # cv2.getRotationMatrix2D: y right, x down
    assert out.max() == pytest.approx(1)


@pytest.mark.parametrize("unit", [(4.0, 4.0), (63 / 15, 95 / 23)])  # stride 4, and UDP's lengths
def test_photo_and_map_are_turned_alike(unit: tuple[float, float]) -> None:
    """A joint that moves from q to p in the photo moves from q / unit to p / unit in the heatmap."""
    drawn = turns(people(20), key=1)
    photo = drawn.matrix(unit=(1, 1), center=(32, 48))
    small = drawn.matrix(unit=unit, center=(32 / unit[0], 48 / unit[1]))
    joint = torch.tensor([20.0, 70.0], dtype=torch.float64)
    seen = photo[:, :, :2] @ joint + photo[:, :, 2]
    length = torch.tensor(unit, dtype=torch.float64)
    in_map = small[:, :, :2] @ (joint / length) + small[:, :, 2]
    torch.testing.assert_close(in_map * length, seen)


def test_turns_keep_angles_and_the_public_codes_do_not() -> None:
    drawn = Turns(torch.tensor([0.5], dtype=torch.float64), torch.tensor([1.1], dtype=torch.float64))
    right = drawn.matrix(unit=(1, 1), center=(8, 12))[0, :, :2]
    torch.testing.assert_close(right @ right.T, 1.21 * torch.eye(2, dtype=torch.float64))
    height, width = HW
    sheared = drawn.matrix(unit=(1 / width, 1 / height), center=((width - 1) / 2, (height - 1) / 2))
    assert not torch.allclose(sheared[0, :, :2] @ sheared[0, :, :2].T, 1.21 * torch.eye(2, dtype=torch.float64))
    # its matrix lives in coordinates from -1 to 1, as affine_grid takes it
    theta = 1.1 * torch.tensor([[[math.cos(0.5), math.sin(0.5), 0], [-math.sin(0.5), math.cos(0.5), 0]]])
    maps = torch.rand(1, 3, *HW)
    grid = torch.nn.functional.affine_grid(theta, [1, 3, *HW], align_corners=False)
    torch.testing.assert_close(
        warp(maps, sheared), torch.nn.functional.grid_sample(maps, grid, align_corners=False), atol=1e-5, rtol=1e-4
    )


def test_what_is_drawn() -> None:
    drawn = turns(people(20000), key=3)
    degrees = drawn.angle * 180 / math.pi
    assert degrees.abs().max() == pytest.approx(60)
    assert (degrees == 0).double().mean() == pytest.approx(0.2, abs=0.01)
    turned = degrees[degrees != 0]
    assert (turned.abs() < 30).double().mean() == pytest.approx(0.6827, abs=0.01)
    assert (drawn.zoom.min(), drawn.zoom.max()) == (0.75, 1.25)
    assert (drawn.zoom == 1.25).double().mean() == pytest.approx(0.1587, abs=0.01)
    again = turns(people(5, first=100), key=3)
    assert torch.equal(again.angle, drawn.angle[100:105])
    assert not torch.equal(again.angle, turns(people(5, first=100), key=4).angle)


def naive_boxes(joints, found, instance, *, count, key, hw, compat):  # type: ignore[no-untyped-def]
    """``mask_joint`` of the public code on the same random numbers: a box a joint, and some joints are chosen."""
    out = np.zeros((len(joints), count, 4), int)
    height, width = hw
    scale = 1 if compat else height / 256
    for n in range(len(joints)):
        u = uniform(key, instance[n : n + 1, None], torch.arange(7 * count))[0].tolist()
        box_of: dict[int, list[int]] = {}
        for c in range(count):
            pick, a, b, sx, sy, rx, ry = u[7 * c : 7 * c + 7]
            k = int(pick * (24 if compat else joints.shape[1]))
            if k not in box_of:
                x, y = joints[n, k].tolist() if k < joints.shape[1] else (rx * width, ry * height)
                radius = math.sqrt(-2 * math.log(1 - a))
                x = int(x + 10 * scale * radius * math.cos(2 * math.pi * b))
                y = int(y + 10 * scale * radius * math.sin(2 * math.pi * b))
                half = [round((10 + int(10 * s)) * scale) for s in (sx, sy)]
                most_x, most_y = (height, width) if compat else (width, height)
                box_of[k] = [
                    min(max(x - half[0], 0), most_x),
                    min(max(x + half[0], 0), most_x),
                    min(max(y - half[1], 0), most_y),
                    min(max(y + half[1], 0), most_y),
                ]
            if compat or found[n, k]:
                out[n, c] = box_of[k]
    return out


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("hw", [(256, 192), (64, 64), (384, 288)])
def test_boxes_are_those_of_the_loop(hw: tuple[int, int], compat: bool) -> None:
    torch.manual_seed(1)
    joints = torch.rand(40, 17, 2) * torch.tensor([hw[1], hw[0]])
    found = torch.rand(40, 17) < 0.8
    given = {"count": 5, "key": 9, "hw": hw, "compat": compat}
    boxes = erased_boxes(joints, found, people(40), **given)
    expected = naive_boxes(joints, found, people(40), **given)
    full = (boxes[..., 1] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 2])
    np.testing.assert_array_equal(full, (expected[..., 1] > expected[..., 0]) & (expected[..., 3] > expected[..., 2]))
    np.testing.assert_array_equal(boxes[full], expected[full.numpy()])
    assert full.float().mean() > 0.6


def test_a_joint_that_is_drawn_twice_erases_one_box() -> None:
    """The public code draws jitter and size by joint, not by draw."""
    one = torch.tensor([[[96.0, 128.0]]]).expand(50, 1, 2)
    boxes = erased_boxes(one, torch.ones(50, 1).bool(), people(50), count=5, key=2, hw=(256, 192))
    assert torch.equal(boxes, boxes[:, :1].expand(-1, 5, -1))
    assert len(boxes[:, 0].unique(dim=0)) == 50


def test_a_joint_that_nobody_sees_is_erased_by_the_public_code_alone() -> None:
    """Its ``get_max_preds_tensor`` takes the highest pixel, positive or not."""
    maps = torch.full((1, 24, 64, 48), -1.0)
    maps[:, :, 40, 20] = -0.5
    codec = Codec("msra", (256, 192), 4, 2.0)
    for compat in (False, True):
        place, peak = codec.decode(maps, unseen=compat)
        assert place[0, 0].tolist() == ([80, 160] if compat else [0, 0])
        boxes = erased_boxes(place, peak > 0, people(1), count=5, key=0, hw=(256, 192), compat=compat)
        area = (boxes[..., 1] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 2])
        assert (area[0] > 0).all() == compat
        if compat:
            middle = (boxes[0, :, [0, 2]] + boxes[0, :, [1, 3]]) / 2
            assert (middle - torch.tensor([80, 160])).abs().max() < 40  # four deviations of the jitter


def test_the_clamp_of_the_public_code_spares_the_feet() -> None:
    feet = torch.full((200, 1, 2), 0.0) + torch.tensor([96.0, 245.0])
    found = torch.ones(200, 1, dtype=torch.bool)
    boxes = {c: erased_boxes(feet, found, people(200), count=1, key=0, hw=(256, 192), compat=c) for c in (False, True)}
    assert (boxes[False][..., 3] > 192).all()
    assert (boxes[True][..., 3] <= 192).all()


def test_erase_fills_boxes_and_nothing_else() -> None:
    image = torch.randint(0, 100, (4, *HW, 3), dtype=torch.uint8)
    boxes = torch.tensor([[[2, 5, 3, 9], [4, 16, 8, 24]], [[0, 0, 0, 5], [3, 3, 1, 9]]]).repeat(2, 1, 1)
    expected = image.clone()
    for n in range(4):
        for x0, x1, y0, y1 in boxes[n].tolist():
            expected[n, y0:y1, x0:x1] = torch.tensor(hard_view.MEAN_COLOR, dtype=torch.uint8)
    found = erase(image, boxes)
    assert torch.equal(found, expected)
    assert torch.equal(found[1], image[1])
    assert not torch.equal(found[0], image[0])


def test_photos_are_warped_in_grey_levels_on_the_mean_color() -> None:
    image = torch.randint(0, 256, (2, *HW, 3), dtype=torch.uint8)
    drawn = turns(people(2, first=7), key=2)
    matrix = drawn.matrix(unit=(1, 1), center=(8, 12))
    found = warp_image(image, matrix).int()
    for n in range(2):
        for c, mean in enumerate(hard_view.MEAN_COLOR):
            expected = naive_warp(image[n, :, :, c].double().numpy() - mean, matrix[n].numpy()) + mean
            assert np.abs(found[n, :, :, c].numpy() - expected).max() <= 0.51
    still = torch.eye(2, 3, dtype=torch.float64).repeat(2, 1, 1)
    assert torch.equal(warp_image(image, still), image)
