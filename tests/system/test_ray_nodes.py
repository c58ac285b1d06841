"""A cluster of three Ray nodes on this machine, its data and checkpoints on S3: a node is lost, the run goes on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from icon_dist import storage
from tests.support.paths import ROOT
from tests.support.ray_nodes import Nodes, cluster, wait_for
from tests.support.run_results import assert_equal, final
from tests.support.training import TINY, run_gang, tiny

pytestmark = pytest.mark.ray
LONG = {"optim__epochs": 12, "optim__milestones": (10,), "eval__every": 12, "run__record_samples": True}
SPLIT = {"optim__batch": 12, "optim__micro_batch": 2, "data__streams": 12}  # for three workers as for two
STEPS = 64 // 12  # an epoch


@pytest.fixture(scope="module")
def three(s3_endpoint: str) -> Iterator[Nodes]:
    """The AWS variables of the tests are the nodes' as well."""
    del s3_endpoint
    with cluster(nodes=3, cpus=1) as started:
        yield started


@pytest.fixture
def nodes(three: Nodes) -> Nodes:
    """Three that live."""
    for node in range(3)[::-1]:
        if three.started[node].poll() is not None:
            three.forget(node)
    three.join(3 - len(three.started))
    return three


class Job:
    """A run submitted with ``--follow``."""

    def __init__(self, folder: Path, values: dict[str, object]) -> None:
        self.log = folder / "log"
        self.run = f"{values['run.dir']}/{values['run.name']}"
        words = [f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in values.items()]
        command = ["-m", "icon_dist.submit", "--no-working-dir", "--follow", "--", "--cfg", "demo", *words]
        with self.log.open("w") as out:
            self.process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)

    def commits(self) -> int:
        return sum(name.endswith("/MANIFEST.json") for name in storage.listing(f"{self.run}/checkpoints"))

    def wait_for_commits(self, count: int, *, seconds: float = 300) -> float:
        return wait_for(lambda: self.commits() >= count, alive=self.process, log=self.log, seconds=seconds)

    def says(self, text: str) -> bool:
        return text in self.log.read_text()


@contextmanager
def submitted(people: Path, s3: str, folder: Path, name: str, **more: object) -> Iterator[Job]:
    for split in ("train", "val"):
        for file in storage.listing(f"{people}/{split}"):
            storage.write(f"{s3}/people/{split}/{file}", people / split / file)
    place = {"data.train": f"{s3}/people/train", "data.val": f"{s3}/people/val", "run.dir": f"{s3}/runs"}
    values = TINY | place | {key.replace("__", "."): value for key, value in (LONG | more).items()}
    job = Job(folder, values | {"run.name": name})
    try:
        yield job
    finally:
        job.process.kill()
        job.process.wait(30)


def goes_on_after(job: Job, kill: int, nodes: Nodes) -> None:
    """Kill a node in the middle of an epoch, and wait for the end."""
    began = time.monotonic()
    nodes.kill(kill)
    back = wait_for(lambda: job.says("resumed at step"), alive=job.process, log=job.log, seconds=300)
    assert job.process.wait(300) == 0, job.log.read_text()
    print(f"resumed {back:.1f} s after the node was lost, at the end {time.monotonic() - began:.1f} s after")
    assert job.says("starting again from the newest checkpoint")
    assert job.says("SUCCEEDED, exit code 0")


@pytest.mark.timeout(900)
def test_a_killed_node_changes_nothing(nodes: Nodes, people: Path, s3: str, tmp_path: Path) -> None:
    with submitted(people, s3, tmp_path, "killed") as job:
        print(f"second commit after {job.wait_for_commits(2):.1f} s")
        busy = [node for node in range(3) if nodes.workers(node)]
        assert [len(nodes.workers(node)) for node in busy] == [1, 1]  # two workers on two nodes
        goes_on_after(job, busy[-1], nodes)  # not the head, where the driver is
    straight = tiny(people, tmp_path, run__name="straight", **LONG)  # undisturbed, local, without Ray
    run_gang(straight, scratch=tmp_path)
    assert_equal(final(straight), final(tiny(people, f"{s3}/runs", run__name="killed", **LONG)))


def batches(run: str) -> list[tuple[int, list[int]]]:
    """(epoch, people) of every global batch, each step once."""
    lines = []
    for name in sorted(storage.listing(f"{run}/samples")):
        lines += [json.loads(line) for line in storage.read(f"{run}/samples/{name}").decode().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, LONG["optim__epochs"] * STEPS + 1))  # type: ignore[operator]
    return [(line["epoch"], sorted(person for part in line["people"] for person in part)) for line in lines]


@pytest.mark.timeout(900)
def test_a_lost_node_shrinks_the_run(nodes: Nodes, people: Path, s3: str, tmp_path: Path) -> None:
    """Three workers, then two: everybody is read once an epoch, in the batches of an undisturbed run."""
    elastic = {"run.workers": 3, "run.workers_min": 2, "run.checkpoint_every": 0.4}
    with submitted(people, s3, tmp_path, "shrunk", **SPLIT, **elastic) as job:
        print(f"second commit after {job.wait_for_commits(2):.1f} s")
        assert [len(nodes.workers(node)) for node in range(3)] == [1, 1, 1]
        goes_on_after(job, 2, nodes)
        said = job.log.read_text()
    assert re.findall(r"^starting (\d) workers \(run.workers=3, run.workers_min=2\)", said, re.MULTILINE) == ["3", "2"]
    straight = tiny(people, tmp_path, run__name="straight", **LONG, **SPLIT)
    run_gang(straight, scratch=tmp_path)
    seen = batches(job.run)
    assert seen == batches(f"{tmp_path}/straight")
    for epoch in range(12):
        read = Counter(person for at, batch in seen if at == epoch for person in batch)
        assert set(read.values()) == {1}
        assert read.total() == 12 * STEPS


@pytest.mark.timeout(900)
def test_a_node_that_is_announced_to_leave(nodes: Nodes, people: Path, s3: str, tmp_path: Path) -> None:
    """With room for fewer the run saves and goes on without it; without room it saves and ends with 75."""
    elastic = {
        "run.workers": 3,
        "run.workers_min": 2,
        "run.checkpoint_every": 50,
        "optim.epochs": 100,
        "eval.every": 100,
    }
    with submitted(people, s3, tmp_path, "announced", **SPLIT, **elastic) as job:
        try:
            wait_for(lambda: job.says("step "), alive=job.process, log=job.log, seconds=300)
            nodes.drain(2, seconds=300)
            committed = job.wait_for_commits(1, seconds=60)
            gone = wait_for(lambda: job.says("\n2 workers"), alive=job.process, log=job.log, seconds=120)
            print(f"committed {committed:.1f} s after the announcement, {gone:.1f} s later a new group")
            assert job.says("preemption of a node; going on without it from step")
            wait_for(lambda: job.says("resumed at step"), alive=job.process, log=job.log, seconds=120)
            began = time.monotonic()
            nodes.drain(1, seconds=300)
            assert job.process.wait(120) == 75, job.log.read_text()
            print(f"exit 75 {time.monotonic() - began:.1f} s after the announcement")
            assert job.says("stopped by preemption of a node at step")
        finally:
            nodes.kill(1)
            nodes.kill(2)
