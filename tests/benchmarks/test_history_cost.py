"""What could grow with a run or a set: a save, a flush, a resume, opening an index. Printed, not asserted.

``pytest -m slow -s tests/benchmarks/test_history_cost.py``
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from icon_dist import storage
from icon_dist.checkpoints import checkpoint, manifest_cache
from icon_dist.datasets import load_skeleton, skeleton_to_dict
from icon_dist.loggers.events import Start, Train
from icon_dist.loggers.logger import KINDS, Logger
from icon_dist.shards.shard_set import index_schema
from icon_dist.storage import append_log, hashed_json

pytestmark = pytest.mark.slow
CHECKPOINTS, LINES, PEOPLE, SHARDS, JOINTS = 500, 1_000_000, 1_500_000, 1000, 17
OPEN = """
import sys, time
import torch.distributed as dist
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.shared_columns import once_a_host
uri, store, rank, world = *sys.argv[1:3], *map(int, sys.argv[3:])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
held = lambda what: sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))
before, most, cpu = held("RssAnon"), held("VmRSS"), time.process_time()
shards = once_a_host(lambda: open_shards(uri))
shards.keypoints.sum(), shards.box.sum()  # as if an epoch had read them
own, peak = held("RssAnon") - before >> 10, held("VmHWM") - most >> 10
shared = [line.split()[0].split("-") for line in open("/proc/self/maps") if "icon-columns" in line]
shared = sum(int(end, 16) - int(start, 16) for start, end in shared) >> 20
memory = f"{own} MiB of its own, {shared} shared by all ranks; at most {peak} at once"
print(f"rank {rank} of {world}, {len(shards)} people: {time.process_time() - cpu:.1f} s of CPU; {memory}", flush=True)
"""


def cpu(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before


def test_a_save_beside_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: None)
    reads: list[str] = []
    read = storage.read
    monkeypatch.setattr(storage, "read", lambda uri, *a, **k: reads.append(uri) or read(uri, *a, **k))
    said = {"score": 0.5, "config": {f"section{i}": {f"key{j}": j for j in range(20)} for i in range(10)}}

    def save(step: int) -> None:
        tensors = {"model": {"w": torch.zeros(2)}, "optimizer": {"m": torch.zeros(2)}}
        checkpoint.save(run, step=step, attempt="a", tensors=tensors, state={}, manifest=said, keep=10**6)

    for step in range(1, CHECKPOINTS + 1):
        save(step)
        if step in (10, CHECKPOINTS):
            reads.clear()
            spent = cpu(partial(save, 10_000 + step))
            print(f"a save beside {step}: {spent:.3f} s of CPU, {len(reads)} reads")
    storage.delete(f"{run}/{manifest_cache.NAME}")
    reads.clear()
    print(f"reading all, as before: {cpu(lambda: save(20_000)):.3f} s of CPU, {len(reads)} reads")


def test_metrics_of_a_long_run(tmp_path: Path) -> None:
    losses = {"total": 0.123456, "heatmap": 0.001234, "skcc": 3.4, "prcc": 4.5, "scale": 1.0}
    events = (Train(step, 1.5, 1e-3, losses) for step in range(1, LINES + 1))
    lines = [json.dumps(event.record()).encode() + b"\n" for event in events]
    uri = f"{tmp_path}/metrics.jsonl"
    log = append_log.AppendLog(uri, lambda _: True)
    for line in lines:
        log.add(line)
    log.flush()
    logger = Logger(str(tmp_path))
    begin = cpu(lambda: logger(Start(LINES, 2 * LINES)))
    logger(Train(LINES + 1, 1.5, 1e-3, losses))
    flush = cpu(logger.flush)
    logger.close()
    print(f"{LINES} lines: {begin:.3f} s of CPU to resume, {flush:.4f} s a flush")

    def parse() -> None:
        found = [json.loads(line.decode()) for line in b"".join(lines).splitlines(keepends=True)]
        assert all(one["kind"] in KINDS for one in found)

    whole = cpu(lambda: storage.write(f"{tmp_path}/whole", b"".join(lines)))
    print(f"as before: {cpu(parse):.2f} s of CPU to resume, {whole:.3f} s a flush")


def large_index(folder: Path) -> None:
    """A set of which only the index and the manifest are real; shards are holes of the right size."""
    rng, rows, per = np.random.default_rng(0), np.arange(PEOPLE), PEOPLE // SHARDS
    digits = rng.bytes(32 * PEOPLE).hex()
    size = per * 12288 + 10240
    columns = {
        "shard": rows // per,
        "offset": rows % per * 12288 + 1024,
        "size": np.full(PEOPLE, 9000),
        "sha256": [digits[64 * row : 64 * row + 64] for row in range(PEOPLE)],
        "key": [f"{key:012d}" for key in rng.permutation(PEOPLE).tolist()],
        "instance": rng.permutation(PEOPLE),
        "image_id": rng.integers(0, PEOPLE // 2, PEOPLE),
        "box": rng.uniform(1, 300, (PEOPLE, 4)).round(2),
        "area": rng.uniform(1, 9e4, PEOPLE).round(),
        "score": np.ones(PEOPLE),
        "keypoints": rng.integers(0, 600, (PEOPLE, 3 * JOINTS)),
        "window": rng.integers(1, 300, (PEOPLE, 4)),
        "stored_wh": np.full((PEOPLE, 2), 200),
        "photo_wh": np.full((PEOPLE, 2), 640),
    }
    schema = index_schema(JOINTS)

    def column(field: pa.Field) -> pa.Array:
        values = columns[field.name]
        if not isinstance(values, np.ndarray) or values.ndim == 1:
            return pa.array(values, field.type)
        flat = pa.array(values.reshape(-1), field.type.value_type, safe=False)
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

    table = pa.Table.from_arrays([column(field) for field in schema], schema=schema)
    pq.write_table(table, folder / "index.parquet", compression="zstd", row_group_size=PEOPLE)
    names = [f"shard-{number:05d}.tar" for number in range(SHARDS)]
    for name in names:
        with open(folder / name, "wb") as file:
            file.truncate(size)
    digest = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    files = {name: {"bytes": size, "sha256": "0" * 64} for name in names}
    files |= {"index.parquet": {"bytes": 1, "sha256": digest}, "truth.json.gz": {"bytes": 0, "sha256": "0" * 64}}
    settings = {"max_input": [384, 288], "aspects": [0.75, 1.0], "zoom": 1.35, "exif": "ignore", "deep": None}
    manifest = {"format": 1, "dataset": "coco", "split": "train", "boxes": "gt", "source": "", "settings": settings}
    manifest |= {"skeleton": skeleton_to_dict(load_skeleton("coco")), "people": PEOPLE, "photos": 1}
    (folder / "manifest.json").write_bytes(hashed_json.sealed({**manifest, "shards": names, "files": files}))


def test_opening_many_people(tmp_path: Path) -> None:
    (folder := tmp_path / "set").mkdir()
    large_index(folder)
    for world in (1, 2):
        command = [sys.executable, "-c", OPEN, str(folder), str(tmp_path / f"store{world}")]
        ranks = [subprocess.Popen([*command, str(rank), str(world)]) for rank in range(world)]
        assert [rank.wait() for rank in ranks] == [0] * world
