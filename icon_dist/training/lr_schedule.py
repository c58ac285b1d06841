"""The learning rate: a linear warm-up, then a tenth at every milestone.

How the weight of contrast grows is in ``methods/objective.py``.
"""

from __future__ import annotations

from icon_dist.config import OptimConfig

DROP = 0.1  # of the learning rate at a milestone


def learning_rate(optim: OptimConfig, step: int, epoch: float) -> float:
    """A pure function of the position: linear warm-up, then a tenth at every milestone."""
    warm = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    return optim.lr * warm * DROP ** sum(epoch >= milestone for milestone in optim.milestones)
