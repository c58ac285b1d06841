"""Malicious files under every name that somebody may be talked into opening.

None runs, none is written outside its place, none fills the memory or reaches the terminal as it is; each is one line
and an exit code.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from icon_dist import storage
from icon_dist.shards.bytes_check import members
from tests.adversarial.hostile import weapons
from tests.adversarial.hostile.cell import SECRET, VICTIM, Cell, packed, stock
from tests.adversarial.hostile.prison import Outcome, run, traces

Prepare = Callable[[Cell], list[str]]
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
JPEG = bytes(cv2.imencode(".jpg", np.full((64, 64, 3), 90, np.uint8))[1])
DEEP = b"[" * 200_000


def put(place: Path, data: bytes) -> None:
    place.unlink(missing_ok=True)
    place.write_bytes(data)


def sealed(cell: Cell, name: str, data: bytes) -> None:
    """A checkpoint's file replaced, with a manifest that vouches for it."""
    put(cell.checkpoint / name, data)
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    cell.remanifest(lambda m: m["files"].update({name: facts}))


def link(place: Path, target: Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def with_member(cell: Cell, header: tarfile.TarInfo, data: bytes = b"x") -> list[str]:
    sound = [(weapons.member(name), data) for name, _, data in members(cell.photo)]
    weapons.vouch(cell.shards, "shard-00000.tar", weapons.tar(*sound, (header, data)))
    return cell.verify()


def crop(cell: Cell, image: bytes) -> None:
    """The first person's image replaced in tar and index, both vouched for."""
    old = cell.photo
    table = pq.read_table(cell.shards / "index.parquet")
    columns = table.to_pydict()
    rows = [i for i, number in enumerate(columns["shard"]) if number == 0]
    files = [(weapons.member(name), data) for name, _, data in members(old)]
    first = f"{columns['key'][rows[0]]}.jpg"
    weapons.vouch(
        cell.shards,
        "shard-00000.tar",
        tar := weapons.tar(*[(header, image if header.name == first else data) for header, data in files]),
    )
    placed = {name: (at, data) for name, at, data in members(tar)}
    for row in rows:
        at, data = placed[f"{columns['key'][row]}.jpg"]
        columns["offset"][row], columns["size"][row] = at, len(data)
        columns["sha256"][row] = hashlib.sha256(data).hexdigest()
    sink = io.BytesIO()
    pq.write_table(type(table).from_pydict(columns, schema=table.schema), sink)
    weapons.vouch(cell.shards, "index.parquet", sink.getvalue())


def then(*steps: object) -> Any:
    """The value of the last; what comes before has been done."""
    return steps[-1]


def long_texts(cell: Cell) -> list[str]:
    table = pq.read_table(cell.shards / "index.parquet")
    columns = table.to_pydict()
    columns["key"] = ["k" * (1 << 24)] * len(columns["key"])
    sink = io.BytesIO()
    pq.write_table(type(table).from_pydict(columns, schema=table.schema), sink, compression="zstd")
    weapons.vouch(cell.shards, "index.parquet", sink.getvalue())
    return cell.verify()


def bad_weights(cell: Cell, name: str, data: bytes) -> list[str]:
    return cell.train(f"model.pretrained={cell.file(name, data)}")


def bad_text(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Prepare:
    def prepare(cell: Cell) -> list[str]:
        cell.reweigh(change)
        return cell.evaluate()

    return prepare


def bad_manifest(change: Callable[[dict[str, Any]], object]) -> Prepare:
    def prepare(cell: Cell) -> list[str]:
        cell.remanifest(change)
        return cell.fetch()

    return prepare


def bad_shards(change: Callable[[dict[str, Any]], object]) -> Prepare:
    def prepare(cell: Cell) -> list[str]:
        cell.reshard(change)
        return cell.verify()

    return prepare


def name(value: str) -> Prepare:
    return lambda c: c.build({"file_name": value}, JPEG)


CASES: dict[str, tuple[Prepare, int, str]] = {
    # weights that somebody hands over
    "pickle as safetensors": (lambda c: c.evaluate(c.file("x.safetensors", weapons.code(c.canary))), 4, "is a pickle"),
    "pth to evaluate": (lambda c: c.evaluate(c.file("x.pth", weapons.torch_code(c.canary))), 4, "is a pickle"),
    "header of exabytes": (
        lambda c: c.evaluate(c.file("x.safetensors", weapons.safetensors_header(b"{}", size=2**62))),
        4,
        "not written by icon_dist.fetch",
    ),
    "header nested deeply": (
        lambda c: c.evaluate(c.file("x.safetensors", weapons.safetensors_header(DEEP))),
        4,
        "not written by icon_dist.fetch",
    ),
    "environment in its config": (
        bad_text(lambda _, m: m["config"]["run"].update(name="${oc.env:CANARY}")),
        4,
        "not understood here",
    ),
    "backbone is a module": (bad_text(lambda _, m: m["config"]["model"].update(backbone="os")), 4, "not one of"),
    "backbone is a path": (bad_text(lambda _, m: m["config"]["model"].update(backbone="../../os")), 4, "not one of"),
    "a million joints": (
        bad_text(lambda _, m: m["skeleton"].update(joints=[f"j{i}" for i in range(10**6)])),
        4,
        "at most 1000",
    ),
    "joint names for the terminal": (
        bad_text(lambda _, m: m["skeleton"]["joints"].__setitem__(0, ESCAPE)),
        4,
        "printable names|no joint",
    ),
    "input of a terapixel": (
        bad_text(lambda _, m: m["config"]["data"].update(input="1000000x1000000")),
        4,
        "data.input",
    ),
    "tensors of another model": (
        bad_text(lambda t, _: t.update({"final_layer.weight": torch.zeros(3, 3)})),
        4,
        "final_layer.weight is",
    ),
    "metadata of other types": (bad_text(lambda _, m: m.update(config=[1])), 4, "does not say what it is"),
    "pretrained pth with code": (lambda c: bad_weights(c, "w.pth", weapons.torch_code(c.canary)), 4, "more than plain"),
    "pretrained of the old format": (
        lambda c: bad_weights(c, "w.pth.tar", weapons.torch_code(c.canary, legacy=True)),
        4,
        "more than plain tensors",
    ),
    "pretrained bare pickle": (lambda c: bad_weights(c, "w.pt", weapons.code(c.canary)), 4, "more than plain tensors"),
    "pretrained pickle as safetensors": (
        lambda c: bad_weights(c, "w.safetensors", weapons.code(c.canary)),
        4,
        "not a safetensors file",
    ),
    "pretrained pkl": (lambda c: bad_weights(c, "w.pkl", weapons.code(c.canary)), 4, "not one of"),
    "pretrained zip bomb": (lambda c: bad_weights(c, "w.pth", weapons.torch_bomb()), 4, "unpacks to more"),
    "pretrained names for the terminal": (
        lambda c: bad_weights(c, "w.safetensors", packed({ESCAPE: torch.zeros(1)})),
        4,
        "no name of a tensor",
    ),
    # runs that somebody hands over
    "manifest names a file above": (
        bad_manifest(lambda m: m["files"].update({"../../../outside/victim": m["files"]["model.safetensors"]})),
        4,
        "names files outside it",
    ),
    "manifest names an absolute file": (
        bad_manifest(lambda m: m["files"].update({"/etc/passwd": m["files"]["model.safetensors"]})),
        4,
        "names files outside it",
    ),
    "manifest with other types": (bad_manifest(lambda m: m.update(files=[])), 4, "of no checkpoint"),
    "manifest with a text as format": (bad_manifest(lambda m: m.update(format="1")), 4, "of no checkpoint"),
    "manifest nested deeply": (
        lambda c: then(put(c.checkpoint / "MANIFEST.json", DEEP), c.fetch()),
        4,
        "is not JSON",
    ),
    "sealed pickle in a run": (
        lambda c: then(sealed(c, "model.safetensors", weapons.code(c.canary)), c.fetch()),
        4,
        "no safetensors file",
    ),
    "checkpoint file is a link": (
        lambda c: then(link(c.checkpoint / "model.safetensors", c.victim), c.fetch()),
        4,
        "no intact checkpoint",
    ),
    "manifest is a link": (
        lambda c: then(link(c.checkpoint / "MANIFEST.json", c.victim), c.fetch()),
        4,
        "is not JSON",
    ),
    "checkpoint named for the terminal": (
        lambda c: then(c.checkpoint.rename(c.checkpoint.parent / f"step-00000007-{ESCAPE}"), c.fetch()),
        4,
        "none is left",
    ),
    "run named for the terminal": (lambda c: ["fetch", f"{c.folder}/{ESCAPE}", "-o", "x.safetensors"], 4, r"\\x1b"),
    # configs
    "command as shards": (lambda c: c.train(f"data.train=pipe:touch {c.canary}"), 2, "'pipe:' is not supported"),
    "web address as shards": (lambda c: c.train("data.train=http://127.0.0.1:9/x"), 2, "not supported"),
    "file of another host": (lambda c: c.train("data.train=file://host/x"), 2, "not supported"),
    "web address as weights": (lambda c: c.train("model.pretrained=https://x/w.pth"), 2, "not supported"),
    "command as run.dir": (lambda c: c.train(f"run.dir=pipe:touch {c.canary}"), 2, "not supported"),
    "run.name above": (lambda c: c.train("run.name=../../outside"), 2, "run.name"),
    "environment in a value": (lambda c: c.train("run.name=${oc.env:CANARY}"), 2, "not understood here"),
    "password in a URI": (lambda c: c.train("data.train=s3://AKIAX:hunter2/x@bucket/y"), 2, "no password may be in it"),
    "password of a web address": (lambda c: c.train("run.dir=https://me:hunter2@host/x"), 2, "no password may be"),
    "yaml makes objects": (
        lambda c: c.train_yaml(f"run: !!python/object/apply:os.system ['touch {c.canary}']\n"),
        2,
        "could not determine a constructor",
    ),
    "yaml reads the environment": (lambda c: c.train_yaml("run: {name: '${oc.env:CANARY}'}\n"), 2, "not understood"),
    "yaml extends the environment": (
        lambda c: c.train_yaml("extends: ${oc.env:CANARY}\noptim: {lr: 1.0}\n"),
        2,
        "extends=",
    ),
    "yaml section from the environment": (
        lambda c: c.train_yaml("optim: ${oc.env:CANARY}\n"),
        2,
        "a section, not a value",
    ),
    "yaml of a billion laughs": (lambda c: c.train_yaml(LAUGHS), 2, "alias"),
    "yaml extends another's file": (lambda c: c.train_yaml("extends: outside/victim\noptim: {lr: 1.0}\n"), 2, "victim"),
    # shards
    "shards named above": (
        bad_shards(lambda m: m.update(shards=["../outside/victim"], files={**m["files"], "../outside/victim": {}})),
        3,
        "not a shard manifest",
    ),
    "shard manifest nested deeply": (
        lambda c: then(put(c.shards / "manifest.json", DEEP), c.verify()),
        3,
        "is not JSON",
    ),
    "split named for the terminal": (bad_shards(lambda m: m.update(split=ESCAPE)), 3, "not a shard manifest"),
    "joints named for the terminal": (
        bad_shards(lambda m: m["skeleton"].update(name=ESCAPE)),
        3,
        r"\\x1b",
    ),
    "index is a pickle": (
        lambda c: then(weapons.vouch(c.shards, "index.parquet", weapons.code(c.canary)), c.verify()),
        3,
        "cannot be read|build the shards again",
    ),
    "index of equal rows": (
        lambda c: then(
            weapons.vouch(c.shards, "index.parquet", weapons.index_bomb(5_000_000)),
            c.reshard(lambda m: m.update(people=5_000_000)),
            c.verify(),
        ),
        3,
        "have room for|columns differ",
    ),
    "index of long texts": (long_texts, 3, "up to 100 letters|unpacks to more"),
    "truth of gigabytes": (
        lambda c: then(weapons.vouch(c.shards, "truth.json.gz", weapons.gzip_bomb(1024)), c.evaluate()),
        3,
        "unpacks to more than",
    ),
    "tar member above": (lambda c: with_member(c, weapons.member("../../outside/victim")), 3, "no plain KEY"),
    "tar member absolute": (lambda c: with_member(c, weapons.member("/etc/x.jpg")), 3, "no plain KEY"),
    "tar symbolic link": (
        lambda c: with_member(c, weapons.member("k.jpg", tarfile.SYMTYPE, "/etc/passwd")),
        3,
        "no plain",
    ),
    "tar hard link": (lambda c: with_member(c, weapons.member("k.jpg", tarfile.LNKTYPE, "../x")), 3, "no plain KEY"),
    "tar device": (lambda c: with_member(c, weapons.member("k.jpg", tarfile.CHRTYPE)), 3, "no plain KEY"),
    "tar pipe": (lambda c: with_member(c, weapons.member("k.jpg", tarfile.FIFOTYPE)), 3, "no plain KEY"),
    "tar member pickle": (lambda c: with_member(c, weapons.member("k.pkl"), weapons.code(c.canary)), 3, "no plain KEY"),
    "tar member for the terminal": (lambda c: with_member(c, weapons.member(f"{ESCAPE}.jpg")), 3, "no plain KEY"),
    "file beside them for the terminal": (lambda c: then(c.file(f"shards/{ESCAPE}", "x"), c.verify()), 3, r"\\x1b"),
    "shard is a link": (lambda c: then(link(c.shards / "shard-00000.tar", c.victim), c.verify()), 3, "bytes, manifest"),
    "crop of a terapixel": (lambda c: then(crop(c, weapons.png(10**6, 10**6)), c.verify()), 3, "more than 50000000 px"),
    "crop of a terapixel, predicted": (
        lambda c: then(crop(c, weapons.png(10**6, 10**6)), c.evaluate(None, "--limit", "0")),
        3,
        "more than 50000000 px",
    ),
    "crop is a pickle": (
        lambda c: then(crop(c, weapons.code(c.canary)), c.evaluate(None, "--limit", "0")),
        3,
        "not a JPEG or PNG",
    ),
    # forged sizes, and files that are none
    "index of a footer of gigabytes": (
        lambda c: then(weapons.vouch(c.shards, "index.parquet", b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1"), c.verify()),
        3,
        "footer",
    ),
    "index of a quintillion rows": (
        lambda c: then(
            weapons.vouch(
                c.shards, "index.parquet", weapons.parquet([weapons.node(b"r", 1), weapons.leaf(b"x")], rows=2**60)
            ),
            c.verify(),
        ),
        3,
        "rows",
    ),
    "index of a hundred thousand columns": (
        lambda c: then(
            weapons.vouch(
                c.shards,
                "index.parquet",
                weapons.parquet([weapons.node(b"r", 10**5), *[weapons.leaf(b"x")] * 10**5]),
            ),
            c.verify(),
        ),
        3,
        "which it cannot have|has 100001 columns",
    ),
    "index nested deeply": (
        lambda c: then(
            weapons.vouch(
                c.shards, "index.parquet", weapons.parquet([*[weapons.node(b"a", 1)] * 900, weapons.leaf(b"x")])
            ),
            c.verify(),
        ),
        3,
        "nested|cannot be read",
    ),
    "index never ends": (
        lambda c: then(link(c.shards / "index.parquet", Path("/dev/zero")), c.verify()),
        5,
        "is a device",
    ),
    "shard manifest of 120 MB": (
        lambda c: then(put(c.shards / "manifest.json", b"[" + b" " * (120 << 20)), c.verify()),
        3,
        "more than 64 MiB",
    ),
    "shard manifest of lists": (
        lambda c: then(put(c.shards / "manifest.json", b"[" + b"[]," * (20 << 20)), c.verify()),
        3,
        "larger than any manifest",
    ),
    "shard manifest is a pipe": (
        lambda c: then((c.shards / "manifest.json").unlink(), os.mkfifo(c.shards / "manifest.json"), c.verify()),
        5,
        "is a pipe",
    ),
    "bytes of a file as text": (
        bad_shards(lambda m: m["files"]["index.parquet"].update(bytes="9")),
        3,
        "not a shard manifest",
    ),
    "checkpoint manifest of 120 MB": (
        lambda c: then(put(c.checkpoint / "MANIFEST.json", b"{" + b" " * (120 << 20)), c.fetch()),
        4,
        "larger than 64 MiB",
    ),
    "checkpoint manifest is a device": (
        lambda c: then(link(c.checkpoint / "MANIFEST.json", Path("/dev/zero")), c.fetch()),
        4,
        "none is left",
    ),
    "checkpoint file never ends": (
        lambda c: then(link(c.checkpoint / "model.safetensors", Path("/dev/zero")), c.fetch()),
        5,
        "is a device",
    ),
    "checkpoint file is a pipe": (
        lambda c: then(
            (c.checkpoint / "model.safetensors").unlink(), os.mkfifo(c.checkpoint / "model.safetensors"), c.fetch()
        ),
        5,
        "is a pipe",
    ),
    "weights never end": (lambda c: c.evaluate("/dev/zero"), 5, "is a device"),
    "pretrained never ends": (lambda c: c.train("model.pretrained=/dev/zero"), 5, "is a device"),
    "pretrained header of exabytes": (
        lambda c: bad_weights(c, "w.safetensors", weapons.safetensors_header(b"{}", size=2**62)),
        4,
        "cut|not a safetensors",
    ),
    "pretrained says a tensor of exabytes": (
        lambda c: bad_weights(
            c,
            "w.safetensors",
            weapons.safetensors_header(b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}}'),
        ),
        4,
        "cut|more than plain",
    ),
    "pretrained class of its own": (
        lambda c: bad_weights(c, "w.pth", weapons.torch_class("mmengine.config.Config")),
        4,
        "mmengine.config.Config stands in the way",
    ),
    "epoch of a manifest as text": (bad_manifest(lambda m: m.update(epoch="x")), 4, "epoch='x': expected a number"),
    "metrics of a manifest as text": (bad_manifest(lambda m: m.update(metrics={"AP": "x"})), 4, "metrics="),
    "skeleton of a manifest": (bad_manifest(lambda m: m.update(skeleton=[1])), 4, "skeleton="),
    "a manifest of another step": (bad_manifest(lambda m: m.update(step=9)), 4, "is of step 9"),
    "step below zero": (bad_manifest(lambda m: m.update(step=-1)), 4, "is of step -1"),
    # secrets and names
    "signature in a URI": (lambda c: c.train("data.train=s3://b/x?X-Amz-Signature=hunter2"), 2, "no password may be"),
    "secret as a value": (lambda c: c.train("AWS_SECRET_ACCESS_KEY=hunter2"), 2, "no such key"),
    "password in a config file": (
        lambda c: c.train_yaml("extends: demo\nrun: {dir: 's3://AKIAX:hunter2@bucket/y'}\n"),
        2,
        "no password may be in it",
    ),
    "password in a submitted run": (
        lambda _: ["submit", "--dry-run", "--", "--cfg", "demo", "run.dir=s3://AKIAX:hunter2@bucket/y"],
        2,
        "no password may be in it",
    ),
    "password in the address": (
        lambda _: ["submit", "--dry-run", "--address", "http://me:hunter2@h", "--", "--cfg", "demo"],
        2,
        "--address",
    ),
    "password in a recipe": (
        lambda _: ["recipes", "--run", "T5.skcc", "--cfg", "demo", "--set", "run.dir=s3://AKIAX:hunter2@bucket/y"],
        2,
        "no password may be in it",
    ),
    "run of 300 letters": (lambda c: c.train(f"run.name={'x' * 300}"), 2, "at most 128"),
    "run of two lines": (lambda c: c.train("run.name=a\nb"), 2, "run.name=a b: expected"),
    "run of half a letter": (lambda c: c.train("run.name=\udcff"), 2, "run.name="),
    "results for the terminal": (
        lambda c: ["recipes", "--record", c.file("r.csv", f"recipe,{ESCAPE}\na,b\n")],
        2,
        "not a table of results",
    ),
    "set named for the terminal": (
        lambda _: ["synthesize", "--out", "out/x", "--people", "4", "--split", ESCAPE],
        2,
        r"--split='\\x1b",
    ),
    # annotations and photos
    "photo above": (name("../outside/victim"), 3, "leaves the images folder"),
    "photo absolute": (name("/etc/passwd"), 3, "leaves the images folder"),
    "photo of the home": (name("~/x.jpg"), 3, "leaves the images folder"),
    "photo on the web": (name("http://127.0.0.1:9/x.jpg"), 3, "is an address"),
    "photo by command": (name("pipe:touch canary"), 3, "not in .*images"),
    "photo named for the terminal": (name(f"{ESCAPE}.jpg"), 3, "control characters"),
    "photo is a link": (
        lambda c: then(c.file("images/x", ""), link(c.folder / "images/1.jpg", c.victim), c.build()),
        3,
        "not an image of a kind that is read",
    ),
    "png of a terapixel": (lambda c: c.build({}, weapons.png(10**5, 10**5)), 3, "more than 50000000 px"),
    "jpeg of gigapixels": (lambda c: c.build({}, weapons.jpeg_with_frame(JPEG, 65500, 65500)), 3, "more than 50000000"),
    "jpeg of two sizes": (
        lambda c: c.build({}, weapons.jpeg_of_two_sizes(JPEG, 30000, 30000)),
        3,
        "header of the JPEG",
    ),
    "annotations of gigabytes": (lambda c: c.build(text=weapons.gzip_bomb(1024)), 3, "unpacks to more than"),
    "annotations nested deeply": (lambda c: c.build(text=DEEP), 3, "nested too deeply"),
    "annotations with a huge number": (lambda c: c.build(text=b"[" + b"9" * 10**6 + b"]"), 3, "thousands of digits"),
    "boxes by command": (
        lambda c: c.evaluate(None, "--boxes", f"pipe:touch {c.canary}", "--images", "images"),
        2,
        "not supported",
    ),
    "boxes on the web": (lambda c: c.evaluate(None, "--boxes", "http://x/y", "--images", "images"), 2, "not supported"),
    "boxes nested deeply": (
        lambda c: c.evaluate(None, "--boxes", c.file("boxes.json", DEEP), "--images", "images"),
        3,
        "nested too deeply|not a json",
    ),
    "head boxes are a pickle": (
        lambda c: [*mpii(c), "--headboxes", c.file("gt_valid.mat", weapons.code(c.canary))],
        3,
        "not MPII's gt_valid.mat",
    ),
    "skeleton makes objects": (
        lambda c: skeleton(c, f"name: !!python/object/apply:os.system ['touch {c.canary}']\n"),
        3,
        "not YAML",
    ),
    "skeleton of a billion laughs": (lambda c: skeleton(c, LAUGHS), 3, "not YAML"),
    "an unfinished build nested deeply": (
        lambda c: then(c.file("out/packed/building.json", DEEP), c.build({}, JPEG)),
        2,
        "unfinished build",
    ),
}


def mpii(cell: Cell) -> list[str]:
    entry = {"image": "1.jpg", "center": [5, 6], "scale": 1.5, "joints": [[1, 2]] * 16, "joints_vis": [1] * 16}
    cell.file("images/1.jpg", JPEG)
    file = cell.file("valid.json", json.dumps([entry]))
    return ["build", "mpii", "--annotations", file, "--images", f"{cell.folder}/images", "--out", "out/x"]


def skeleton(cell: Cell, text: str) -> list[str]:
    line = cell.build({}, JPEG)
    line[1] = "custom"
    return [*line, "--skeleton", cell.file("skeleton.yaml", text)]


@pytest.fixture(scope="module")
def store(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    stock(people, folder)
    return folder


@pytest.fixture
def cell(store: Path, tmp_path: Path) -> Cell:
    return Cell(store, tmp_path / "cell")


def imprisoned(cell: Cell, line: list[str]) -> Outcome:
    """Run it; nothing but ``out`` may have changed, and neither secret nor escape may be said."""
    before = traces(cell.folder)
    secrets = {"CANARY": SECRET, "HOME": str(cell.folder), "OMP_NUM_THREADS": "1"}
    done = run(line[0], *line[1:], cell=cell.folder, environment=secrets)
    assert not cell.canary.exists(), "it ran"
    assert traces(cell.folder) == before, "something was written outside its place"
    said = done.out + done.err
    assert "\x1b" not in said
    for text in (SECRET, VICTIM, "hunter2"):
        assert text not in said
    return done


def test_the_stock_is_sound(cell: Cell) -> None:
    """Otherwise the cases would be refused for other reasons."""
    for line in (cell.evaluate(), cell.fetch(), cell.verify(), cell.train(), cell.build({}, JPEG)):
        done = imprisoned(cell, line)
        assert done.code == 0, (line, done)


@pytest.mark.parametrize("case", list(CASES))
def test_a_malicious_file(case: str, cell: Cell) -> None:
    prepare, code, text = CASES[case]
    line = prepare(cell)
    done = imprisoned(cell, line)
    assert "Traceback" not in done.err, done.err
    last = done.err.splitlines()[-1]
    assert done.code == code, done
    assert last.startswith("icon_dist: error: ")
    assert len(last) < 2100
    assert re.search(text, done.out + done.err), done
    assert sum("icon_dist: error" in one for one in done.err.splitlines()) == 1


def test_a_link_in_the_way_is_replaced_not_followed(cell: Cell) -> None:
    target = cell.folder / "out" / "got.safetensors"
    target.symlink_to(cell.victim)
    assert imprisoned(cell, cell.fetch()).code == 0
    assert not target.is_symlink()


def test_a_run_of_links_is_not_followed_when_it_is_deleted(cell: Cell) -> None:
    (cell.run / "deeper").symlink_to(cell.folder / "outside")
    storage.delete(str(cell.run), tree=True)
    assert cell.victim.read_text() == VICTIM
    assert not os.path.lexists(cell.run)
    shutil.rmtree(cell.folder)
