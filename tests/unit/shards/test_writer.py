"""Building shards in process: who is in them, what a sample holds, and the same bytes whatever happens between."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from icon_dist import datasets
from icon_dist.datasets import joined
from icon_dist.datasets.detections import detected
from icon_dist.errors import ConfigError, DataError
from icon_dist.images.image import decode, plain_jpeg
from icon_dist.shards import tar
from icon_dist.shards.manifest import read_truth
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.tar import Job, Settings
from icon_dist.shards.writer import SetInfo, build, plan
from icon_dist.types import Annotations, Instance

SMALL = Settings(per_shard=16)


def digests(folder: Path) -> dict[str, str]:
    """Every file, hidden ones too."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.fixture(scope="session")
def mini(shared: Path) -> tuple[Annotations, str]:
    images = shared / "coco" / "mini" / "images"
    return datasets.read("coco", shared / "coco" / "mini" / "person_keypoints.json", images=images), str(images)


@pytest.fixture(scope="session")
def built(mini: tuple[Annotations, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "mini"
    build(*mini, str(out), SetInfo(dataset="coco", split="mini"), settings=SMALL)
    return out


def test_everybody_with_keypoints_is_there_once(built: Path, shared: Path) -> None:
    raw = json.loads((shared / "coco" / "mini" / "person_keypoints.json").read_text())
    wanted = {a["id"]: a for a in raw["annotations"] if not a["iscrowd"] and any(v > 0 for v in a["keypoints"][2::3])}
    shards = open_shards(str(built))
    assert sorted(shards.instance) == sorted(wanted)
    assert len(shards) == shards.manifest["people"] == 86
    assert shards.manifest["photos"] == len({a["image_id"] for a in wanted.values()})
    for row, person in enumerate(shards.instance):
        np.testing.assert_array_equal(shards.keypoints[row].ravel(), np.float32(wanted[person]["keypoints"]))
    assert sorted(a["id"] for a in read_truth(str(built))["annotations"]) == sorted(a["id"] for a in raw["annotations"])
    sizes = np.bincount(shards.shard)
    assert len(sizes) == 6
    assert sizes.max() - sizes.min() <= 1
    assert not (np.diff(shards.instance[shards.shard == 0]) > 0).all(), "not shuffled"


def test_the_index_finds_every_image_in_a_plain_tar(built: Path) -> None:
    shards = open_shards(str(built))
    for number, name in enumerate(shards.shard_names):
        rows = np.flatnonzero(shards.shard == number)
        raw = (built / name).read_bytes()
        with tarfile.open(built / name) as file:
            members = file.getmembers()
            assert [m.name for m in members] == [f"{shards.key[r]}.{s}" for r in rows for s in ("jpg", "json")]
            assert all((m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) == (0, 0, 0, "", "", 0o644) for m in members)
            for row in rows:
                image = raw[shards.offset[row] : shards.offset[row] + shards.size[row]]
                found = file.extractfile(f"{shards.key[row]}.jpg")
                assert found is not None
                assert image == found.read()
                assert hashlib.sha256(image).digest() == shards.sha256[row].tobytes()
                text = file.extractfile(f"{shards.key[row]}.json")
                assert text is not None
                fields = json.loads(text.read())
                assert fields["id"] == shards.instance[row]
                np.testing.assert_array_equal(np.float32(fields["keypoints"]), shards.keypoints[row])
                assert fields["window"] == shards.window[row].tolist()


def test_stored_pixels_are_the_photo_where_to_stored_says(built: Path, mini: tuple[Annotations, str]) -> None:
    """Each stored crop against cv2's warp of the whole photo by the same matrix."""
    shards = open_shards(str(built))
    of = {p.id: p for p in mini[0].instances}
    scaled = 0
    for row in range(0, len(shards), 5):
        where = shards.shard_names[shards.shard[row]]
        raw = (built / where).read_bytes()[shards.offset[row] : shards.offset[row] + shards.size[row]]
        stored = decode(raw, name=where)
        photo = decode((Path(mini[1]) / of[int(shards.instance[row])].file).read_bytes(), name="photo")
        matrix = shards.to_stored(np.array([row]))[0]
        scaled += bool(matrix[0, 0] < 1)
        size = (int(shards.stored_wh[row, 0]), int(shards.stored_wh[row, 1]))
        # a photo that is stored smaller is first blurred as INTER_AREA does
        soft = cv2.blur(photo, (3, 3)) if matrix[0, 0] < 0.6 else photo
        warped = cv2.warpAffine(soft, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        assert stored.shape == warped.shape
        assert cv2.PSNR(stored, warped) > 27
        shifted = cv2.warpAffine(soft, matrix + np.eye(2, 3, 2), size, borderMode=cv2.BORDER_REPLICATE)
        assert cv2.PSNR(stored, warped) > cv2.PSNR(stored, shifted)
    assert scaled, "no crop was scaled down, the case is not tested"


def test_again_is_byte_identical(built: Path, mini: tuple[Annotations, str], tmp_path: Path) -> None:
    build(*mini, str(tmp_path / "again"), SetInfo(dataset="coco", split="mini"), settings=SMALL)
    assert digests(tmp_path / "again") == digests(built)
    assert str(tmp_path.parent) not in (built / "manifest.json").read_text(), "a machine path"


def test_goes_on_after_it_was_stopped(built: Path, mini: tuple[Annotations, str], tmp_path: Path) -> None:
    """Stopped after two shards and in the third, between a tar and its part of the index."""
    out = tmp_path / "mini"
    packed: list[int] = []

    def stop_in_third(function: Callable[[Job], int], jobs: Sequence[Job]) -> Iterator[int]:
        for job in jobs[:2]:
            yield function(job)
        (out / "shard-00002.tar").write_bytes(b"of another attempt")
        (out / ".shard-00003.tar.0123abcd.partial").write_bytes(b"half")
        raise KeyboardInterrupt

    def count(function: Callable[[Job], int], jobs: Sequence[Job]) -> Iterator[int]:
        packed.extend(job.number for job in jobs)
        return map(function, jobs)

    def attempt(settings: Settings, map_jobs: Callable[..., Iterator[int]]) -> None:
        build(*mini, str(out), SetInfo(dataset="coco", split="mini"), settings=settings, map_jobs=map_jobs)

    with pytest.raises(KeyboardInterrupt):
        attempt(SMALL, stop_in_third)
    with pytest.raises(DataError, match="unfinished; run the same"):
        open_shards(str(out))
    with pytest.raises(ConfigError, match="unfinished build with other settings"):
        attempt(dataclasses.replace(SMALL, seed=1), map)
    attempt(SMALL, count)
    assert packed == [2, 3, 4, 5]
    assert digests(out) == digests(built)


def test_complete_is_left_alone_and_another_build_refused(
    built: Path, mini: tuple[Annotations, str], tmp_path: Path
) -> None:
    before = digests(built)
    calls: list[tuple[int, int]] = []
    times = {p.name: p.stat().st_mtime_ns for p in built.iterdir()}
    build(
        *mini,
        str(built),
        SetInfo(dataset="coco", split="mini"),
        settings=SMALL,
        progress=lambda done, n: calls.append((done, n)),
    )
    assert calls == [(86, 86)]
    with pytest.raises(ConfigError, match=r"another build \(settings differ\)"):
        build(*mini, str(built), SetInfo(dataset="coco", split="mini"))
    fewer = joined.first(mini[0], 5)
    with pytest.raises(ConfigError, match=r"another build \(source differ\)"):
        build(fewer, mini[1], str(built), SetInfo(dataset="coco", split="mini"), settings=SMALL)
    assert digests(built) == before
    assert {p.name: p.stat().st_mtime_ns for p in built.iterdir()} == times
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match=r"is not empty \(thesis.tex\)"):
        build(fewer, mini[1], str(tmp_path), SetInfo(dataset="coco", split="mini"))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def one(file: str, wh: tuple[int, int], *, person: int = 1) -> Instance:
    keypoints = np.zeros((17, 3), np.float32)
    keypoints[0] = 1, 1, 2
    return Instance(person, 1, file, wh, (0.0, 0.0, float(wh[0]), float(wh[1])), 1.0, keypoints)


def job(folder: Path, person: Instance) -> Job:
    skeleton = datasets.load_skeleton("coco")
    return Job(0, [person], skeleton, str(folder), str(folder), Settings(), "")


@pytest.mark.parametrize(("kept", "params"), [(True, []), (False, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])])
def test_a_whole_plain_jpeg_is_kept_as_it_is(tmp_path: Path, kept: bool, params: list[int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), noise, params)
    raw = (tmp_path / "a.jpg").read_bytes()
    data, table = tar.tar_and_index(job(tmp_path, one("a.jpg", (30, 40))))
    offset, size = table["offset"][0].as_py(), table["size"][0].as_py()
    assert (data[offset : offset + size] == raw) is kept is plain_jpeg(raw)


def test_exif_orientation_is_ignored_and_not_passed_on(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    raw = cv2.imencode(".jpg", noise)[1].tobytes()
    turned = b"Exif\0\0" + bytes.fromhex("4d4d002a00000008000101120003000000010006000000000000")
    (tmp_path / "a.jpg").write_bytes(raw[:2] + b"\xff\xe1" + (len(turned) + 2).to_bytes(2, "big") + turned + raw[2:])
    turned_pixels = cv2.imread(str(tmp_path / "a.jpg"))
    assert turned_pixels is not None
    assert turned_pixels.shape == (30, 40, 3), "the photo does not claim to be turned"
    data, table = tar.tar_and_index(job(tmp_path, one("a.jpg", (30, 40))))
    assert table["stored_wh"][0].as_py() == [30, 40]
    assert b"Exif" not in data


def test_bad_photos_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 100, 3), dtype=np.uint8)
    raw = cv2.imencode(".jpg", noise)[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "whole.jpg").write_bytes(raw)
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    for file, wh, text in [
        ("cut.jpg", (100, 200), r"cut\.jpg: the JPEG is cut off"),
        (
            "whole.jpg",
            (200, 100),
            r"whole\.jpg: is 100 x 200 px, annotated as 200 x 100; are width and height .* exchanged",
        ),
        (
            "whole.jpg",
            (50, 100),
            r"whole\.jpg: is 100 x 200 px, annotated as 50 x 100; give the photo that was labelled",
        ),
        ("page.jpg", (100, 200), r"page\.jpg: a web page or text, not an image"),
        ("none.jpg", (100, 200), r"none\.jpg: missing, the photo of person #1"),
    ]:
        with pytest.raises(DataError, match=text):
            tar.tar_and_index(job(tmp_path, one(file, wh)))


