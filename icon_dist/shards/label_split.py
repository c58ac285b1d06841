"""Who has labels in a semi-supervised run: whole persons, drawn by seed, smaller shares within larger ones.

The people of a set are ranked by a hash of (seed, id) and the first of them are labelled. So a split is a pure function
of ids, share and seed; its *fingerprint* tells whether two runs mean the same people.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from icon_dist.errors import ConfigError, DataError, plural
from icon_dist.rng import hashed
from icon_dist.shards.manifest import ShardManifest
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Origin, SplitRecord

I64 = NDArray[np.int64]
PAPER = (0.05, 0.1, 0.2, 0.3)  # shares whose fingerprints are stored in the manifest of every shard set, of seed 0
SPLIT = 0x5917  # what the random numbers are for: no other hash of (seed, id) gives this order


@dataclass(frozen=True)
class Split:
    """The rows of a shard set with labels, and those without."""

    labelled: I64  # ascending
    unlabelled: I64
    share: float
    seed: int
    fingerprint: str  # of the ids of the labelled people

    def record(self) -> SplitRecord:
        """What a checkpoint says of it."""
        return SplitRecord(share=self.share, seed=self.seed, labelled=len(self.labelled), sha256=self.fingerprint)


def split(instance: I64, *, share: float, seed: int) -> Split:
    """Of ``instance [n]``, the ids of a set in any order, ``round(n * share)`` but at least one are labelled."""
    order = np.lexsort((instance, hashed(SPLIT, seed, instance)))
    known = np.zeros(len(instance), dtype=bool)
    known[order[: max(1, round(len(instance) * share))]] = True
    labelled = np.flatnonzero(known)
    return Split(labelled, np.flatnonzero(~known), share, seed, fingerprint(instance[labelled]))


def fingerprint(instance: I64) -> str:
    """sha256 of the sorted ids: equal for equal sets of people."""
    return hashlib.sha256(np.sort(instance).astype("<i8").tobytes()).hexdigest()


def stored_splits(instance: I64) -> dict[str, str]:
    """Fingerprints of the paper's splits, for the manifest of a shard set."""
    return {f"{share:g}": split(instance, share=share, seed=0).fingerprint for share in PAPER}


def check_stored(found: Split, manifest: ShardManifest, *, uri: str) -> None:
    """DataError if the set was built when this split meant other people."""
    stored = manifest.get("splits", {}).get(f"{found.share:g}") if found.seed == 0 else None
    if stored is not None and stored != found.fingerprint:
        raise DataError(
            f"{uri} data.labelled={found.share:g}: other people than the split of this share in its manifest; "
            "build the shards again with this version"
        )


def hide_labels(shards: ShardSet, known: Split, *, pseudo_labels: NDArray[np.float32] | None = None) -> ShardSet:
    """The same instances, of whom only the labelled ones keep their joints.

    The others have those of ``pseudo_labels [n, K, 3]``, or none at all.
    """
    kept = np.isin(np.arange(len(shards)), known.labelled)[:, None, None]
    others = np.float32(0) if pseudo_labels is None else pseudo_labels
    return replace(shards, keypoints=np.where(kept, shards.keypoints, others))


@runtime_checkable
class Trained(Protocol):
    """What a checkpoint says of the labels it was trained with."""

    @property
    def split(self) -> SplitRecord | None:
        """The ``share`` and ``seed`` of the split into labeled and unlabeled instances; None where it says nothing."""

    @property
    def index(self) -> str | None:
        """The sha256 of the index of the shards that it was trained on; None where it says nothing."""

    @property
    def data(self) -> Origin | None:
        """What it says of these shards; of a union, ``sets`` with the index of each."""


def refuse_leak(what: str, theirs: Trained, known: Split, shards: ShardSet) -> str:
    """ConfigError if ``what``, which this run starts or learns from, was trained with labels that are hidden here.

    ``theirs`` is what its checkpoint says of itself, ``shards`` are this run's people. Returns what to add to a line
    about ``what``: a warning where it may have been, else "".
    """
    if hidden := len(np.setdiff1d(labels_seen(theirs, shards), known.labelled)):
        raise ConfigError(
            f"{what}: was trained with the labels of {plural(hidden, 'person')}, unlabelled here; train it with "
            f"data.labelled={known.share:g} data.split_seed={known.seed}"
        )
    if hidden := len(np.setdiff1d(_same_ids(theirs, shards), known.labelled)):
        return (
            "; warning: trained on other shards, of people with the same ids: if they are the same people, it knows "
            f"the labels of {plural(hidden, 'person')}, unlabelled here"
        )
    return ""


def _same_ids(theirs: Trained, shards: ShardSet) -> I64:
    """Rows of ``shards`` with the ids of all whom another run had labels of, if these are ids of one set."""
    said = theirs.split
    if said is None:
        return np.empty(0, np.int64)
    for part, start in ((shards, 0), *zip(shards.parts, shards.starts.tolist(), strict=True)):
        again = split(part.instance, share=said["share"], seed=said["seed"])
        if again.fingerprint == said.get("sha256"):
            rows: I64 = start + again.labelled
            return rows
    return np.empty(0, np.int64)


def labels_seen(theirs: Trained, shards: ShardSet) -> I64:
    """Rows of ``shards`` whose labels another run may have seen, by what its checkpoint says."""
    said = theirs.split
    if said is None:
        return np.empty(0, np.int64)
    if theirs.index == shards.index_sha256:
        return split(shards.instance, share=said["share"], seed=said["seed"]).labelled
    rows = [np.empty(0, np.int64)]
    sets: object = theirs.data.get("sets") if theirs.data else None  # of a file: anything
    united = [one.get("index") for one in sets if isinstance(one, dict)] if isinstance(sets, list) else []
    for part, start in zip(shards.parts, shards.starts.tolist(), strict=True):
        if theirs.index == part.index_sha256:
            rows.append(start + split(part.instance, share=said["share"], seed=said["seed"]).labelled)
        elif part.index_sha256 in united:  # whose share of this set depends on the people of its other sets
            rows.append(start + np.arange(len(part)))
    return np.concatenate(rows)
