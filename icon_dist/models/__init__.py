"""Pose models by name. A backbone is one file here with ``NAMES`` and ``build(name, heads)``; no list to extend.

SimpleBaseline is in ``resnet.py``, ViTPose in ``vit.py``. How a config chooses is in ``from_config.py``.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from types import ModuleType

from icon_dist.errors import ConfigError
from icon_dist.models.heads import Heads
from icon_dist.models.pose import PoseNet

__all__ = ["Heads", "PoseNet", "backbone_names", "build_model"]

COARSEST = 32  # stride of the deepest map of every backbone


def backbone_names() -> list[str]:
    """What ``model.backbone`` may be."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    return [name for module in modules for name in getattr(module, "NAMES", ())]


def build_model(backbone: str, heads: Heads) -> PoseNet:
    """A model with fresh weights; the letters that begin ``backbone`` are the name of its file.

    ConfigError where there is no such backbone, or it has no such heads.
    """
    if any(side <= 0 or side % COARSEST for side in heads.input_hw):
        height, width = heads.input_hw
        near = "x".join(str(max(COARSEST, round(side / COARSEST) * COARSEST)) for side in heads.input_hw)
        raise ConfigError(f"data.input={height}x{width}: {backbone} needs multiples of {COARSEST}, e.g. {near}")
    model = _build(backbone, heads)
    if model is None:
        raise ConfigError(f"model.backbone={backbone}: not one of {', '.join(backbone_names())}")
    return model


def _build(backbone: str, heads: Heads) -> PoseNet | None:
    letters = re.match("[a-z]*", backbone)
    assert letters is not None
    if letters[0] not in {m.name for m in pkgutil.iter_modules(__path__)}:
        return None
    module: ModuleType = importlib.import_module(f"{__name__}.{letters[0]}")
    if not hasattr(module, "NAMES"):
        return None
    model: PoseNet | None = module.build(backbone, heads)
    return model
