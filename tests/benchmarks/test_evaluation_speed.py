"""COCO AP of 5000 images and 100k poses, and OKS-NMS of 20 people: ratios to peers, interleaved, printed.

``pytest -m slow tests/benchmarks/test_evaluation_speed.py -s``
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faster_coco_eval
import numpy as np
import pytest
import vernier.instance

from icon_dist.datasets import load_skeleton
from icon_dist.metrics import coco, coco_fast
from icon_dist.metrics.ground_truth import ground_truth
from icon_dist.metrics.oks_nms import suppress
from icon_dist.types import Predictions
from tests.support.random_poses import full_size

SIGMAS = np.array(load_skeleton("coco").sigmas)


def timed(peers: dict[str, Callable[[], Any]], *, rounds: int) -> dict[str, float]:
    """Median seconds of process time."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, peer in peers.items():
            start = time.process_time()
            peer()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}


def table(median: dict[str, float], *, unit: float) -> None:
    for name, value in median.items():
        print(f"  {name:24} {value / unit:10.1f}  {value / median['ours']:6.1f} x ours")


def parsed_by_vernier(truth: dict[str, Any]) -> Any:
    """The truth as vernier keeps it, which is not counted, as ours is not."""
    people = [{**a, "id": i} for i, a in enumerate(truth["annotations"], start=1)]
    images = [{"id": image["id"], "width": 1000, "height": 1000} for image in truth["images"]]
    document = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    return vernier.instance.CocoDataset.from_json(json.dumps(document).encode())


def of_images(poses: Predictions) -> list[Any]:
    """Poses by image, as vernier takes arrays: boxes are those of the joints."""
    order = np.argsort(poses.image_id, kind="stable")
    keypoints, score = poses.keypoints[order].astype(np.float64), poses.box_score[order].astype(np.float64)
    low, high = keypoints[..., :2].min(1), keypoints[..., :2].max(1)
    boxes, labels = np.concatenate([low, high - low], 1), np.ones(len(order), np.int64)
    columns = {"keypoints": keypoints, "scores": score, "boxes": boxes, "labels": labels}
    images, start = np.unique(poses.image_id[order], return_index=True)
    parts = [slice(*ends) for ends in itertools.pairwise([*start.tolist(), len(order)])]
    return [
        {"image_id": image, **{name: column[one] for name, column in columns.items()}}
        for image, one in zip(images.tolist(), parts, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_engines(shared: Path, benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    truth, poses = full_size(shared)
    columns = ground_truth(truth, joints=17)

    def ours() -> list[float]:
        return coco_fast.statistics(columns, poses, sigmas=SIGMAS)

    def pycocotools() -> list[float]:
        return coco.statistics(columns, poses, sigmas=SIGMAS)

    def faster() -> list[float]:
        people = [{**a, "id": i} for i, a in enumerate(truth["annotations"], start=1)]
        person = {"id": 1, "name": "person", "keypoints": ["joint"] * 17, "skeleton": []}
        with contextlib.redirect_stdout(io.StringIO()):
            gt = faster_coco_eval.COCO({"images": truth["images"], "annotations": people, "categories": [person]})
            found = gt.loadRes(coco.detections(poses))
            evaluation = faster_coco_eval.COCOeval_faster(gt, found, "keypoints")
            evaluation.params.kpt_oks_sigmas = SIGMAS
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return [float(value) for value in evaluation.stats[:10]]

    parsed = parsed_by_vernier(truth)

    def by_vernier() -> list[float]:
        evaluator = vernier.instance.Evaluator(iou=vernier.instance.Keypoints(), parity_mode="strict")
        return list(evaluator.evaluate(parsed, of_images(poses), num_threads=1).stats)

    assert ours() == pycocotools() == by_vernier()
    assert faster() == pytest.approx(ours())
    peers = {"ours": ours, "pycocotools": pycocotools, "faster-coco-eval": faster, "vernier": by_vernier}
    median = timed(peers, rounds=3)
    benchmark.pedantic(ours, rounds=3)
    with capsys.disabled():
        print("\nten statistics of 5000 images, 11004 people, 100k poses, s:")
        table(median, unit=1)


def loop(xy: np.ndarray, score: np.ndarray, area: np.ndarray) -> list[int]:
    """HRNet's ``oks_nms``, pair by pair."""
    order, kept = np.argsort(-score, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        similar = np.zeros(len(rest))
        for i, other in enumerate(rest):
            dx, dy = xy[other, :, 0] - xy[best, :, 0], xy[other, :, 1] - xy[best, :, 1]
            e = (dx**2 + dy**2) / (SIGMAS * 2) ** 2 / ((area[best] + area[other]) / 2 + np.spacing(1)) / 2
            similar[i] = np.sum(np.exp(-e)) / len(e)
        order = rest[similar <= 0.9]
    return kept


def crowd(rng: np.random.Generator, *, twins: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    xy = rng.uniform(0, 400, size=(20, 17, 2))
    if twins:
        xy = xy[rng.integers(10, size=20)] + rng.normal(scale=3, size=(20, 17, 2))
    return xy.astype(np.float32).astype(np.float64), rng.permutation(20) / 20 + 0.01, rng.uniform(5000, 90000, 20)


@pytest.mark.slow
@pytest.mark.parametrize("twins", [False, True])
def test_nms(twins: bool, benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    crowds = [crowd(rng, twins=twins) for _ in range(100)]
    xy, score, area = (np.concatenate(column) for column in zip(*crowds, strict=True))
    all_at_once = Predictions(
        instance=np.arange(len(xy)),
        image_id=np.repeat(np.arange(100), 20),
        keypoints=np.concatenate([xy, np.ones((*xy.shape[:2], 1))], axis=2).astype(np.float32),
        box_score=score.astype(np.float32),
        area=area.astype(np.float32),
    )
    peers: dict[str, Callable[[], Any]] = {
        "ours": lambda: suppress(all_at_once, sigmas=SIGMAS, threshold=0.9),
        "loop": lambda: [loop(*c) for c in crowds],
    }
    expected = peers["loop"]()
    together = [20 * image + row for image, rows in enumerate(expected) for row in sorted(rows)]
    assert peers["ours"]().instance.tolist() == together
    assert (len(together) < 2000) == twins
    median = timed(peers, rounds=9)
    benchmark.pedantic(peers["ours"], rounds=3)
    with capsys.disabled():
        print(f"\nOKS-NMS of 20 people, {'some of them twice' if twins else 'all different'}, us an image:")
        table(median, unit=1e-4)
