"""What a run has recorded, read for reports: its config, ``metrics.jsonl`` and the manifests of its checkpoints.

Nothing is written and no lock is taken, so a run that is still training can be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints.manifest import Manifest, scored_since
from icon_dist.checkpoints.not_a_run import PARTS, not_a_run
from icon_dist.config import Config
from icon_dist.config.safe_yaml import read_plain
from icon_dist.datasets import skeleton_from_dict
from icon_dist.errors import CheckpointError, IconError, gathering, note, plural, raise_all, shorten
from icon_dist.storage import append_log, lock
from icon_dist.types import Json, Skeleton

PLACED = ("train", "eval")  # kinds of events that stand at an epoch
LARGEST_CONFIG = 1 << 20  # bytes


@dataclass(frozen=True, eq=False)  # each run is itself, and a key of dicts
class Run:
    """The records of one run."""

    uri: str
    name: str  # unique among the runs that were read together
    config: Config
    skeleton: Skeleton | None  # None before the first checkpoint
    train: tuple[Json, ...]  # in order of their steps
    evals: tuple[Json, ...]
    skips: int  # steps whose loss or gradients were not finite
    damaged: int  # lines of metrics.jsonl that are not whole events; a last one that is cut does not count
    checkpoints: tuple[Manifest, ...]
    writer: str  # who trains it at the moment; empty if nobody does

    @property
    def seed(self) -> int:
        """The seed of the run, ``run.seed``."""
        return self.config.run.seed

    @property
    def metric(self) -> str | None:
        """Name of the score by which checkpoints are compared; None where none was measured."""
        return self.evals[-1]["headline"] if self.evals else None

    @property
    def metrics(self) -> list[str]:
        """The main score of each set that the run is scored on; one where ``data.val`` is one set."""
        if not self.evals:
            return []
        last = self.evals[-1]
        several = last.get("headlines")
        if isinstance(several, list) and all(type(name) is str for name in several):
            return several
        return [last["headline"]]

    @property
    def best(self) -> Json | None:
        """The evaluation with the highest score of those that can be compared with the newest; of equals the last."""
        scored = [event for event in self.evals if finite(event["scores"].get(event["headline"])) is not None]
        starts = (start for start in map(scored_since, self.checkpoints) if start < scored[-1]["step"])
        since = max(starts, default=-1) if scored else -1
        comparable = [event for event in scored if event["step"] > since]
        return max(comparable, key=lambda event: (event["scores"][event["headline"]], event["step"]), default=None)

    @property
    def changed(self) -> list[str]:
        """Which values were others before, where the run went on with new ones; a line each."""
        return list(self.checkpoints[-1].get("changed", [])) if self.checkpoints else []

    @property
    def step(self) -> int:
        """The newest step of which something is recorded."""
        steps = [event["step"] for event in (*self.train[-1:], *self.evals[-1:])]
        return max([*steps, *(manifest["step"] for manifest in self.checkpoints)], default=0)

    @property
    def epoch(self) -> float:
        """Where the run stands."""
        epochs = [float(event["epoch"]) for event in (*self.train[-1:], *self.evals[-1:])]
        return max([*epochs, *(float(manifest.get("epoch", 0)) for manifest in self.checkpoints)], default=0.0)


def finite(value: object) -> float | None:
    """``value`` as a number, or None where it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    return None


def measured(value: object) -> float | None:
    """A score, or None where it is none or -1, which stands for nothing to count."""
    score = finite(value)
    return None if score == -1 else score


def read_runs(places: Sequence[str]) -> list[Run]:
    """The runs at these paths or ``s3://`` URIs, each once, in their order.

    CheckpointError about all places that are no runs.
    """
    uris = [storage.absolute(place) for place in places]
    if repeated := sorted({uri for uri in uris if uris.count(uri) > 1}):
        note(f"{', '.join(map(shorten, repeated))}: given more than once; counts once")
    uris = list(dict.fromkeys(uris))
    names = short_names(uris)
    runs: list[Run] = []
    errors: list[IconError] = []
    for uri in uris:
        with gathering(errors):
            runs.append(_read(uri, name=names[uri]))
    raise_all(errors)
    for run in runs:
        if run.damaged:
            note(f"{run.uri}/metrics.jsonl: {plural(run.damaged, 'damaged line')} left out")
    return runs


