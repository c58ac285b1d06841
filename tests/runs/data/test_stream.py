"""From real shards to batches: the same bits whatever the number of loaders, resumable, and honest about damage."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from icon_dist import storage
from icon_dist.codec.affine import invert, transform
from icon_dist.config import AugmentConfig
from icon_dist.data.stream import TrainStream
from icon_dist.datasets import load_skeleton
from icon_dist.errors import ClusterError, ConfigError, DataError
from icon_dist.shards.reader import photo_source
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.shards.tar import Settings
from icon_dist.shards.writer import SetInfo, build
from icon_dist.types import Annotations, Batch, Instance
from tests.support.streams import eval_stream, loader_workers, train_stream

N, HW = 43, (64, 48)
SKELETON = load_skeleton("coco")


@pytest.fixture(scope="module")
def annotations() -> Annotations:
    rng = np.random.default_rng(0)
    people = []
    for i in range(N):
        keypoints = np.concatenate([rng.uniform(20, 130, (17, 2)), rng.integers(0, 3, (17, 1))], 1).astype(np.float32)
        keypoints[keypoints[:, 2] == 0] = 0
        people.append(Instance(100 + i, i // 2, f"{i // 2}.png", (160, 150), (20.0, 25.0, 90.0, 105.0), 4e3, keypoints))
    truth = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 160, "height": 150} for i in range((N + 1) // 2)],
        "annotations": [],
    }
    return Annotations(SKELETON, people, truth)


@pytest.fixture(scope="module")
def photos(annotations: Annotations, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for file in {p.file for p in annotations.instances}:
        # sharp in gray, soft in color, as photos are: JPEG halves the resolution of color
        fine, soft = rng.uniform(40, 215, (15, 16, 1)), rng.uniform(-30, 30, (4, 4, 3))
        gray, color = (cv2.resize(x, (160, 150), interpolation=cv2.INTER_CUBIC) for x in (fine, soft))
        cv2.imwrite(str(folder / file), np.clip(gray[..., None] + color, 0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def shards(annotations: Annotations, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    out = str(tmp_path_factory.mktemp("shards") / "set")
    settings = Settings(max_input=(384, 288), per_shard=10, quality=100)
    build(annotations, str(photos), out, SetInfo(dataset="coco", split="train"), settings=settings)
    return open_shards(out, input_hw=HW)


Train = Callable[..., TrainStream]


def stream_of(shards: ShardSet, *, rank: int = 0, world: int = 1, micro: int = 4, loaders: int = 0, cache: int = 0,
              streams: int = 4) -> TrainStream:  # fmt: skip
    return train_stream(
        shards, seed=3, batch=8, streams=streams, rank=rank, world=world, micro_batch=micro, input_hw=HW,
        augment=AugmentConfig(), loaders=loaders, cache_mb=cache,
    )  # fmt: skip


def epoch_of(stream: TrainStream, epoch: int = 1, start_step: int = 0) -> list[Batch]:
    with closing(stream):
        return list(stream.epoch(epoch, start_step=start_step))


def assert_same(a: Batch, b: Batch) -> None:
    for name, value in vars(a).items():
        assert torch.equal(value, getattr(b, name)), name


@pytest.mark.parametrize(("loaders", "micro"), [(1, 8), (2, 4), (3, 1), (5, 2)])
def test_batches_do_not_depend_on_loaders(shards: ShardSet, loaders: int, micro: int) -> None:
    alone = epoch_of(stream_of(shards, micro=micro))
    shared = epoch_of(stream_of(shards, micro=micro, loaders=loaders))
    assert len(alone) == len(shared) == N // 8 * 8 // micro
    for a, b in zip(alone, shared, strict=True):
        assert_same(a, b)


def test_two_ranks_see_what_one_sees(shards: ShardSet) -> None:
    """The union of the ranks' samples of every step, crops and augmentation included."""
    whole = epoch_of(stream_of(shards, micro=8))
    parts = [epoch_of(stream_of(shards, rank=r, world=2, micro=2)) for r in range(2)]
    for step, batch in enumerate(whole):
        pieces = [part for rank in parts for part in rank[2 * step : 2 * step + 2]]
        rows = torch.cat([p.row for p in pieces])
        for name, value in vars(batch).items():
            joined = torch.cat([getattr(p, name) for p in pieces])
            assert torch.equal(joined[rows.argsort()], value[batch.row.argsort()]), name


