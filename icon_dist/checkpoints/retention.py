"""Which checkpoints stay: the newest ``run.keep``, and the best of each way of scoring. A save removes the others."""

from __future__ import annotations

import json
from collections.abc import Mapping

from icon_dist import storage
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints.manifest import Entry
from icon_dist.checkpoints.manifest_cache import ManifestCache

POINTERS = ("last.json", "best.json")
READ = 8  # of the newest checkpoints that a save reads again, before it removes an older one
REMOVED = 16  # checkpoints at most that one save removes


def keep_newest_and_best(run_uri: str, saved: Entry, *, keep: int) -> None:
    """Point at the newest and the best, remove what is older than the ``keep`` newest. Nothing newer is touched.

    What is chosen rests on manifests that are read here: of the best, of what is removed, and of the ``READ`` newest.
    So the cost does not grow with the checkpoints that stay.
    """
    older = [_by_name(run_uri, entry) for entry in manifests.entries(run_uri) if entry < saved]
    found = [*older, saved]
    cache = ManifestCache(run_uri)
    again = True
    while again:
        whole = {entry: facts for entry in found if (facts := cache.facts(entry)).whole}
        kept = sorted(whole)[-keep:]
        best = by_score({entry: (facts.scored_since, facts.score) for entry, facts in whole.items()})
        first = {whole[entry].scored_since: entry for entry in reversed(best)}  # of each way of scoring, one stays
        half_written = [entry for entry in older if not entry.committed]
        removed = sorted({*half_written, *(entry for entry in found if entry < kept[0])} - {*first.values()})[:REMOVED]
        again = cache.read([*first.values(), *removed, *kept[-READ:]])
    for name, entry in zip(POINTERS, [saved, *best[:1]], strict=False):
        place = entry.uri.removeprefix(run_uri + "/")
        hint = {"checkpoint": place, "step": entry.step, "score": whole[entry].score}
        storage.write(storage.join(run_uri, name), json.dumps(hint).encode() + b"\n")
    for entry in removed:
        storage.delete(storage.join(entry.uri, manifests.NAME))  # first, so that it is never half a checkpoint
        storage.delete(entry.uri, tree=True)
    cache.write(entry for entry in found if entry not in removed)


def by_score(scored: Mapping[Entry, tuple[int, float | None]]) -> list[Entry]:
    """Evaluated ones by the step since which scores are comparable, and score: best first, of equals the newest."""
    known = ((since, score, entry) for entry, (since, score) in scored.items() if score is not None)
    return [entry for _, _, entry in sorted(known, reverse=True)]


def _by_name(run_uri: str, entry: Entry) -> Entry:
    """``entry``, or as its files are found by name where a listing without its manifest may be behind the writes."""
    return entry if entry.committed else manifests.unlisted(run_uri, entry.uri.rpartition("/")[2]) or entry
