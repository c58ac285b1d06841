"""What instances are told apart by: features where their joints are."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from icon_dist import config as configuration
from icon_dist.datasets import load_skeleton
from icon_dist.reports.picking import pooled
from tests.support.small_models import untrained


def test_features_are_read_at_the_centers_of_the_patches() -> None:
    """Of a transformer, whose first patch has its center at 5.5 px: joints there have the features of these patches."""
    config = configuration.load("coco", ["data.input=32x32", "model.backbone=vit_s"])
    torch.manual_seed(0)
    model = untrained(config, load_skeleton("coco")).eval()
    image = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    place = torch.tensor([[5.5, 5.5], [21.5, 5.5]])[None]
    with torch.no_grad():
        found = pooled(model, image, place, torch.tensor([[1.0, 3.0]]))
        first, second = F.normalize(model.features(image)[0, :, 0, :2].T, dim=1)
    torch.testing.assert_close(found, F.normalize((first + 3 * second)[None], dim=1))
