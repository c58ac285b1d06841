"""Generated people, drawn and packed into shards in one go: the demo's data from nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from icon_dist import storage
from icon_dist.config import DataConfig, sets_of
from icon_dist.loggers.progress_line import ProgressLine
from icon_dist.shards.manifest import MANIFEST, ShardManifest
from icon_dist.storage import lock, tempdirs

Progress = Callable[[str], Callable[[int, int], None]]  # drawn | packed -> what is told people so far, and in all


@dataclass(frozen=True)
class Crowd:
    """Who is drawn."""

    people: int  # at least so many
    seed: int  # another seed, other people
    difficulty: str = "easy"  # easy | hard


def generate_shards(
    out: str,
    crowd: Crowd,
    *,
    split: str = "synthetic",
    per_shard: int = 250,
    photos: Path | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> ShardManifest:
    """Shards at ``out`` (path or s3://); returns their manifest. Photos go to ``photos``, or nowhere.

    The bytes depend on ``crowd``, ``split`` and ``per_shard`` only. A build that was
    interrupted goes on. ``jobs`` processes draw and pack.
    """
    from icon_dist.datasets import synthetic  # here: a run whose people are there needs none of it
    from icon_dist.shards.packing import in_processes
    from icon_dist.shards.tar import Settings
    from icon_dist.shards.writer import SetInfo, build

    drawn, packed = map(progress, ("drawn", "packed")) if progress else (None, None)
    with lock.hold(out, fix="give another place"), tempdirs.Folder("people") as scratch:
        file = synthetic.generate(
            photos or Path(scratch),
            people=crowd.people,
            seed=crowd.seed,
            difficulty=crowd.difficulty,
            jobs=jobs,
            progress=drawn,
        )
        return build(
            synthetic.read(file),
            str(file.parent / "images"),
            out,
            SetInfo(dataset="synthetic", split=split),
            settings=Settings(per_shard=per_shard),
            map_jobs=in_processes(jobs),
            progress=packed,
        )


def missing_sets(config: DataConfig) -> list[tuple[str, str, int, int]]:
    """(uri, split, people, seed) of what ``data.dataset=synthetic`` still has to draw; val has other people.

    Lists of sets are of people who are there already. Other datasets draw nobody.
    """
    if config.dataset != "synthetic":
        return []
    sets = [(config.train, "train", config.generate, 0), (config.val, "val", config.generate // 4, 1)]
    missing = []
    for uri, split, people, seed in sets:
        if isinstance(uri, str) and uri and people and not storage.exists(storage.join(uri, MANIFEST)):
            missing.append((uri, split, people, seed))
    return missing


def drawn_before(config: DataConfig, own: Container[str], *, people: int) -> list[str]:
    """Notes of the keys among ``own`` that say whom to draw, for a run whose ``people`` were all there before it.

    None of a number that is about theirs: who is drawn into one photo is drawn whole.
    """
    others = config.generate and abs(people - config.generate) > 10 + config.generate / 10
    places = " and ".join(filter(None, (*sets_of(config.train), *sets_of(config.val))))
    return [
        f"{key}={value}: nobody is drawn, because {places} are there, with {people} people to train on; "
        "for others give another data.train and data.val"
        for key, value, differs in (
            ("data.generate", config.generate, others),
            ("data.difficulty", config.difficulty, True),
        )
        if key in own and differs and config.dataset == "synthetic"
    ]


def draw_missing(config: DataConfig) -> bool:
    """Render and pack what ``data.dataset=synthetic`` still lacks, on all cores; whether there was anything."""
    missing = missing_sets(config)
    for uri, split, people, seed in missing:
        generate_shards(
            uri,
            Crowd(people=people, seed=seed, difficulty=config.difficulty),
            split=split,
            jobs=os.cpu_count() or 1,
            progress=partial(ProgressLine, unit="people"),
        )
    return bool(missing)