def test_start_step_continues(shards: ShardSet) -> None:
    whole = epoch_of(stream_of(shards))
    rest = epoch_of(stream_of(shards, loaders=2), start_step=3)
    assert len(rest) == len(whole) - 2 * 3
    for a, b in zip(whole[6:], rest, strict=True):
        assert_same(a, b)


def test_the_same_processes_serve_every_epoch_and_an_epoch_may_be_left(shards: ShardSet) -> None:
    with closing(stream_of(shards, loaders=2)) as stream:
        assert (stream.sampler.steps, stream.sampler.accumulation) == (5, 2)
        unfinished = stream.epoch(0)
        assert isinstance(unfinished, Generator)
        next(unfinished)
        unfinished.close()
        again = list(stream.epoch(1))
    for a, b in zip(epoch_of(stream_of(shards)), again, strict=True):
        assert_same(a, b)


def test_a_batch_is_the_callers_to_keep(shards: ShardSet) -> None:
    """Batches may lie in memory that loaders write to; never while somebody holds a part of one."""
    expected = [batch.image for batch in epoch_of(stream_of(shards))]
    with closing(stream_of(shards, loaders=1)) as stream:
        kept = []
        for epoch in (1, 1, 1):
            for batch in stream.epoch(epoch):
                kept.append(batch.image[1:])  # a view alone keeps them
                del batch
        again = [batch.image.clone() for batch in stream.epoch(1)]
    for a, b in zip(expected * 3, kept, strict=True):
        assert torch.equal(a[1:], b)
    for a, b in zip(expected, again, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("loaders", [0, 2])
def test_cached_crops_are_the_same_and_are_not_read_again(shards: ShardSet, loaders: int, tmp_path: Path) -> None:
    copy = copied(shards, tmp_path)
    with closing(stream_of(copy, loaders=loaders, cache=64)) as stream:
        for epoch in range(4):
            for _ in stream.epoch(epoch):
                pass
        for name in copy.shard_names:
            path = Path(copy.uri) / name
            path.write_bytes(bytes(path.stat().st_size))
        cached = list(stream.epoch(4))
    for a, b in zip(epoch_of(stream_of(shards), 4), cached, strict=True):
        assert_same(a, b)


def copied(shards: ShardSet, folder: Path) -> ShardSet:
    for name in shards.shard_names:
        (folder / name).write_bytes((Path(shards.uri) / name).read_bytes())
    return dataclasses.replace(shards, uri=str(folder))


def spoil(shards: ShardSet, row: int, change: Callable[[bytearray], None]) -> None:
    path = Path(shards.uri) / shards.shard_names[shards.shard[row]]
    data = bytearray(path.read_bytes())
    image = data[shards.offset[row] : shards.offset[row] + shards.size[row]]
    change(image)
    data[shards.offset[row] : shards.offset[row] + shards.size[row]] = image
    path.write_bytes(data)


def cut(image: bytearray) -> None:
    image[len(image) // 2 :] = bytes(len(image) - len(image) // 2)


def other(image: bytearray) -> None:
    image[:4] = b"GIF8"


@pytest.mark.parametrize("loaders", [0, 2])
@pytest.mark.parametrize("change", [cut, other])
def test_a_bad_sample_is_named(
    shards: ShardSet, tmp_path: Path, loaders: int, change: Callable[[bytearray], None]
) -> None:
    copy = copied(shards, tmp_path)
    plans = stream_of(copy)
    spoil(copy, 20, change)
    where = rf"{copy.shard_names[copy.shard[20]]} key={copy.key[20]}: "
    epoch = next(e for e in range(9) if 20 not in plans.sampler.plan(e).dropped)
    with pytest.raises(DataError, match=where):
        epoch_of(stream_of(copy, loaders=loaders), epoch)


def test_a_cut_shard_and_a_wrong_size(shards: ShardSet, tmp_path: Path) -> None:
    copy = copied(shards, tmp_path)
    last = Path(copy.uri) / copy.shard_names[-1]
    last.write_bytes(last.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"of \d+ bytes, the shard is cut"):
        list(eval_stream(copy, rank=0, world=1, batch=8, input_hw=HW, loaders=0))
    last.unlink()
    with pytest.raises(DataError, match="the shard is missing"):
        list(eval_stream(copy, rank=0, world=1, batch=8, input_hw=HW, loaders=0))
    grown = dataclasses.replace(shards, stored_wh=shards.stored_wh + 1)
    with pytest.raises(DataError, match="the index says"):
        list(eval_stream(grown, rank=0, world=1, batch=8, input_hw=HW, loaders=0))


def test_a_killed_loader_is_an_error_and_not_a_hang(shards: ShardSet) -> None:
    with closing(stream_of(shards, loaders=2, micro=1)) as stream:
        batches = stream.epoch(0)
        next(batches)
        process = loader_workers()[1]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match=r"loader process 1 .* died with exit code -9"):
            list(batches)


def test_loaders_work_on_after_a_signal_to_the_whole_group(shards: ShardSet) -> None:
    """The run ends after the step under way, which needs its crops."""
    with closing(stream_of(shards, loaders=2, micro=1)) as stream:
        batches = stream.epoch(0)
        next(batches)
        for process in loader_workers():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGINT)
        assert len(list(batches)) > 4


