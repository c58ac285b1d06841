"""Numbers worked out by hand, and the algebra of affine matrices against single points."""

from __future__ import annotations

import numpy as np
import pytest

from icon_dist.codec.affine import affine, center_scale, compose, invert, transform


@pytest.mark.parametrize(
    ("box", "center", "scale"),
    [
        ((10, 20, 100, 300), (60, 170), (1.40625, 1.875)),
        ((10, 20, 300, 100), (160, 70), (1.875, 2.5)),
    ],
)
def test_box_golden(box: tuple[int, ...], center: tuple[int, ...], scale: tuple[float, ...]) -> None:
    found = center_scale(box, aspect=192 / 256)
    np.testing.assert_allclose(found[0], center)
    np.testing.assert_allclose(found[1], scale)


def test_affine_golden() -> None:
    matrix = affine((100, 120), (0.9, 1.2), 30, out_wh=(192, 256))
    golden = [[0.92376, 0.53333, -60.37604], [-0.53333, 0.92376, 70.48208]]
    np.testing.assert_allclose(matrix, golden, atol=1e-5)


def test_compose_and_invert() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 2, 3))
    xy = rng.normal(size=(5, 7, 2))
    naive = np.empty_like(xy)
    for n in range(5):
        for i in range(7):
            inner = b[n] @ [*xy[n, i], 1]
            naive[n, i] = a[n] @ [*inner, 1]
    np.testing.assert_allclose(transform(compose(a, b), xy), naive)
    np.testing.assert_allclose(transform(invert(a), transform(a, xy)), xy, atol=1e-9)
