"""Studies with one value to search."""

from __future__ import annotations

import optuna
from optuna.distributions import FloatDistribution

from icon_dist.search.journal import Journal, open_study

SPACE = {"loss.tau": FloatDistribution(0.01, 1.0)}


def study_of(journal: Journal, *, space: str = "a") -> optuna.Study:
    return open_study(journal, "sweep", directions=["maximize"], seed=0, about={"space": space}, space=SPACE)
