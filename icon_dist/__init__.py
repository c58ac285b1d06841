"""ICON: Inter-image Contrastive Consistency for multi-person pose estimation, trained on a cluster."""

import importlib
import sys

TYPE_CHECKING = False  # for a type checker it is true; the module typing would take longer than all the rest
if TYPE_CHECKING:
    from icon_dist.datasets import load_skeleton as load_skeleton
    from icon_dist.datasets.coco import COCO_LIMBS as COCO_LIMBS
    from icon_dist.inference.estimator import load as load
    from icon_dist.losses.icon import IconLoss as IconLoss
    from icon_dist.models import Heads as Heads
    from icon_dist.models import build_model as build_model
    from icon_dist.shards.as_webdataset import as_webdataset as as_webdataset

__version__ = "0.1.0"

LAZY = {  # public name -> where it is: importing icon_dist itself imports nothing else
    "COCO_LIMBS": "icon_dist.datasets.coco",
    "Heads": "icon_dist.models",
    "IconLoss": "icon_dist.losses.icon",
    "as_webdataset": "icon_dist.shards.as_webdataset",
    "build_model": "icon_dist.models",
    "load": "icon_dist.inference.estimator",
    "load_skeleton": "icon_dist.datasets",
}
__all__ = ["__version__", *LAZY]

if sys.version_info < (3, 11):  # noqa: UP036  (pip refuses it; a checkout on the path would only show a SyntaxError)
    needs = "icon_dist: error: Python %d.%d: 3.11 or later is needed; make the venv with a newer Python"
    sys.stderr.write(needs % sys.version_info[:2] + "\n")
    raise SystemExit(7)


def __getattr__(name: str) -> object:
    """The public names, each imported when it is first used."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
