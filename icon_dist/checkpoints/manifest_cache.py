"""``checkpoints.json`` of a run: what was read of its checkpoints, so that a save need not read all of them again.

A hint that is never believed. It speaks of a checkpoint only while the listing has the very files and sizes that it
was read with, and what a save decides rests on manifests that it has read itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from icon_dist import storage
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints.manifest import Entry
from icon_dist.errors import TooLargeError
from icon_dist.storage import hashed_json

NAME = "checkpoints.json"


@dataclass(frozen=True)
class Facts:
    """What a manifest says of its checkpoint, as far as a save asks."""

    listed: str  # digest of the files and sizes that the listing had
    whole: bool  # the manifest holds, and every file is there in its full size
    score: float | None
    scored_since: int  # scores of another beginning cannot be compared with


class ManifestCache:
    """Facts of the checkpoints of a run: as they were read now, or as a save before this one left them."""

    def __init__(self, run_uri: str) -> None:
        self._place = storage.join(run_uri, NAME)
        self._hints = _hints(self._place)
        self._read: dict[Entry, Facts] = {}

    def facts(self, entry: Entry) -> Facts:
        """Return what is known of ``entry``; it is read where the cache does not know it with these files."""
        hint = self._hints.get(_folder(entry))
        if entry not in self._read and (hint is None or hint.listed != _listed(entry)):
            self.read([entry])
        return self._read.get(entry) or self._hints[_folder(entry)]

    def read(self, entries: Iterable[Entry]) -> bool:
        """Read the manifests of those ``entries`` of which this was not done yet; returns whether there were any."""
        new = {*entries} - self._read.keys()
        for entry in sorted(new):
            manifest = manifests.whole(entry)
            score, since = None, 0
            if manifest is not None:
                score, since = manifests.score(manifest), manifests.scored_since(manifest)
            self._read[entry] = Facts(_listed(entry), manifest is not None, score, since)
        return bool(new)

    def write(self, kept: Iterable[Entry]) -> None:
        """Leave what is known of these checkpoints, and of no others, to the next save."""
        facts = {_folder(entry): self.facts(entry) for entry in kept}
        known = {folder: [one.listed, one.whole, one.score, one.scored_since] for folder, one in facts.items()}
        storage.write(self._place, hashed_json.sealed({"checkpoints": known}))


def _folder(entry: Entry) -> str:
    return entry.uri.rpartition("/")[2]


def _listed(entry: Entry) -> str:
    return hashlib.sha256(json.dumps(entry.files, sort_keys=True).encode()).hexdigest()[:16]


def _hints(place: str) -> dict[str, Facts]:
    """What a cache says; nothing if it is missing or damaged."""
    try:
        document = hashed_json.unsealed(storage.read(place, most=hashed_json.MOST))
    except (FileNotFoundError, TooLargeError, hashed_json.BrokenSealError):
        return {}
    known = document.get("checkpoints")
    if not isinstance(known, dict) or not all(map(_are_facts, known.values())):
        return {}
    return {folder: Facts(*facts) for folder, facts in known.items()}


def _are_facts(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    listed, whole, score, since = value
    finite = score is None or (type(score) in (int, float) and math.isfinite(score))
    return type(listed) is str and type(whole) is bool and finite and type(since) is int
