"""Which people a run has read, for whoever wants to count (``run.record_samples``).

One file for the steps between two checkpoints, ``samples/FIRST-LAST-ATTEMPT.jsonl`` with a line a step, written just
before the second one counts. So the steps that a resumed run repeats were never recorded, or are forgotten first.
"""

from __future__ import annotations

import json
import re

from torch import Tensor

from icon_dist import distributed, storage

FOLDER = "samples"


class Samples:
    """The steps since the newest checkpoint; every rank must call ``end_step``."""

    def __init__(self, run_uri: str, *, step: int) -> None:
        """A run that goes on after ``step`` forgets what was recorded of later ones."""
        self._done = step
        self._lines: list[str] = []
        self._micro: list[int] = []
        if distributed.rank() == 0:
            for name in storage.listing(storage.join(run_uri, FOLDER)):
                if (found := re.fullmatch(r"\d+-(\d+)-.*\.jsonl", name)) and int(found[1]) > step:
                    storage.delete(storage.join(run_uri, FOLDER, name))

    def add(self, instance: Tensor) -> None:
        """People of a micro-batch of this rank."""
        self._micro += instance.tolist()

    def end_step(self, *, step: int, epoch: int, skipped: bool) -> None:
        """Record the ids of the instances that all ranks have added since the last step; every rank must call it.

        ``skipped`` marks a step whose update was left out.
        """
        everybody = distributed.gather_objects(self._micro)
        self._micro = []
        record: dict[str, object] = {"step": step, "epoch": epoch, "people": everybody}
        self._lines.append(json.dumps(record | ({"skipped": True} if skipped else {})) + "\n")

    def flush(self, *, step: int, attempt: str) -> dict[str, bytes]:
        """The file that a checkpoint of ``step`` brings along, by its place in the run."""
        lines, self._lines = self._lines, []
        first, self._done = self._done, step
        return {f"{FOLDER}/{first:08d}-{step:08d}-{attempt}.jsonl": "".join(lines).encode()} if lines else {}
