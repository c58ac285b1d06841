"""People and photos -> a shard directory: same people, settings and library versions, same bytes.

Every shard is written whole, then its part of the index; a build that was killed goes on with the shards that have
none. The manifest comes last, so a directory with a manifest is complete.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from icon_dist import storage
from icon_dist.datasets import skeleton_to_dict
from icon_dist.errors import ConfigError, DataError, tell
from icon_dist.shards.label_split import stored_splits
from icon_dist.shards.manifest import (
    BUILDING,
    FORMAT,
    INDEX,
    MANIFEST,
    TRUTH,
    BuildHead,
    FileFacts,
    ShardManifest,
    read_manifest,
)
from icon_dist.shards.tar import Job, Settings, tar_and_index
from icon_dist.storage import hashed_json, local, lock
from icon_dist.types import Annotations, Instance, Truth

OTHER = "give another --out, or delete it first"

MapJobs = Callable[[Callable[[Job], int], Sequence[Job]], Iterable[int]]
Progress = Callable[[int, int], None]  # people packed, people in all


@dataclass(frozen=True)
class SetInfo:
    """What a set says of itself."""

    dataset: str  # whose metric and preset it is of
    split: str
    boxes: str = "gt"  # where they are from: gt, or the name of a detector's file
    licence: str = ""  # of the data, where it is known


def plan(people: Sequence[Instance], *, per_shard: int, seed: int) -> list[list[Instance]]:
    """People shuffled once over as few shards as hold them, of sizes that differ by one at most."""
    order = sorted(people, key=lambda p: hashlib.sha256(f"{seed}:{p.id}".encode()).digest())
    count = -(-len(order) // per_shard)
    cuts = [len(order) * i // count for i in range(count + 1)]
    return [order[start:end] for start, end in pairwise(cuts)]


def _tar_name(number: int) -> str:
    return f"shard-{number:05d}.tar"


def _part_name(number: int) -> str:
    return f"shard-{number:05d}.index"


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=max(len(table), 1))
    return sink.getvalue()


class _TarFacts(FileFacts):
    build: str  # of which it is a part


def pack_shard(job: Job) -> int:
    """Write one shard, then its part of the index. Returns the number of people."""
    tar, table = tar_and_index(job)
    storage.write(storage.join(job.out, _tar_name(job.number)), tar)
    facts = {"build": job.build, "bytes": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
    table = table.replace_schema_metadata({"icon_dist": json.dumps(facts)})
    storage.write(storage.join(job.out, _part_name(job.number)), _parquet(table))
    return len(table)


def _part(job: Job) -> tuple[pa.Table, _TarFacts]:
    """A written part of the index, and the facts of its tar."""
    raw = storage.read(storage.join(job.out, _part_name(job.number)))
    table = pq.read_table(pa.BufferReader(raw))
    facts: _TarFacts = json.loads(table.schema.metadata[b"icon_dist"])
    assert facts["build"] == job.build, "a part of another build in a directory of this one"
    return table.replace_schema_metadata(None), facts


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _complete(out: str, head: BuildHead) -> ShardManifest | None:
    """The manifest if this very build is complete already."""
    if not storage.exists(storage.join(out, MANIFEST)):
        return None
    manifest = read_manifest(out)
    differ = sorted(key for key, value in head.items() if manifest.get(key) != value)
    if differ:
        raise ConfigError(f"{out}: holds shards of another build ({', '.join(differ)} differ); {OTHER}")
    return manifest


def _begin(out: str, head: BuildHead) -> None:
    """Claim ``out`` for this build."""
    found = storage.listing(out)
    if BUILDING in found:
        try:
            begun = json.loads(storage.read(storage.join(out, BUILDING)))
        except (ValueError, RecursionError):  # cut, or not ours
            begun = None
        if begun != head:
            raise ConfigError(f"{out}: holds an unfinished build with other settings or annotations; {OTHER}")
    elif found:
        raise ConfigError(f"{out}: is not empty ({found[0]}) and holds no build to go on with; {OTHER}")
    else:
        storage.write(storage.join(out, BUILDING), _json(head))


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _left_over(out: str) -> list[str]:
    """Names of what only an unfinished build needs, and of what killed ones have half written."""
    parts = [name for name in storage.listing(out) if re.fullmatch(r"shard-\d{5,}\.index", name) or name == BUILDING]
    return parts if storage.is_remote(out) else parts + [path.name for path in local.partials(Path(out))]


def _finish(out: str, head: BuildHead, truth: Truth, jobs: Sequence[Job]) -> ShardManifest:
    parts = [_part(job) for job in jobs]
    index = pa.concat_tables([table for table, _ in parts])
    files = {
        _tar_name(job.number): FileFacts(bytes=facts["bytes"], sha256=facts["sha256"])
        for job, (_, facts) in zip(jobs, parts, strict=True)
    }
    written = {INDEX: _parquet(index), TRUTH: gzip.compress(_json(truth), mtime=0)}
    for name, data in written.items():
        storage.write(storage.join(out, name), data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {
        **head,
        "people": len(index),
        "photos": len(set(index["image_id"].to_pylist())),
        "shards": [_tar_name(job.number) for job in jobs],
        "splits": stored_splits(index["instance"].to_numpy()),
        "files": files,
    }
    raw = hashed_json.sealed(manifest)
    lock.require(out)
    storage.write(storage.join(out, MANIFEST), raw)
    return cast(ShardManifest, hashed_json.unsealed(raw))


def _head(annotations: Annotations, info: SetInfo, settings: Settings) -> BuildHead:
    """What a build is, known before anything is packed: the same head, the same bytes."""
    people = [{**vars(p), "keypoints": p.keypoints.tolist()} for p in annotations.instances]
    head = {
        "format": FORMAT,
        "dataset": info.dataset,
        "split": info.split,
        "boxes": info.boxes,
        "skeleton": skeleton_to_dict(annotations.skeleton),
        "settings": settings.manifest(),
        "source": _digest({"people": people, "truth": annotations.truth}),
    }
    head |= {"licence": info.licence} if info.licence else {}
    plain: BuildHead = json.loads(_json(head))  # as it is read back
    return plain


def build(
    annotations: Annotations,
    images: str,
    out: str,
    info: SetInfo,
    *,
    settings: Settings | None = None,
    map_jobs: MapJobs = map,
    progress: Progress | None = None,
) -> ShardManifest:
    """Pack ``annotations`` with the photos of the folder ``images`` into ``out`` and return the manifest.

    ``map_jobs`` runs the shards, in this process or elsewhere. ``progress`` is first called with what was there
    already: all of it, if the very same build is complete.
    """
    settings = settings or Settings()
    images, out = storage.absolute(images), storage.absolute(out)
    people = annotations.instances
    if not people:
        raise DataError(f"{out}: no people to pack; the annotations hold none with keypoints")
    head = _head(annotations, info, settings)
    report = progress or (lambda *_: None)
    jobs = [
        Job(number, some, annotations.skeleton, images, out, settings, _digest(head))
        for number, some in enumerate(plan(people, per_shard=settings.per_shard, seed=settings.seed))
    ]
    if (manifest := _complete(out, head)) is not None and not _left_over(out):
        report(len(people), len(people))
        return manifest
    with lock.hold(out, fix="give another --out"):
        if (manifest := _complete(out, head)) is None:
            _begin(out, head)
            _pack(out, jobs, map_jobs, report)
            manifest = _finish(out, head, annotations.truth, jobs)
        else:
            report(len(people), len(people))
        for name in _left_over(out):
            storage.delete(storage.join(out, name))
    return manifest


def _pack(out: str, jobs: Sequence[Job], map_jobs: MapJobs, report: Progress) -> None:
    """Write the shards that are not there yet."""
    there = set(storage.listing(out))
    pending = [job for job in jobs if not {_tar_name(job.number), _part_name(job.number)} <= there]
    total = sum(len(job.people) for job in jobs)
    done = total - sum(len(job.people) for job in pending)
    report(done, total)
    if done:
        tell(f"{done}/{total} people are packed already; going on")
    for count in map_jobs(pack_shard, pending):
        lock.check()
        done += count
        report(done, total)
