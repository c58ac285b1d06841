"""Validation while a run trains: on every set of ``data.val``, each on its own joints and by its own
metric, that of its skeleton.

With several sets the names of their scores begin with what the set is called, ``coco/AP``; the first one's main metric
decides which checkpoint is the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from icon_dist import distributed
from icon_dist.codec import Codec
from icon_dist.config import Config, EvalConfig
from icon_dist.data.stream import EvalStream
from icon_dist.inference.boxes import truth_of
from icon_dist.inference.predictor import Forward, Show, conditions_on, eval_stream, evaluate
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.score import check_truth, main_metric, require_evaluator
from icon_dist.shards.shard_set import ShardSet
from icon_dist.shards.union import labels_of
from icon_dist.training.setup import Data


class ScoredSet(NamedTuple):
    """One set of ``data.val``."""

    prefix: str  # of its scores
    truth: GroundTruth | None  # on rank 0, which scores
    stream: EvalStream


def prefixes(val: tuple[ShardSet, ...]) -> list[str]:
    """What the scores of each set begin with: nothing where there is but one."""
    return [f"{label}/" for label in labels_of([one.uri for one in val])] if len(val) > 1 else [""] * len(val)


def headlines(data: Data) -> list[str]:
    """The name of the main score of each set; the first is what checkpoints are ranked by."""
    sets = zip(prefixes(data.val), data.val, strict=True)
    return [prefix + main_metric(one.skeleton) for prefix, one in sets] or [main_metric(data.shards.skeleton)]


def conditions_of(cfg: Config, data: Data) -> str:
    """Of the scores that this run measures; empty where it measures none."""
    sets = zip(prefixes(data.val), data.val, strict=True)
    return " | ".join(
        (f"{prefix.removesuffix('/')}: " if prefix else "") + conditions_on(one, cfg.eval, codec=cfg.data.codec)
        for prefix, one in sets
    )


class Validation:
    """The sets of a run, opened once for all its evaluations. Make it before there is anything on a GPU: it forks."""

    def __init__(self, cfg: Config, data: Data, *, codec: Codec, device: str) -> None:
        self._settings, self._codec, self._device = cfg.eval, codec, device
        self._skeleton = data.shards.skeleton
        self.sets: list[ScoredSet] = []
        for prefix, shards in zip(prefixes(data.val), data.val, strict=True):
            truth = _truth_of(shards, cfg.eval)
            stream = eval_stream(shards, codec, cfg.eval, loaders=cfg.data.loaders, device=device)
            self.sets.append(ScoredSet(prefix, truth, stream))

    def __call__(self, students: Mapping[str, Forward], show: Show) -> dict[str, float]:
        """Scores of every student on every set, the same on all ranks. Collective."""
        scores: dict[str, float] = {}
        for student, forward in students.items():
            for one in self.sets:
                measured, _ = evaluate(
                    forward,
                    one.stream,
                    one.truth,
                    codec=self._codec,
                    settings=self._settings,
                    device=self._device,
                    skeleton=self._skeleton,
                    show=show,
                )
                scores |= {student + one.prefix + name: value for name, value in measured.items()}
        return scores

    def close(self) -> None:
        """End the loader processes."""
        for one in self.sets:
            one.stream.close()


def _truth_of(shards: ShardSet, settings: EvalConfig) -> GroundTruth | None:
    """What the set is scored by, on rank 0; errors now about what would fail after an epoch."""
    if distributed.rank() != 0:
        return None
    truth = truth_of(shards)
    check_truth(truth, shards.skeleton)
    require_evaluator(shards.skeleton, engine=settings.engine)
    return truth
