"""The catalogue of bad input, case by case, through the commands: exit code, one line, nothing left.

What each line says is tested where its reader is; the texts here are what tells a case from the others.
"""

from __future__ import annotations

import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icon_dist.checkpoints import manifest as manifests
from icon_dist.shards.bytes_check import members
from icon_dist.storage import hashed_json
from tests.adversarial.fuzz import attack, cases, world
from tests.adversarial.fuzz.cases import CHECKPOINT, CONFIG, DATA, OK, STORAGE, Case
from tests.adversarial.hostile import payload
from tests.support.s3 import refusing

Line = tuple[str, ...]  # a command and its arguments
Prepare = Callable[[Path], Line]
DRY = ("train", "--cfg", "./config.yaml", "--dry-run")
FETCH = ("fetch", "run", "-o", "new.safetensors")
VERIFY = ("verify", "shards")


def value(text: str) -> Prepare:
    return lambda _: (*DRY, text)


def config(content: bytes | Callable[[bytes], bytes]) -> Prepare:
    def prepare(root: Path) -> Line:
        file = root / "config.yaml"
        file.write_bytes(content(file.read_bytes()) if callable(content) else content)
        return DRY

    return prepare


def coco(change: bytes | Callable[[dict[str, Any]], object]) -> Prepare:
    def prepare(root: Path) -> Line:
        document = world.coco()
        if callable(change):
            change(document)
        (root / "coco.json").write_bytes(json.dumps(document).encode() if callable(change) else change)
        return ("build", *cases.build_line("coco"))

    return prepare


def person(**fields: Any) -> Prepare:
    return coco(lambda d: d["annotations"][7].update(fields))  # id 17


def joints(change: Callable[[list[Any]], object]) -> Prepare:
    return coco(lambda d: change(d["annotations"][7]["keypoints"]))


def shards(change: Callable[[Path], object], line: Line = VERIFY) -> Prepare:
    def prepare(root: Path) -> Line:
        change(root / "shards")
        return line

    return prepare


def manifest(change: Callable[[dict[str, Any]], object]) -> Prepare:
    def prepare(folder: Path) -> None:
        place = folder / "manifest.json"
        document = json.loads(place.read_text())
        change(document)
        place.write_bytes(hashed_json.sealed(document))

    return shards(prepare)


def tar(change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]) -> Prepare:
    """Another first shard, which the manifest vouches for."""

    def prepare(folder: Path) -> None:
        raw = (folder / "shard-00000.tar").read_bytes()
        files = [(payload.member(name), data) for name, _, data in members(raw)]
        change(files)
        payload.vouch(folder, "shard-00000.tar", payload.tar(*files))

    return shards(prepare)


def cut(share: float) -> Prepare:
    def prepare(folder: Path) -> None:
        place = folder / "shard-00001.tar"
        raw = place.read_bytes()
        place.write_bytes(raw[: int(share * len(raw))])

    return shards(prepare)


def header(folder: Path) -> None:
    place = folder / "shard-00000.tar"
    raw = bytearray(place.read_bytes())
    raw[148] ^= 1  # of the checksum
    payload.vouch(folder, place.name, bytes(raw))


def photo(content: bytes | Callable[[bytes], bytes]) -> Prepare:
    def prepare(root: Path) -> Line:
        file = root / "photos" / "2.jpg"
        file.write_bytes(content(file.read_bytes()) if callable(content) else content)
        return ("build", *cases.build_line("coco"))

    return prepare


def newest(change: Callable[[Path], object], line: Line = FETCH) -> Prepare:
    def prepare(root: Path) -> Line:
        change(root / "run" / "checkpoints" / "step-00000002-a")
        return line

    return prepare


def resealed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        place = folder / manifests.NAME
        document = json.loads(place.read_text())
        change(document)
        place.write_bytes(hashed_json.sealed(document))

    return prepare


def both(change: Callable[[Path], object]) -> Prepare:
    def prepare(root: Path) -> Line:
        for folder in (root / "run" / "checkpoints").iterdir():
            change(folder)
        return FETCH

    return prepare


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def other_joints(root: Path) -> Line:
    assert attack.run(Case("", "build", cases.build_line("lsp", out="lsp"), frozenset({OK}), "lsp"), root)[2] == []
    return ("evaluate", "weights.safetensors", "--shards", "lsp", "--loaders", "0")


def bare_pickle(root: Path) -> Line:
    (root / "weights.safetensors").write_bytes(pickle.dumps({"w": 1}))
    return ("evaluate", "weights.safetensors", "--shards", "shards", "--loaders", "0")


