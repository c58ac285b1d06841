"""Find the weights of contrast for your data.

python sweeps/tune_lambdas.py --cfg NAME|PATH --trials 24 --confirm 3
"""

from __future__ import annotations

import functools

from icon_dist import search
from icon_dist.errors import run_cli
from icon_dist.search import Range

SPACE = {
    "loss.lambda_1": Range(0.0, 1.0),  # SKCC: single keypoints
    "loss.lambda_2": Range(0.0, 1.0),  # PRCC: pairs of them
    "loss.lambda_p": Range(0.003, 3.0, log=True),  # contrast against the heatmap loss
}
PAPER = {"loss.lambda_1": 0.3, "loss.lambda_2": 0.7, "loss.lambda_p": 1.0}  # the first point tried

if __name__ == "__main__":
    run_cli(functools.partial(search.main, name="lambdas", about=__doc__.splitlines()[0], space=SPACE, paper=PAPER))
