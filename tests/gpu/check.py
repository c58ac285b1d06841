"""One command that tells what a device does: is it right, how fast is it, does contrast help?

``python tests/gpu/check.py --data DIR --out DIR --budget SECONDS [--device cpu --tiny] [--phases ground,correct]``
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the package need not be installed
    from tests.gpu.runner import main

    sys.exit(main(sys.argv[1:]))
