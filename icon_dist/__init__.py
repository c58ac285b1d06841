"""ICON: Inter-image Contrastive Consistency for multi-person pose estimation, trained on a cluster."""

import importlib
import sys

TYPE_CHECKING = False  # for a type checker it is true; the module typing would take longer than all the rest
if TYPE_CHECKING:
    from icon_dist.inference.estimator import load as load

__version__ = "0.1.0"
LAZY = {"load": "icon_dist.inference.estimator"}  # names that are imported when they are used, and where from

if sys.version_info < (3, 11):  # noqa: UP036  (pip refuses it; a checkout on the path would only show a SyntaxError)
    needs = "icon_dist: error: Python %d.%d: 3.11 or later is needed; make the venv with a newer Python"
    sys.stderr.write(needs % sys.version_info[:2] + "\n")
    raise SystemExit(7)


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
