"""What docs/loss.md shows a stranger runs."""

from __future__ import annotations

import re
import runpy
from typing import Any

import torch
from torch import nn

from tests.support.paths import ROOT

DOCS = ROOT / "docs"


def test_the_example_learns() -> None:
    """Poses and embeddings: a flat heatmap has an error of about 5, chance purity is a quarter."""
    main = runpy.run_path(str(DOCS / "examples" / "own_loop.py"))["main"]
    end = main(steps=30)
    assert end["heatmap"] < 2.5
    assert end["purity"] > 0.6


def test_the_lines_on_the_page_run() -> None:
    code, some_pixels = re.findall(r"```python\n(.*?)```", (DOCS / "loss.md").read_text(), re.S)
    head = nn.Conv2d(3, 17 + 256, 8, stride=4, padding=2)

    def model(images: torch.Tensor) -> list[torch.Tensor]:
        return list(head(images).split([17, 256], 1))

    batch = (torch.rand(4, 3, 64, 48), torch.rand(4, 17, 16, 12), 44 * torch.rand(4, 17, 2), torch.rand(4, 17) < 0.9)
    loader = [(*batch, torch.arange(4) + step) for step in range(3)]
    names: dict[str, Any] = {
        "model": model,
        "loader": loader,
        "lambda_p": 0.1,
        "optimizer": torch.optim.SGD(head.parameters(), 1e-3),
    }
    exec(code, names)  # noqa: S102  (our own page)
    assert names["out"].total > 0
    assert names["icon"].state_dict()["step"] == 3
    names |= {"features": torch.rand(4, 32, 16, 12), "head": nn.Conv2d(32, 256, kernel_size=1)}
    exec(some_pixels, names)  # noqa: S102
    assert names["out"].total > 0
    assert names["embedding"].shape == (4, 256, 1, 16 * 12)


def test_the_page_names_every_argument() -> None:
    from icon_dist.losses.options import LAYOUT

    text = (DOCS / "loss.md").read_text()
    for name in (*LAYOUT, "num_joints", "limbs", "dim", "tau", "bank", "skcc", "prcc", "options", "step"):
        assert f"`{name}`" in text, name
