"""Whatever a file holds, a reader gives what the file means or one line that names it.

Seconds by default; ``FUZZ_EXAMPLES=5000 pytest tests/adversarial/fuzz`` looks longer.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import logging
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from icon_dist import config as configuration
from icon_dist import datasets
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.config.schema import leaves
from icon_dist.datasets import skeleton_to_dict
from icon_dist.datasets.detections import detected
from icon_dist.errors import IconError
from icon_dist.shards.bytes_check import members, verify
from icon_dist.shards.manifest import read_truth
from icon_dist.shards.shard_set import open_shards
from icon_dist.storage import hashed_json
from tests.adversarial.fuzz import spoil, world

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
SECONDS, KILOBYTES, CHARACTERS = 2.0, 200_000, 500

fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),  # explaining traces every line, which would be what is timed
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
seeds = st.integers(0, 2**32).map(random.Random)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()  # of what --drop-invalid drops
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers") / "world"
    world.make(folder)
    return folder


def outcome(read: Callable[[], Any], *names: object) -> Any:
    """What ``read`` returns, or None if it refused as it should: in one short line with one of ``names`` in it."""
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        found = read()
    except IconError as error:
        text, found = str(error), None
        assert "\n" not in text
        assert len(text) < CHARACTERS + len(str(names[0])), text
        assert any(str(name) in text for name in names), text
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < KILOBYTES
    return found


def spoilt(document: Any, rng: random.Random) -> bytes:
    if rng.random() < 0.6:
        return spoil.dumps(spoil.tree(document, rng, times=rng.choice((1, 1, 2, 4))))
    return spoil.text(spoil.dumps(document), rng)


def written(raw: bytes) -> Any:
    """What a json file says, as Python reads it: also one in gzip, or with a byte order mark."""
    return json.loads(gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw)


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("name", ["coco", "crowdpose"])
@fuzzed
@given(rng=seeds)
def test_coco_documents(name: str, drop: bool, tmp_path: Path, rng: random.Random) -> None:
    raw = spoilt({"coco": world.coco, "crowdpose": world.crowdpose}[name](), rng)
    (tmp_path / "a.json").write_bytes(raw)
    found = outcome(lambda: datasets.read(name, tmp_path / "a.json", drop_invalid=drop), tmp_path / "a.json")
    if found is None:
        return
    said = {}
    for one in written(raw)["annotations"]:
        if isinstance(one, dict) and isinstance(one.get("id"), int):
            said.setdefault(one["id"], []).append(one)
    for person in found.instances:
        assert np.isfinite(person.keypoints).all()
        assert np.isfinite(person.box).all()
        assert min(person.box[2:]) > 0
        assert any(
            one.get("image_id") == person.image_id
            and np.array_equal(np.float32(one["keypoints"]).reshape(-1, 3), person.keypoints)
            for one in said[person.id]
            if isinstance(one.get("keypoints"), list) and len(one["keypoints"]) == person.keypoints.size
        )
    if not drop:
        assert len(found.truth["annotations"]) == len(written(raw)["annotations"])


@pytest.mark.parametrize("drop", [False, True])
@fuzzed
@given(rng=seeds)
def test_mpii_documents(drop: bool, tmp_path: Path, rng: random.Random) -> None:
    raw = spoilt(world.mpii(), rng)
    (tmp_path / "a.json").write_bytes(raw)
    found = outcome(lambda: datasets.read("mpii", tmp_path / "a.json", drop_invalid=drop), tmp_path / "a.json")
    for person in found.instances if found else ():
        entry = written(raw)[person.id]
        assert person.file == entry["image"]
        np.testing.assert_array_equal(person.keypoints[:, :2], np.float32(np.float64(entry["joints"]) - 1))
        assert np.isfinite(person.box).all()


@fuzzed
@given(rng=seeds)
def test_detectors_boxes(root: Path, tmp_path: Path, rng: random.Random) -> None:
    whole = datasets.read("coco", root / "coco.json")
    raw = spoilt(world.boxes(), rng)
    (tmp_path / "a.json").write_bytes(raw)
    found = outcome(lambda: detected(whole, str(tmp_path / "a.json")), tmp_path / "a.json")
    for one in found.instances if found else ():
        entry = written(raw)[one.id]
        assert (one.image_id, list(one.box), one.score) == (entry["image_id"], entry["bbox"], entry["score"])


@fuzzed
@given(rng=seeds)
def test_skeletons(tmp_path: Path, rng: random.Random) -> None:
    fields = skeleton_to_dict(datasets.load_skeleton("lsp"))
    text = yaml.safe_dump(fields).encode()
    (tmp_path / "a.yaml").write_bytes(raw := spoil.text(text, rng) if rng.random() < 0.5 else spoilt(fields, rng))
    found = outcome(lambda: datasets.load_skeleton(tmp_path / "a.yaml"), tmp_path / "a.yaml")
    if found is not None:
        assert skeleton_to_dict(found) == yaml.safe_load(raw)


def same(value: Any, said: Any) -> bool:
    """``said`` in a YAML file is ``value`` in the config: lists are tuples, numbers may be written in several ways."""
    if isinstance(value, tuple):
        return isinstance(said, list) and len(value) == len(said) and all(map(same, value, said))
    if isinstance(value, bool):
        return str(said).lower() in (
            {"true", "yes", "on", "1", "y", "t"} if value else {"false", "no", "off", "0", "n", "f"}
        )
    return value == (type(value)(said) if isinstance(value, int | float) else said)


@fuzzed
@given(rng=seeds)
def test_configs(tmp_path: Path, rng: random.Random) -> None:
    text = yaml.safe_dump(world.CONFIG).encode()
    raw = spoil.text(text, rng) if rng.random() < 0.5 else spoilt(world.CONFIG, rng)
    (tmp_path / "a.yaml").write_bytes(raw)
    # after the merge, a rule names key and value: the key is in the file or on the command line
    keys = [f"{key}=" for key, _ in leaves(configuration.Config())]
    found = outcome(lambda: configuration.load(str(tmp_path / "a.yaml")), tmp_path / "a.yaml", *keys)
    if found is None:
        return
    for section, values in yaml.safe_load(raw).items():
        for key, said in values.items() if section != "extends" else ():
            if not isinstance(said, dict):
                assert same(configuration.get(found, f"{section}.{key}"), said), (section, key, said)


@fuzzed
@given(rng=seeds)
def test_overrides(rng: random.Random) -> None:
    key = rng.choice([key for key, _ in leaves(configuration.Config())])
    value = rng.choice(spoil.VALUES)
    plain = rng.choice((str, json.dumps))(value) if not isinstance(value, int) or abs(value) < 10**300 else "9" * 5000
    found = outcome(lambda: configuration.load("coco", [f"{key}={plain}"]), key)
    if (
        found is not None
        and plain == str(value)
        and isinstance(value, str)
        and isinstance(configuration.get(found, key), str)
    ):
        assert configuration.get(found, key) == value
    outcome(lambda: configuration.load("coco", {key: value}), key)


@fuzzed
@given(rng=seeds)
def test_tars(root: Path, rng: random.Random) -> None:
    raw = (root / "shards" / "shard-00000.tar").read_bytes()
    bad = spoil.data(raw, rng)
    before = list(members(raw))
    after: list[Any] = []
    try:
        after.extend(members(bad))
    except IconError:
        return
    # nothing is lost without a word: what changed is in the bytes of a member, where its hash tells
    assert [(name, offset, len(data)) for name, offset, data in after] == [(n, o, len(d)) for n, o, d in before] or (
        len(after) != len(before)
        or {data for _, _, data in after} != {data for _, _, data in before}
        or [name for name, _, _ in after] != [name for name, _, _ in before]
    )


@fuzzed
@given(rng=seeds)
def test_shard_sets(root: Path, tmp_path: Path, rng: random.Random) -> None:
    """Opened and verified as sound means: every column, every image and the ground truth are those that were built."""
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    folder = Path(shutil.copytree(root / "shards", tmp_path / "s"))
    file = rng.choice(sorted(folder.iterdir()))
    raw = file.read_bytes()
    textual = file.name == "manifest.json" and rng.random() < 0.8
    file.write_bytes(spoilt(json.loads(raw), rng) if textual else spoil.data(raw, rng))

    def whole() -> Any:
        shards = open_shards(str(folder), input_hw=(64, 64), max_zoom=1.3)
        return shards, read_truth(str(folder)), list(verify(shards))

    found = outcome(whole, folder)
    if found is None:
        return
    shards, truth, findings = found
    assert all("\n" not in line and len(line) < CHARACTERS for line in findings)
    if findings:
        return
    sound = root / "shards"
    good = open_shards(str(sound))
    for name in ("shard", "offset", "size", "instance", "image_id", "box", "keypoints", "window", "stored_wh"):
        np.testing.assert_array_equal(getattr(shards, name), getattr(good, name))
    assert (truth, shards.manifest) == (read_truth(str(sound)), good.manifest)
    for number, name in enumerate(good.shard_names):
        assert list(members((folder / name).read_bytes())) == list(members((root / "shards" / name).read_bytes())), (
            number
        )


@fuzzed
@given(rng=seeds)
def test_indexes_that_the_manifest_vouches_for(root: Path, tmp_path: Path, rng: random.Random) -> None:
    """A writer's mistake rather than a disk's: any value of any column, under a hash that holds."""
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    folder = Path(shutil.copytree(root / "shards", tmp_path / "s"))
    file = folder / "index.parquet"
    if rng.random() < 0.5:
        file.write_bytes(spoil.data(file.read_bytes(), rng))
    else:
        table = pq.read_table(file)
        columns = table.to_pydict()
        column, row = rng.choice(sorted(columns)), rng.randrange(len(table))
        old = columns[column][row]
        wild = rng.choice((None, -1, 0, 2**31 - 1, 10**6, float("nan"), float("inf"), 1e300))
        columns[column][row] = (
            [wild, *old[1:]] if isinstance(old, list) else "x" * 300 if isinstance(old, str) else wild
        )
        try:
            pq.write_table(type(table).from_pydict(columns, schema=table.schema), file)
        except (ValueError, TypeError, OverflowError):  # no such value in such a column
            return
    manifest = json.loads((folder / "manifest.json").read_text())
    raw = file.read_bytes()
    manifest["files"]["index.parquet"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (folder / "manifest.json").write_bytes(hashed_json.sealed(manifest))
    shards = outcome(lambda: open_shards(str(folder)), folder)
    if shards is not None:
        assert all("\n" not in line for line in verify(shards))


@fuzzed
@given(rng=seeds)
def test_checkpoints(root: Path, tmp_path: Path, rng: random.Random) -> None:
    """The newest intact one, whatever happened to the newest."""
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    run = Path(shutil.copytree(root / "run", tmp_path / "run"))
    newest = sorted((run / "checkpoints").iterdir())[-1]
    file = newest / rng.choice(("MANIFEST.json", "MANIFEST.json", "model.safetensors", "state.json"))
    raw = file.read_bytes()
    bad = spoilt(json.loads(raw), rng) if file.suffix == ".json" and rng.random() < 0.7 else spoil.data(raw, rng)
    file.write_bytes(bad)
    warned: list[str] = []
    found = outcome(lambda: checkpoint.find(str(run), warn=warned.append), run)
    assert found is not None, "one was not touched"
    assert found.step == (2 if bad == raw else 1)
    assert [newest.name in text and "\n" not in text for text in warned] == [True] * (bad != raw)


@fuzzed
@given(rng=seeds)
def test_weights_files(root: Path, rng: random.Random) -> None:
    raw = (root / "weights.safetensors").read_bytes()
    bad = spoil.data(raw, rng) if rng.random() < 0.8 else rng.choice(spoil.CONTENTS)
    found = outcome(lambda: stored_weights.decode(bad, name="here.safetensors"), "here.safetensors")
    assert found is None or dataclasses.replace(found, tensors={}) == dataclasses.replace(
        stored_weights.decode(raw, name="x"), tensors={}
    )