CASES: dict[str, tuple[Prepare, int, str]] = {
    # config
    "unknown key": (value("loss.tua=0.1"), CONFIG, "did you mean loss.tau?"),
    "tau 0": (value("loss.tau=0"), CONFIG, "loss.tau=0.0"),
    "tau nan": (value("loss.tau=nan"), CONFIG, "loss.tau=nan"),
    "no query": (value("loss.skcc.queries=0"), CONFIG, "loss.skcc.queries=0"),
    "all categories as negatives": (value("loss.skcc.negatives=17"), CONFIG, "expected at most 16"),
    "text for a number": (value("optim.lr=fast"), CONFIG, "'fast'"),
    "duplicate key": (config(lambda raw: raw + b"run: {name: two}\n"), CONFIG, "duplicate key run"),
    "empty config": (config(b""), CONFIG, "expected sections"),
    "config not UTF-8": (config(b"\xff\xfe\x00"), CONFIG, "not UTF-8"),
    "unknown preset": (lambda _: ("train", "--cfg", "cocoo", "--dry-run"), CONFIG, "did you mean coco?"),
    "streams that do not divide the batch": (value("data.streams=3"), CONFIG, "must divide optim.batch=4"),
    "ZeRO 4": (value("run.zero=4"), CONFIG, "stages 0, 1, 2 and 3"),
    "nobody labelled": (value("data.labelled=0"), CONFIG, "data.labelled=0.0: expected a share above 0"),
    "more than all labelled": (value("data.labelled=1.5"), CONFIG, "data.labelled=1.5"),
    "less than nobody labelled": (value("data.labelled=-0.1"), CONFIG, "data.labelled=-0.1"),
    "joints of other data": (value("data.dataset=mpii"), CONFIG, "were packed from coco"),
    # COCO json
    "empty file": (coco(b""), DATA, "empty file"),
    "HTML": (coco(b"<!DOCTYPE html><html>404</html>"), DATA, "HTML"),
    "truncated": (coco(json.dumps(world.coco()).encode()[:500]), DATA, "truncated, at line 1"),
    "list on top": (coco(b"[]"), DATA, "a list on top"),
    "missing section": (coco(lambda d: d.pop("images")), DATA, "images: missing"),
    "duplicate id": (person(id=16), DATA, "ann id=16 id=16: given twice"),
    "dangling id": (person(image_id=99), DATA, "ann id=17 image_id=99: no such image"),
    "50 values": (
        joints(lambda k: k.pop()),
        DATA,
        "coco.json#ann id=17 keypoints: 50 values, expected 51 (17 x [x,y,v]); fix the file or pass --drop-invalid",
    ),
    "strings": (joints(lambda k: k.__setitem__(0, "12")), DATA, "ann id=17 keypoints: '12' is not a number"),
    "NaN": (joints(lambda k: k.__setitem__(3, float("nan"))), DATA, "of left_eye"),
    "visibility 7": (joints(lambda k: k.__setitem__(5, 7)), DATA, "visibility 7 of left_eye"),
    "count mismatch": (person(num_keypoints=16), OK, "num_keypoints of 1 annotation is not the number of joints"),
    "bad box": (person(bbox=[1, 2, -3, 4]), DATA, "ann id=17 bbox="),
    "missing file": (lambda root: ((root / "coco.json").unlink(), coco_line())[-1], DATA, "coco.json: no such file"),
    "missing photo": (
        lambda root: ((root / "photos/2.jpg").unlink(), coco_line())[-1],
        DATA,
        "ann id=10 image '2.jpg': not in ",
    ),
    "traversal": (coco(lambda d: d["images"][1].update(file_name="../2.jpg")), DATA, "leaves the images folder"),
    # shards
    "no shards": (lambda _: ("verify", "photos"), DATA, "no shards here"),
    "a shard missing": (shards(lambda s: (s / "shard-00001.tar").unlink()), DATA, "shard-00001.tar: missing (1 of 2"),
    "an empty shard": (shards(lambda s: (s / "shard-00001.tar").write_bytes(b"")), DATA, "have room for|0 bytes"),
    **{f"cut at {share:.1%}": (cut(share), DATA, "is cut off|cut off|room for") for share in (0.001, 0.1, 0.5, 0.9)},
    "header checksum": (shards(header), DATA, "byte 0: not a tar header"),
    "another count": (manifest(lambda m: m.update(people=7)), DATA, "8 rows, but manifest.json counts 7"),
    "another sha256": (shards(lambda s: flip(s / "index.parquet")), DATA, "index.parquet: sha256 differs"),
    "a flipped digit": (
        shards(lambda s: (s / "manifest.json").write_text((s / "manifest.json").read_text().replace("0.026", "0.027"))),
        DATA,
        "was altered",
    ),
    "no index": (shards(lambda s: (s / "index.parquet").unlink(), DRY), DATA, "index.parquet: missing"),
    "no manifest": (shards(lambda s: (s / "manifest.json").unlink(), DRY), DATA, "manifest.json is missing"),
    "no truth": (shards(lambda s: (s / "truth.json.gz").unlink()), DATA, "truth.json.gz: missing"),
    "duplicate key in a shard": (tar(lambda files: files.extend(files[:2])), DATA, "occurs twice"),
    "unpaired member": (tar(lambda files: files.pop(1)), DATA, "expected one image and one json"),
    "forbidden member": (tar(lambda f: f.append((payload.member("a.pkl"), b""))), DATA, "no plain KEY"),
    "symlink": (tar(lambda f: f.append((payload.member("a.jpg", tarfile.SYMTYPE, "/x"), b""))), DATA, "no plain KEY"),
    "..": (tar(lambda f: f.append((payload.member("../a.jpg"), b""))), DATA, "no plain KEY"),
    "too large": (photo(lambda raw: raw + bytes(64 << 20)), DATA, "more than 67108864 bytes"),
    "not an image": (photo(b"GIF89a" * 9), DATA, "photos/2.jpg: a GIF"),
    "bomb": (photo(payload.png(10**4, 10**4)), DATA, "10000 x 10000 px, more than"),
    # checkpoints
    "no checkpoint": (lambda _: ("fetch", "nowhere", "-o", "new.safetensors"), CHECKPOINT, "no checkpoint is there"),
    "no manifest in any": (both(lambda c: (c / manifests.NAME).unlink()), CHECKPOINT, "none is left"),
    "bad sha in all": (both(lambda c: flip(c / "model.safetensors")), CHECKPOINT, "no intact checkpoint"),
    "one of them damaged": (newest(lambda c: flip(c / "model.safetensors")), OK, "skipped: model.safetensors has"),
    "newer format": (newest(resealed(lambda m: m.update(format=2))), CHECKPOINT, "format 2 is newer"),
    "other joints": (other_joints, CHECKPOINT, "predicts 17 joints of coco, lsp has 14 of lsp"),
    "other backbone": (
        newest(
            resealed(lambda m: m["config"]["model"].update(backbone="resnet50")),
            ("evaluate", "run", "--shards", "shards", "--loaders", "0"),
        ),
        CHECKPOINT,
        "such tensors",
    ),
    "bare pickle": (bare_pickle, CHECKPOINT, "is a pickle"),
}


