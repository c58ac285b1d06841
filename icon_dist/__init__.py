"""ICON: Inter-image Contrastive Consistency for multi-person pose estimation, trained on a cluster."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icon_dist.datasets import load_skeleton
    from icon_dist.datasets.coco import COCO_LIMBS
    from icon_dist.losses.icon import IconLoss

__version__ = "0.1.0"
__all__ = ["COCO_LIMBS", "IconLoss", "__version__", "load_skeleton"]

LAZY = {  # public name -> where it is: importing icon_dist itself imports nothing else
    "COCO_LIMBS": "icon_dist.datasets.coco",
    "IconLoss": "icon_dist.losses.icon",
    "load_skeleton": "icon_dist.datasets",
}


def __getattr__(name: str) -> Any:
    """The public names, each imported when it is first used."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})


if sys.version_info < (3, 11):  # noqa: UP036  (pip refuses it; a checkout on the path would only show a SyntaxError)
    needs = "icon_dist: error: Python %d.%d: 3.11 or later is needed; make the venv with a newer Python"
    sys.stderr.write(needs % sys.version_info[:2] + "\n")
    raise SystemExit(7)