def test_loaders_end_with_the_stream(shards: ShardSet) -> None:
    stream = stream_of(shards, loaders=2)
    processes = loader_workers()
    assert len(processes) == 2
    assert all(process.is_alive() for process in processes)
    del stream
    assert [process.exitcode for process in processes] == [-9, -9]


def test_loaders_do_not_outlive_a_killed_trainer(shards: ShardSet) -> None:
    here, there = os.pipe()
    trainer = os.fork()
    if trainer == 0:
        with closing(stream_of(shards, loaders=2)):
            os.write(there, b" ".join(str(p.pid).encode() for p in loader_workers()))
            time.sleep(60)
        os._exit(0)
    pids = [int(word) for word in os.read(here, 100).split()]
    os.kill(trainer, signal.SIGKILL)
    os.waitpid(trainer, 0)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("loaders", [0, 2])
def test_evaluation_batches(shards: ShardSet, loaders: int) -> None:
    parts = []
    for rank in range(2):
        with closing(eval_stream(shards, rank=rank, world=2, batch=6, input_hw=HW, loaders=loaders)) as stream:
            parts.append(list(stream))
            assert len(stream) == len(parts[-1]) == 4
    rows = np.sort(torch.cat([b.row for part in parts for b in part]).numpy())
    np.testing.assert_array_equal(rows[rows >= 0], np.arange(N))
    padding = parts[1][-1]
    assert (padding.row[-3:] == -1).all()
    assert (padding.instance[-3:] == -1).all()
    assert (padding.image_id[-3:] == -1).all()
    assert not padding.image[-3:].any()
    assert not padding.labelled[-3:].any()
    assert padding.image[0].any()
    batch = parts[0][0]
    for i, row in enumerate(batch.row.tolist()):
        v = shards.keypoints[row, :, 2]
        np.testing.assert_array_equal(batch.labelled[i], v > 0)
        np.testing.assert_array_equal(batch.visible[i], v == 2)
        back = transform(batch.to_photo[i].double().numpy(), batch.joints[i].double().numpy())
        np.testing.assert_allclose(back[v > 0], shards.keypoints[row, v > 0, :2], atol=1e-3)


def test_chosen_rows(shards: ShardSet) -> None:
    wanted = np.array([7, 3, 5, 2, 11, 0, 1, 4, 9])
    stream = eval_stream(shards, rank=0, world=1, batch=8, input_hw=HW, loaders=0, rows=wanted)
    rows = torch.cat([b.row for b in stream])
    assert rows[rows >= 0].tolist() == wanted.tolist()


