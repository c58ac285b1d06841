"""shards/build.py, verify.py and view.py as a user types them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icon_dist import storage
from icon_dist.shards.bytes_check import members
from icon_dist.shards.contact_sheet import tile
from icon_dist.shards.shard_set import open_shards
from tests.support.builds import PEOPLE, SOME, call, digests, lsp, packed_some, run


@pytest.fixture(scope="module")
def some(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_some(shared, tmp_path_factory.mktemp("build"))


def test_bytes_do_not_depend_on_processes(some: Path, shared: Path, tmp_path: Path) -> None:
    result = call("build.py", *lsp(shared, "two", *SOME, "--jobs", 2), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "two") == digests(some)


def test_complete_and_other_settings(some: Path, shared: Path) -> None:
    before = digests(some)
    again = call("build.py", *lsp(shared, some, *SOME, "--jobs", 1), cwd=some.parent)
    assert again.returncode == 0
    assert "packed" not in again.stderr
    assert "already complete" in again.stdout
    other = call("build.py", *lsp(shared, some, *SOME, "--max-input", "none"), cwd=some.parent)
    assert other.returncode == 2
    assert "holds shards of another build (settings differ)" in other.stderr
    assert other.stderr.count("\n") == 1
    assert digests(some) == before


def test_webdataset_reads_them(some: Path, tmp_path: Path) -> None:
    """In a process of its own: WDS_SECURE is read at import, and its warnings are not ours."""
    code = """
import glob, hashlib, json, sys
import webdataset as wds
found = {}
for sample in wds.WebDataset(sorted(glob.glob(sys.argv[1] + "/*.tar")), shardshuffle=False):
    assert set(sample) == {"__key__", "__url__", "__local_path__", "jpg", "json"} - ({"__local_path__"} - set(sample))
    assert json.loads(sample["json"])["id"] == int(sample["__key__"])
    found[sample["__key__"]] = hashlib.sha256(sample["jpg"]).hexdigest()
