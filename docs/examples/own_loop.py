"""ICON's loss in a loop of one's own: a small network, generated images, plain torch.

    python docs/examples/own_loop.py
    torchrun --nproc-per-node 2 docs/examples/own_loop.py

Each image has four colored dots, the joints, on noise; two limbs join them. The network has a regression head, whose
heatmaps are what is wanted, and a projection head, whose embeddings IconLoss compares between images.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

import icon_dist
from icon_dist.losses.options import Bank

JOINTS, LIMBS = 4, [(0, 1), (2, 3)]
SIZE, STRIDE, DIM = 64, 4, 16
COLORS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU())
        self.regression = nn.Conv2d(64, JOINTS, 1)
        self.projection = nn.Conv2d(64, DIM, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(images)
        return self.regression(features), self.projection(features)


def batch_of(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images [N, 3, H, W], joints [N, K, 2] in px (x, y), and which of them are visible [N, K]."""
    joints = 8 + torch.rand(count, JOINTS, 2, generator=generator) * (SIZE - 16)
    visible = torch.rand(count, JOINTS, generator=generator) < 0.9
    dots = gaussians(joints, sigma=3.0, size=SIZE) * visible[..., None, None]
    images = torch.einsum("nkhw,kc->nchw", dots, COLORS) + 0.3 * torch.rand(count, 3, SIZE, SIZE, generator=generator)
    return images, joints, visible


def gaussians(points: Tensor, *, sigma: float, size: int) -> Tensor:
    """Maps [N, K, size, size] with a peak of 1 at points [N, K, 2]."""
    axis = torch.arange(size)
    x, y = ((axis - points[..., i, None]).square() / (2 * sigma**2) for i in (0, 1))
    return torch.exp(-(y[..., :, None] + x[..., None, :]))


def main(steps: int = 60, count: int = 8) -> dict[str, float]:
    """Trains, and returns the last heatmap error and the health of the embeddings."""
    torch.manual_seed(0)
    rank = dist.get_rank() if dist.is_initialized() else 0
    generator = torch.Generator().manual_seed(rank)
    network: nn.Module = Network()
    if dist.is_initialized():
        network = nn.parallel.DistributedDataParallel(network)
    icon = icon_dist.IconLoss(num_joints=JOINTS, limbs=LIMBS, dim=DIM, bank=Bank(64, warmup=10))  # 1000 by default
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(steps):
        images, joints, visible = batch_of(count, generator)
        heatmaps, embedding = network(images)
        target = gaussians(joints / STRIDE, sigma=2.0, size=SIZE // STRIDE)
        errors = ((heatmaps - target).square().sum((2, 3)) / 2) * visible  # [N, K], summed over pixels
        instance = (rank * steps + step) * count + torch.arange(count)  # every image shows another instance
        out = icon(embedding, joints, visible, instance, heatmaps=heatmaps, errors=errors)

        optimizer.zero_grad()
        (errors.mean() + 0.1 * out.total).backward()
        optimizer.step()
        health = out.health() if step == steps - 1 else {}
        icon.commit()
        if rank == 0 and step % 10 == 9:
            print(f"step {step + 1}  heatmap {errors.mean():.3f}  skcc {out.skcc:.3f}  prcc {out.prcc:.3f}")
    return {"heatmap": errors.mean().item(), "purity": health["skcc"].purity.item()}


if __name__ == "__main__":
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    print({name: round(value, 3) for name, value in main().items()})  # every process its own heatmap error
    if dist.is_initialized():
        dist.destroy_process_group()