def test_a_crop_equals_the_warp_of_the_whole_photo(shards: ShardSet, annotations: Annotations, photos: Path) -> None:
    """Windows have enough margin for every augmentation, and the mapping into them is right."""
    by_id = {p.id: p for p in annotations.instances}
    for batch in epoch_of(stream_of(shards)):
        for i in range(len(batch.row)):
            assert int(batch.image_id[i]) == by_id[int(batch.instance[i])].image_id
            photo = cv2.imread(str(photos / by_id[int(batch.instance[i])].file))[..., ::-1]
            sampling = batch.to_photo[i].double().numpy()
            whole = cv2.warpAffine(
                np.ascontiguousarray(photo), sampling, HW[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            )
            difference = np.abs(whole.astype(int) - batch.image[i].numpy())
            assert difference.mean() < 1  # JPEG; half a pixel off would be 5
            assert np.quantile(difference, 0.999) < 12
            joints = transform(invert(sampling), by_id[int(batch.instance[i])].keypoints[:, :2])
            distance = np.linalg.norm(joints[None] - batch.joints[i].numpy()[:, None], axis=-1).min(1)
            assert distance[batch.labelled[i].numpy()].max() < 1e-2


def test_whole_photos_as_a_source(shards: ShardSet, annotations: Annotations, photos: Path) -> None:
    """Boxes on photos give what shards of the same people give."""
    order = [next(p for p in annotations.instances if p.id == i) for i in shards.instance.tolist()]
    order.sort(key=lambda p: p.id)
    source = photo_source(str(photos), order, skeleton=annotations.skeleton)
    order.sort(key=lambda p: (p.image_id, p.id))
    for loaders in (0, 2):
        with closing(eval_stream(source, rank=0, world=1, batch=8, input_hw=HW, loaders=loaders)) as stream:
            images = torch.cat([b.image for b in stream])[:N]
        stored = list(eval_stream(shards, rank=0, world=1, batch=8, input_hw=HW, loaders=0))
        by_id = dict(zip(torch.cat([b.instance for b in stored]).tolist(), torch.cat([b.image for b in stored]),
                         strict=True))  # fmt: skip
        for person, image in zip(order, images, strict=True):
            assert (image.int() - by_id[person.id].int()).abs().float().mean() < 1
    with pytest.raises(DataError, match="no such image"):
        list(eval_stream(dataclasses.replace(source, files=("none.jpg",) * N), rank=0, world=1, batch=8, input_hw=HW,
                        loaders=0))  # fmt: skip


def test_refusals_come_before_processes(shards: ShardSet) -> None:
    with pytest.raises(ConfigError, match=r"data\.streams=3"):
        stream_of(shards, streams=3)
    with pytest.raises(DataError, match="less than one batch"):
        train_stream(
            shards, seed=0, batch=64, streams=0, rank=0, world=1, micro_batch=8, input_hw=HW, augment=AugmentConfig(),
            loaders=1,
        )  # fmt: skip


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a",
                        "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    import boto3

    boto3.client("s3").create_bucket(Bucket="people")
    yield "s3://people/set"
    server.stop()


def held() -> int:
    """Bytes that finished reads of this process still hold."""
    gc.collect()
    done = [one for one in gc.get_objects() if type(one) is Future and one.done() and one.exception() is None]
    return sum(len(one.result()) for one in done if isinstance(one.result(), bytes))


@pytest.mark.parametrize("loaders", [0, 2])
def test_shards_on_s3(shards: ShardSet, bucket: str, loaders: int) -> None:
    """Ranged reads of blocks give the same batches, and a loader holds nothing once all is used."""
    for name in shards.shard_names:
        storage.write(storage.join(bucket, name), (Path(shards.uri) / name).read_bytes())
    remote = dataclasses.replace(shards, uri=bucket)
    for a, b in zip(epoch_of(stream_of(shards)), epoch_of(stream_of(remote, loaders=loaders)), strict=True):
        assert_same(a, b)
    stream = stream_of(remote)
    for _ in stream.epoch(0):
        pass
    assert not held()
    local = eval_stream(shards, rank=0, world=1, batch=8, input_hw=HW, loaders=0)
    with closing(eval_stream(remote, rank=0, world=1, batch=8, input_hw=HW, loaders=loaders)) as evaluation:
        for a, b in zip(local, evaluation, strict=True):
            assert_same(a, b)
    wrong = dataclasses.replace(remote, sha256=np.zeros((N, 32), np.uint8))
    with pytest.raises(DataError, match="sha256 differs"):
        epoch_of(stream_of(wrong, loaders=loaders))