print(json.dumps(found))
"""
    environment = {**os.environ, "WDS_SECURE": "1"}
    command = [sys.executable, "-c", code, str(some)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    shards = open_shards(str(some))
    hashes = [digest.tobytes().hex() for digest in shards.sha256]
    assert list(json.loads(result.stdout).items()) == list(zip(shards.key, hashes, strict=True))


def test_s3_holds_the_same_bytes(some: Path, shared: Path, s3: str, tmp_path: Path) -> None:
    first = run("build.py", *lsp(shared, f"{s3}/out", *SOME, "--jobs", 2), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    names = storage.listing(f"{s3}/out")
    read = {name: hashlib.sha256(storage.read(f"{s3}/out/{name}")).hexdigest() for name in names}
    assert read == digests(some)
    again = call("build.py", *lsp(shared, f"{s3}/out", *SOME), cwd=tmp_path)
    assert "already complete" in again.stdout
    assert len(open_shards(f"{s3}/out")) == PEOPLE
    assert not list(tmp_path.iterdir())


def test_verify(some: Path, tmp_path: Path) -> None:
    sound = call("verify.py", some, cwd=tmp_path)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert f"sound, every byte of {PEOPLE} people" in sound.stdout
    assert "left_knee" in sound.stdout
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(some), str(copy)], check=True)
    raw = bytearray((copy / "shard-00003.tar").read_bytes())
    raw[700] ^= 1
    (copy / "shard-00003.tar").write_bytes(raw)
    damaged = call("verify.py", copy, cwd=tmp_path)
    assert damaged.returncode == 3
    assert "FOUND shard-00003.tar: sha256 differs from manifest.json" in damaged.stdout
    assert damaged.stderr.count("\n") == 1
    nothing = call("verify.py", "none", cwd=tmp_path)
    assert nothing.returncode == 3
    assert nothing.stdout == ""
    assert "build them: icon-dist shards build" in nothing.stderr
    assert nothing.stderr.count("\n") == 1


def test_verify_finds_exchanged_sides(shared: Path, tmp_path: Path) -> None:
    document = json.loads((shared / "lsp" / "lspet_full14.json").read_text())
    for annotation in document["annotations"][:200]:
        k = np.reshape(annotation["keypoints"], (14, 3))
        annotation["keypoints"] = k[[0, 4, 2, 3, 1, *range(5, 14)]].ravel().tolist()  # the knees
    (tmp_path / "knees.json").write_text(json.dumps(document))
    arguments = ["custom", "--skeleton", "lsp", "--annotations", "knees.json", "--images", shared / "lsp" / "images"]
    assert call("build.py", *arguments, "--out", "out", "--limit", 200, "--jobs", 1, cwd=tmp_path).returncode == 0
    result = call("verify.py", "out", cwd=tmp_path)
    assert result.returncode == 3
    found = [line for line in result.stdout.splitlines() if line.startswith("FOUND")]
    assert len(found) == 2
    assert all("knee" in line and "left and right look exchanged" in line for line in found)


def test_look(some: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    result = call("view.py", some, "-o", "page.png", "--count", 6, "--columns", 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    page = cv2.imread(str(tmp_path / "page.png"))
    assert page.shape[1] > page.shape[0] * 0.8
    assert page.std() > 20


def people_in(file: Path) -> int:
    document = json.loads(file.read_text())
    if isinstance(document, list):
        return sum(any(person["joints_vis"]) for person in document)
    return sum(not a["iscrowd"] and any(a["keypoints"][2::3]) for a in document["annotations"])


@pytest.mark.parametrize(
    ("name", "annotations", "parts"),
    [
        ("mpii", ["mpii/annotations.json"], set()),
        ("crowdpose", ["crowdpose/annotations.json"], set()),
        ("coco", ["coco/four/person_keypoints.json", "coco/mini/person_keypoints.json"], {"four", "mini"}),
    ],
)
def test_other_sets(shared: Path, tmp_path: Path, name: str, annotations: list[str], parts: set[str]) -> None:
    files = [part for file in annotations for part in ("--annotations", shared / file)]
    folders = [part for file in annotations for part in ("--images", (shared / file).parent / "images")]
    result = call("build.py", name, *files, *folders, "--out", "out", "--jobs", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert call("verify.py", "out", cwd=tmp_path).returncode == 0
    shards = open_shards(str(tmp_path / "out"))
    assert shards.manifest["dataset"] == shards.skeleton.name == name
    assert len(shards) == sum(people_in(shared / file) for file in annotations)
    assert {str(Path(person["file"]).parent.parent) for person in texts(tmp_path / "out")} == (parts or {"."})


def texts(folder: Path) -> list[dict[str, str]]:
    shards = open_shards(str(folder))
    raw = [data for name in shards.shard_names for _, _, data in members((folder / name).read_bytes())]
    return [json.loads(data) for data in raw if data[:1] == b"{"]


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (["--max-input", "384"], 2, "--max-input=384: expected HEIGHTxWIDTH"),
        (["--images", "a", "--images", "b"], 2, "--images: 3 folders for 1 annotation files"),
        (["--out", "gs://bucket/x"], 2, "'gs:' is not supported"),
        (["--boxes", "none.json"], 3, "none.json: no such file"),
        (["--annotations", "none.json"], 3, "none.json"),
        (["--headboxes", "x.mat"], 2, "has no use for headboxes=x.mat"),
    ],
)
def test_bad_command_lines_write_nothing(shared: Path, tmp_path: Path, change: list[str], code: int, text: str) -> None:
    result = call("build.py", *lsp(shared, "out", *change), cwd=tmp_path)
    assert result.returncode == code
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_boxes_of_files_with_the_same_image_ids_are_refused(shared: Path, tmp_path: Path) -> None:
    four = shared / "coco" / "four"
    twice = ["--annotations", four / "person_keypoints.json", "--images", four / "images"] * 2
    built = call("build.py", "coco", *twice, "--out", "out", "--boxes", four / "detections.json", cwd=tmp_path)
    assert built.returncode == 2
    assert "several annotation files have the same image ids" in built.stderr
    assert not list(tmp_path.iterdir())


def test_a_bad_photo_stops_the_build_and_it_goes_on_when_mended(some: Path, shared: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [p["file_name"] for p in json.loads((shared / "lsp" / "lspet_full14.json").read_text())["images"]]
    for name in names:
        (photos / name).symlink_to(shared / "lsp" / "images" / name)
    whole = (photos / names[80]).read_bytes()
    (photos / names[80]).unlink()
    (photos / names[80]).write_bytes(whole[:3000])
    file = shared / "lsp" / "lspet_full14.json"
    arguments = ["custom", "--skeleton", "lsp", "--annotations", file, "--images", photos, "--out", "out", *SOME]
    result = call("build.py", *arguments, "--jobs", 2, cwd=tmp_path)
    assert result.returncode == 3
    assert f"{names[80]}: the JPEG is cut off" in result.stderr
    assert len([line for line in result.stderr.splitlines() if not line.startswith("checked ")]) == 1
    assert not (tmp_path / "out").exists()
    left = call("build.py", *arguments, "--jobs", 1, "--drop-invalid", cwd=tmp_path)
    assert left.stdout.startswith(f"out: {PEOPLE - 1} people"), left.stderr
    subprocess.run(["rm", "-r", str(tmp_path / "out")], check=True)
    (photos / names[80]).write_bytes(whole)
    assert call("build.py", *arguments, "--jobs", 1, cwd=tmp_path).returncode == 0
    assert digests(tmp_path / "out") == digests(some)


def test_turned_photos_are_asked_for_and_remembered(tmp_path: Path) -> None:
    """A photo that EXIF turns by 180 degrees: the crop is the upright picture with ``apply``, else the stored one."""
    x = np.linspace(0, 255, 96)
    stored = np.repeat(np.broadcast_to(x, (96, 96))[..., None], 3, 2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=95)
    box, keypoints = [20, 20, 60, 60], [30, 30, 2] * 14
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 3600, "keypoints": keypoints}
    photo = {"id": 1, "file_name": "a.jpg", "width": 96, "height": 96}
    document = {"images": [photo], "annotations": [person], "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "ann.json").write_text(json.dumps(document))
    arguments = ["custom", "--skeleton", "lsp", "--annotations", "ann.json", "--images", ".", "--jobs", 1, "--out"]
    asked = call("build.py", *arguments, "out", cwd=tmp_path)
    assert asked.returncode == 2
    assert "1 photo is turned by EXIF (the first: a.jpg); pass --exif apply" in asked.stderr
    assert not (tmp_path / "out").exists()
    for rule, darker in (("apply", slice(-20, None)), ("ignore", slice(20))):
        assert call("build.py", *arguments, rule, "--exif", rule, cwd=tmp_path).returncode == 0
        shards = open_shards(str(tmp_path / rule))
        assert shards.manifest["settings"]["photos"] == {"exif": rule, "turned": 1, "bits": 16}
        crop = tile(shards, 0).image
        assert crop[:, darker].mean() < 100 < crop.mean()
        done = {"apply": "applied", "ignore": "ignored"}[rule]
        said = call("verify.py", rule, cwd=tmp_path).stdout
        assert f"photos turned by EXIF: 1; EXIF was {done} when the set was built" in said
