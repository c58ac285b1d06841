"""Adam as a config means it, with learning rates by layer and weight decay where they are asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

LR_SCALE = "lr_scale"  # of a group of parameters: what a step's learning rate is multiplied by


def adam(
    model: nn.Module,
    *,
    lr: float,
    layer_decay: float = 1.0,
    layers_after: Callable[[str], int] = lambda _: 0,
    weight_decay: float = 0.0,
) -> torch.optim.Adam:
    """Adam (the paper's), or AdamW with ``weight_decay``, over the parameters of ``model``.

    With ``layer_decay`` d, a parameter with n ``layers_after`` its own learns at ``lr * d ** n``. Biases, norms and
    position embeddings do not decay. Both as in ViTPose's public code,
    ``mmcv_custom/layer_decay_optimizer_constructor.py``.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    fused = all(p.is_cuda for p in named.values())  # one launch instead of one for each of Adam's operations
    if layer_decay == 1 and weight_decay == 0:
        return torch.optim.Adam(named.values(), lr=lr, fused=fused)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        decays = parameter.ndim > 1 and not name.endswith((".bias", "position_embeddings"))
        group = layer_decay ** layers_after(name), weight_decay if decays else 0.0
        groups.setdefault(group, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": several, LR_SCALE: scale, "weight_decay": decay} for (scale, decay), several in groups.items()],
        lr=lr,
        fused=fused,
    )