def short_names(uris: Sequence[str]) -> dict[str, str]:
    """For each place its last folders, as few as tell it from the others."""
    parts = {uri: [part for part in uri.removeprefix("s3://").split("/") if part] or ["/"] for uri in uris}
    names = {}
    for uri in uris:
        for depth in range(1, len(parts[uri]) + 1):
            names[uri] = "/".join(parts[uri][-depth:])
            if sum(other[-depth:] == parts[uri][-depth:] for other in parts.values()) == 1:
                break
    return names


def _read(uri: str, *, name: str) -> Run:
    if not any(storage.exists(storage.join(uri, name)) for name in PARTS):
        raise CheckpointError(f"{uri}: {not_a_run(uri)}")
    checkpoints = _checkpoints(uri)
    events, damaged = _events(uri)
    return Run(
        uri=uri,
        name=name,
        config=_config(uri, checkpoints),
        skeleton=_skeleton(checkpoints),
        train=_once(event for event in events if event.get("kind") == "train"),
        evals=_once(event for event in events if event.get("kind") == "eval" and _is_scored(event)),
        skips=len({event["step"] for event in events if event.get("kind") == "skip"}),
        damaged=damaged,
        checkpoints=checkpoints,
        writer=lock.owner(uri),
    )


def trained_with(uri: str) -> Config:
    """The config of the run at ``uri``: what its newest checkpoint was trained with, or else what it began with.

    Raises CheckpointError where that is not a run.
    """
    return _config(uri, _checkpoints(uri))


def _checkpoints(uri: str) -> tuple[Manifest, ...]:
    """Manifests of the checkpoints whose files are all there, oldest first."""
    whole = (manifests.whole(entry) for entry in manifests.entries(uri))
    return tuple(manifest for manifest in whole if manifest is not None)


def _config(uri: str, checkpoints: Sequence[Manifest]) -> Config:
    """What the run was started with: its newest checkpoint knows, and before the first its ``config.yaml``."""
    place = storage.join(uri, "config.yaml")
    try:
        if checkpoints:
            place = "the config of its newest checkpoint"
            values = checkpoints[-1]["config"]
        else:
            values = read_plain(storage.read(place, most=LARGEST_CONFIG).decode())
        if not isinstance(values, Mapping):
            raise ValueError("no sections")
        return configuration.from_dict(values)
    except FileNotFoundError:
        raise CheckpointError(f"{uri}: has no config.yaml and no checkpoint; is it a run?") from None
    except (IconError, yaml.YAMLError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = shorten(str(error))
        raise CheckpointError(f"{uri}: {place} is not one of this icon_dist ({why}); leave the run out") from None


def _skeleton(checkpoints: Sequence[Manifest]) -> Skeleton | None:
    if not checkpoints:
        return None
    try:
        return skeleton_from_dict(checkpoints[-1]["skeleton"])
    except (IconError, KeyError, TypeError, ValueError):
        return None


def _events(uri: str) -> tuple[list[Json], int]:
    """The events of ``metrics.jsonl``, and the number of damaged lines; a last line without end is being written."""
    place = storage.join(uri, "metrics.jsonl")
    try:
        lines = append_log.read(place).split(b"\n")
    except FileNotFoundError:
        return [], 0
    read = [_event(line) for line in lines[:-1]]
    events = [event for event in read if event is not None]
    return events, len(read) - len(events)


def _event(line: bytes) -> Json | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or type(event.get("step")) is not int:
        return None
    return event if event.get("kind") not in PLACED or finite(event.get("epoch")) is not None else None


def _is_scored(event: Json) -> bool:
    return isinstance(event.get("scores"), dict) and all(type(event.get(name)) is str for name in ("headline", "what"))


def _once(events: Any) -> tuple[Json, ...]:
    """By step, the last of equals: a run that was killed and went on may have recorded a step twice."""
    by_step = {event["step"]: event for event in events}
    return tuple(by_step[step] for step in sorted(by_step))
