"""ICON: Inter-image Contrastive Consistency for multi-person pose estimation, trained on a cluster."""

import sys

__version__ = "0.1.0"

if sys.version_info < (3, 11):  # noqa: UP036  (pip refuses it; a checkout on the path would only show a SyntaxError)
    needs = "icon_dist: error: Python %d.%d: 3.11 or later is needed; make the venv with a newer Python"
    sys.stderr.write(needs % sys.version_info[:2] + "\n")
    raise SystemExit(7)
