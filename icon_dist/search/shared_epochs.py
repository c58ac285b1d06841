"""Epochs that trials have in common are trained once.

Before ``loss.start_epoch`` nothing depends on how contrast weighs and samples (``methods/objective.py``): the first
trials leave their checkpoint of that moment in the study, and later ones go on from it, bit for bit what they would
have been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from icon_dist import storage
from icon_dist.checkpoints import manifest as manifests
from icon_dist.config import Config
from icon_dist.storage import append_log

# What decides how the epochs before are trained, or what of them is kept
EARLY = ("loss.start_epoch", "loss.heatmap.", "loss.contrast", "loss.relation", "loss.bank.")


def same_until(cfg: Config, changed: Iterable[str]) -> int:
    """The epoch up to which runs of one seed that differ from ``cfg`` in these keys are the same; 0: from the start."""
    loss, start = cfg.loss, math.floor(cfg.loss.start_epoch)
    late = all(
        key in ("run.seed", "loss.bank.slots") or (key.startswith("loss.") and not key.startswith(EARLY))
        for key in changed
    )
    # Else a part of the network or a bank is missing.
    whole = min(loss.lambda_p, loss.lambda_1, loss.lambda_2, loss.bank.slots) > 0
    return start if late and whole and start < cfg.optim.epochs else 0


def begin(run: str, *, shared: str, epoch: int, train: Callable[[], object]) -> None:
    """Bring ``run`` to ``epoch``: by what lies at ``shared``, else by ``train``, which others then need not repeat."""
    reached = _epoch(run)
    if reached >= epoch:
        return
    if not reached and _epoch(shared) == epoch:
        _copy(shared, run)
    else:
        train()
        _copy(run, shared)


def _epoch(run: str) -> float:
    found = manifests.newest_whole(run)
    return 0.0 if found is None else float(found[1]["epoch"])


def _copy(source: str, target: str) -> None:
    """The log and the newest checkpoint, which counts once its manifest is there: two writers do no harm."""
    found = manifests.newest_whole(source)
    assert found is not None
    entry, _ = found
    folder = storage.join(manifests.FOLDER, manifests.folder_name(entry.step, entry.attempt))
    files = sorted(entry.files, key=lambda name: name == manifests.NAME)
    log = [place.removeprefix(f"{source}/") for place in append_log.places(storage.join(source, "metrics.jsonl"))]
    for name in (*log, *(f"{folder}/{file}" for file in files)):
        storage.write(storage.join(target, name), storage.read(storage.join(source, name)))