def coco_line() -> Line:
    return ("build", *cases.build_line("coco"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("catalogue") / "world"
    world.make(root)
    return root


def ended(line: Line, code: int, root: Path) -> str:
    """What the command says; it must end as every bad input does."""
    writes = {"build": "out", "fetch": "new.safetensors"}.get(line[0], "")
    found, said, faults = attack.run(Case("", line[0], line[1:], frozenset({code}), writes), root)
    assert faults == [], said
    assert found == code
    return said


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, sound: Path, tmp_path: Path) -> None:
    prepare, code, texts = CASES[case]
    root = cases.copy(sound, tmp_path)
    said = ended(prepare(root), code, root)
    assert any(text in said for text in texts.split("|")), said


def test_storage_says_no_in_four_ways(s3: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = cases.copy(sound, tmp_path)
    said = {"bucket": ended(("fetch", "s3://absent-bucket/run", *FETCH[2:]), STORAGE, root)}
    for status, code in ((403, "AccessDenied"), (301, "PermanentRedirect")):
        with refusing(status, code, region="eu-west-1"):
            said[code] = ended(("fetch", s3, *FETCH[2:]), STORAGE, root)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    said["nobody"] = ended(("fetch", s3, *FETCH[2:]), STORAGE, root)
    expected = {
        "bucket": "bucket 'absent-bucket' does not exist",
        "AccessDenied": "access denied (403)",
        "PermanentRedirect": "another region; set AWS_REGION to eu-west-1",
        "nobody": "no AWS credentials",
    }
    assert {name: text in said[name] for name, text in expected.items()} == dict.fromkeys(expected, True), said
