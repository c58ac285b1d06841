"""A run that reads copies of its shards, as the trials of a sweep do, is a run on the shards themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from icon_dist import storage
from icon_dist.checkpoints import checkpoint
from icon_dist.config import Config
from icon_dist.loggers.events import Report
from icon_dist.search.trial import copy_here
from icon_dist.training.loop import run_directory, train
from tests.support.training import run_gang, tiny


def on_copies(cfg: Config, *, report: Report, device: str, stop: Callable[[], bool] = lambda: False) -> None:
    """The loop as an inline trial runs it, with the originals' tars gone: it can but read the copies."""
    copy_here(cfg.data)
    for uri in (cfg.data.train, *cfg.data.val):
        for name in storage.listing(str(uri)):
            if name.endswith(".tar"):
                storage.delete(storage.join(str(uri), name))
    train(cfg, report=report, device=device, stop=stop)


def test_places_and_scores_are_those_of_the_shards(people: Path, tmp_path: Path, s3: str) -> None:
    """Else checkpoints name a folder of this machine that is soon gone, and scores of several sets have its hashes."""
    for name, source in (("train", "train"), ("val", "val"), ("lsp/val", "val")):
        for file in (people / source).iterdir():
            storage.write(f"{s3}/{name}/{file.name}", file)
    data = {"data__train": f"{s3}/train", "data__val": (f"{s3}/val", f"{s3}/lsp/val")}
    last = {"optim__epochs": 1, "optim__milestones": (), "run__zero": 0, "optim__micro_batch": 16}
    cfg = tiny(people, tmp_path, **data, **last)
    run_gang(cfg, scratch=tmp_path, world=1, loop=f"{__name__}:on_copies")

    found = checkpoint.find(run_directory(cfg), warn=print)
    assert found is not None
    saved = found.manifest["config"]["data"]
    assert (saved["train"], list(saved["val"])) == (data["data__train"], list(data["data__val"]))
    bucket_and_test = s3.rpartition("/")[2]
    first, second = (found.manifest["metrics"][f"{name}/PCK@0.2"] for name in (f"{bucket_and_test}/val", "lsp/val"))
    assert first == second > 0