def test_grey_and_png_photos_become_color_jpegs(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
    for name in ("a.jpg", "a.png"):
        cv2.imwrite(str(tmp_path / name), gray)
        data, table = tar.tar_and_index(job(tmp_path, one(name, (30, 40))))
        offset, size = table["offset"][0].as_py(), table["size"][0].as_py()
        assert plain_jpeg(data[offset : offset + size])


def test_plan_spreads_everybody_once() -> None:
    everybody = [one("a.jpg", (30, 40), person=i) for i in range(103)]
    shards = plan(everybody, per_shard=10, seed=0)
    assert sorted(p.id for shard in shards for p in shard) == list(range(103))
    assert [len(shard) for shard in shards].count(10) == 4
    assert {len(shard) for shard in shards} == {9, 10}
    assert plan(everybody[::-1], per_shard=10, seed=0) == shards
    assert plan(everybody, per_shard=10, seed=1) != shards
    assert len(plan(everybody[:1], per_shard=10, seed=0)) == 1


def test_joined_files_whose_ids_clash(shared: Path) -> None:
    read = [
        datasets.read("custom", shared / "lsp" / f"{name}.json", skeleton="lsp")
        for name in ("lspet_full14", "lspet_partial")
    ]
    both = joined.join(read)
    assert len({p.id for p in both.instances}) == len(both.instances) == 10000
    files = {image["id"]: image["file_name"] for image in both.truth["images"]}
    assert len(files) == 10000
    assert all(files[p.image_id] == p.file for p in both.instances)
    boxes = {one["id"]: (one["image_id"], one["num_keypoints"]) for one in both.truth["annotations"]}
    assert all(boxes[p.id] == (p.image_id, (p.keypoints[:, 2] > 0).sum()) for p in both.instances)
    assert joined.join(read[:1]) == read[0]
    coco = datasets.read("coco", shared / "coco" / "mini" / "person_keypoints.json")
    with pytest.raises(DataError, match="skeletons lsp and coco differ"):
        joined.join([read[0], coco])


@pytest.mark.parametrize("first", [0, 1, 7])
def test_joined_files_whose_ids_begin_anywhere(mini: tuple[Annotations, str], first: int) -> None:
    some = joined.first(mini[0], 7)
    to_person = {one["id"]: n for n, one in enumerate(some.truth["annotations"], first)}
    to_photo = {image["id"]: n for n, image in enumerate(some.truth["images"], first)}
    people = [dataclasses.replace(p, id=to_person[p.id], image_id=to_photo[p.image_id]) for p in some.instances]
    boxes = [
        {**one, "id": to_person[one["id"]], "image_id": to_photo[one["image_id"]]} for one in some.truth["annotations"]
    ]
    photos = [{**image, "id": to_photo[image["id"]]} for image in some.truth["images"]]
    part = Annotations(some.skeleton, people, {"images": photos, "annotations": boxes})
    both = joined.join([part, joined.prefixed(part, "again")])
    files = {image["id"]: image["file_name"] for image in both.truth["images"]}
    assert len(files) == 2 * len(photos)
    assert len({p.id for p in both.instances}) == 2 * len(people)
    assert len({one["id"] for one in both.truth["annotations"]}) == 2 * len(boxes)
    assert all(files[p.image_id] == p.file for p in both.instances)
    assert f"image ids + {len(photos) + max(0, first - 1)} " in both.truth["notes"][-1]


def test_first_people_keep_a_consistent_truth(mini: tuple[Annotations, str]) -> None:
    some = joined.first(mini[0], 7)
    assert [p.id for p in some.instances] == [p.id for p in mini[0].instances][:7]
    assert {image["id"] for image in some.truth["images"]} == {p.image_id for p in some.instances}
    ids = {a["id"] for a in some.truth["annotations"]}
    assert {p.id for p in some.instances} <= ids
    assert not ids & {p.id for p in mini[0].instances[7:]}


def test_detector_boxes(shared: Path, tmp_path: Path) -> None:
    four = shared / "coco" / "four"
    whole = datasets.read("coco", four / "person_keypoints.json", images=four / "images")
    raw = json.loads((four / "detections.json").read_text())
    persons = [row for row, entry in enumerate(raw) if entry["category_id"] == 1]
    found = detected(whole, str(four / "detections.json"))
    manifest = build(
        found,
        str(four / "images"),
        str(tmp_path / "out"),
        SetInfo(dataset="coco", split="four", boxes="detections.json"),
    )
    shards = open_shards(str(tmp_path / "out"))
    assert manifest["boxes"] == "detections.json"
    assert sorted(shards.instance) == persons
    order = np.argsort(shards.instance)
    np.testing.assert_array_equal(shards.box[order], [raw[row]["bbox"] for row in persons])
    np.testing.assert_array_equal(shards.score[order], [raw[row]["score"] for row in persons])
    assert not shards.keypoints.any()
    assert read_truth(str(tmp_path / "out")) == json.loads(json.dumps(whole.truth))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<html>", "HTML or XML, not json"),
        ("[]", "expected a list of"),
        ('[{"image_id": 785, "bbox": [1, 2, 3], "score": 1}]', r"#0 bbox=.* not a box with a score"),
        ('[{"image_id": 785, "bbox": [1, 2, -3, 4], "score": 1}]', r"#0 bbox=.* not a box with a score"),
        ('[{"image_id": 785, "bbox": [1, 2, 3, NaN], "score": 1}]', r"#0 bbox=.* not a box with a score"),
        ('[{"image_id": 999, "bbox": [1, 2, 3, 4], "score": 1}]', r"#0 image_id=999: not in the annotations"),
    ],
)
def test_bad_detections_are_named(shared: Path, tmp_path: Path, content: str, text: str) -> None:
    whole = datasets.read("coco", shared / "coco" / "four" / "person_keypoints.json")
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(DataError, match=text):
        detected(whole, str(tmp_path / "boxes.json"))
