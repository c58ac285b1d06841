"""Damaged bytes are never trained on in silence; ``data.max_bad_fraction`` leaves people out by name."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch

from icon_dist import distributed
from icon_dist.config import AugmentConfig, Config
from icon_dist.errors import DataError
from icon_dist.loggers.events import Event, Note, Report
from icon_dist.shards.reader import ShardReader
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.training import loop
from icon_dist.types import Batch
from tests.support.streams import train_stream
from tests.support.training import run_gang, tiny


def spoil(folder: Path, row: int, *, at: float = 0.9) -> str:
    """Flip one bit of the scan of a person's JPEG; returns the key."""
    shards = open_shards(str(folder))
    place = folder / shards.shard_names[shards.shard[row]]
    raw = bytearray(place.read_bytes())
    raw[int(shards.offset[row] + at * shards.size[row])] ^= 4
    place.write_bytes(raw)
    return shards.key[row]


def epoch(shards: ShardSet, *, loaders: int, max_bad_fraction: float, number: int = 0) -> tuple[list[Batch], list[str]]:
    stream = train_stream(
        shards,
        seed=0,
        batch=4,
        streams=2,
        rank=0,
        world=1,
        micro_batch=2,
        input_hw=(64, 48),
        augment=AugmentConfig(),
        loaders=loaders,
        cache_mb=1,
        max_bad_fraction=max_bad_fraction,
    )
    with closing(stream):
        batches = [Batch(*(tensor.clone() for tensor in vars(batch).values())) for batch in stream.epoch(number)]
        return batches, stream.skipped()


def test_a_flipped_bit_is_noticed_though_it_decodes(copy: Path) -> None:
    key = spoil(copy, 4)
    reader = ShardReader(open_shards(str(copy)))
    with pytest.raises(DataError, match=rf"shard-00001\.tar key={key}: sha256 differs from the index"):
        reader.read(4)
    assert len(reader.read(3)) > 0


def test_a_shard_that_cannot_be_read(copy: Path) -> None:
    shards = open_shards(str(copy))
    (copy / "shard-00000.tar").unlink()
    (copy / "shard-00000.tar").mkdir()
    with pytest.raises(DataError, match=r"shard-00000\.tar key=.*Is a directory"):
        ShardReader(shards).read(0)


@pytest.mark.parametrize("loaders", [0, 2])
def test_bad_samples_end_the_epoch_by_default(copy: Path, loaders: int) -> None:
    keys = [spoil(copy, row) for row in range(9)]
    with pytest.raises(DataError, match="sha256 differs") as error:
        epoch(open_shards(str(copy)), loaders=loaders, max_bad_fraction=0.0)
    assert any(f"key={key}" in str(error.value) for key in keys)


@pytest.mark.parametrize("loaders", [0, 2])
def test_others_come_when_and_where_they_would_have_come(made: Path, copy: Path, loaders: int) -> None:
    shards = open_shards(str(copy))
    whole, nobody = epoch(open_shards(str(made)), loaders=loaders, max_bad_fraction=0.0)
    assert nobody == []
    chosen = int(whole[1].row[0])
    key = spoil(copy, chosen)
    batches, skipped = epoch(shards, loaders=loaders, max_bad_fraction=0.2)
    assert [f"key={key}: sha256 differs" in text for text in skipped] == [True], "named once"
    for before, after in zip(whole, batches, strict=True):
        kept = before.row != chosen
        for name, tensor in vars(before).items():
            assert torch.equal(tensor[kept], getattr(after, name)[kept]), name
        assert not after.image[~kept].any()
        assert not after.visible[~kept].any()
        assert after.row[~kept].tolist() == after.instance[~kept].tolist() == [-1] * int((~kept).sum())


def test_more_than_the_fraction_ends_the_epoch(copy: Path) -> None:
    for row in range(9):
        spoil(copy, row)
    with pytest.raises(DataError, match=r"\(bad image 4 of this epoch, more than data\.max_bad_fraction=0\.25 of 8\)"):
        epoch(open_shards(str(copy)), loaders=0, max_bad_fraction=0.25)


def train(config: Config, *, report: Report, device: str) -> None:
    """The loop, with what it tells people kept in a file."""

    def keep(event: Event) -> None:
        if isinstance(event, Note) and distributed.rank() == 0:
            with Path(config.run.dir, "notes").open("a") as notes:
                notes.write(event.text + "\n")
        report(event)

    loop.train(config, report=keep, device=device)


def test_a_run_names_whom_it_leaves_out(people: Path, tmp_path: Path) -> None:
    shutil.copytree(people, tmp_path / "people")
    keys = {spoil(tmp_path / "people" / "train", row) for row in (5, 6)}
    config = tiny(tmp_path / "people", tmp_path, run__name="bad", data__max_bad_fraction=0.1, optim__epochs=2)
    run_gang(config, scratch=tmp_path, loop="tests.runs.data.test_bad_samples:train")
    notes = [text for text in (tmp_path / "notes").read_text().splitlines() if "left out" in text]
    events = [json.loads(line) for line in (tmp_path / "bad" / "metrics.jsonl").read_text().splitlines()]
    assert {key for key in keys for text in notes if key in text} == keys
    assert all(text.startswith(("epoch 1 left out ", "epoch 2 left out ")) and "sha256" in text for text in notes)
    assert all(event["total"] < 1e3 for event in events if event["kind"] == "train")
