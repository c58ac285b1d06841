"""All photos are looked at before the first write: who is left out, and what is done with turned and deep ones."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from icon_dist.datasets import load_skeleton
from icon_dist.errors import ConfigError, DataError
from icon_dist.images.photo import AS_STORED, Conversion, Exif
from icon_dist.shards.photo_survey import survey
from icon_dist.types import Annotations, Instance

WH = (40, 30)


def jpeg(orientation: int = 1, wh: tuple[int, int] = WH) -> bytes:
    sink, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", wh, (9, 99, 199)).save(sink, "JPEG", exif=exif)
    return sink.getvalue()


def people(folder: Path, photos: dict[str, tuple[bytes, tuple[int, int]]]) -> Annotations:
    """Two people in each photo, whose annotated size is given, and a crowd that is in the truth alone."""
    keypoints = np.ones((17, 3), np.float32)
    instances, images, annotations = [], [], []
    for number, (file, (data, wh)) in enumerate(photos.items()):
        (folder / file).write_bytes(data)
        images.append({"id": number, "file_name": file, "width": wh[0], "height": wh[1]})
        for i in range(3):
            person = 10 * number + i
            annotations.append({"id": person, "image_id": number, "iscrowd": int(i == 2)})
            if i < 2:
                instances.append(Instance(person, number, file, wh, (1.0, 1.0, 9.0, 9.0), 81.0, keypoints))
    return Annotations(load_skeleton("coco"), instances, {"images": images, "annotations": annotations})


def surveyed(
    whole: Annotations, folder: Path, *, exif: Exif | None = None, official: bool = False, drop: bool = False
) -> tuple[Annotations, Conversion]:
    return survey(
        whole,
        str(folder),
        exif=exif,
        usual=("ignore", "as by the set's authors") if official else None,
        drop=drop,
        map_items=map,
        progress=lambda *_: None,
    )


def test_sound_photos_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = people(tmp_path, {"a.jpg": (jpeg(), WH), "b.jpg": (jpeg(), WH)})
    assert surveyed(whole, tmp_path) == (whole, AS_STORED)
    assert surveyed(whole, tmp_path, exif="apply") == (whole, AS_STORED)
    assert not capsys.readouterr().err


def test_bad_photos_are_refused_together_or_left_out_with_everybody_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = {f"{i}.jpg": (jpeg(), WH) for i in range(3)}
    bad = {"cut.jpg": jpeg()[:-9], "e.jpg": b"", "size.jpg": jpeg(wh=(30, 40)), "z.jpg": b"<html>"}
    whole = people(tmp_path, photos | {file: (data, WH) for file, data in bad.items()})
    with pytest.raises(DataError) as error:
        surveyed(whole, tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: 4 photos cannot be used: cut.jpg: the JPEG is cut off; e.jpg: an empty file; size.jpg: "
        "is 30 x 40 px, annotated as 40 x 30; and 1 more; replace or correct them, or pass --drop-invalid"
    )
    kept, conversion = surveyed(whole, tmp_path, drop=True)
    assert {p.file for p in kept.instances} == photos.keys()
    assert len(kept.instances) == 6
    assert {image["file_name"] for image in kept.truth["images"]} == photos.keys()
    assert [one["id"] for one in kept.truth["annotations"]] == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert conversion == AS_STORED
    assert (
        "left out 4 photos that cannot be used, with 8 people: cut.jpg: the JPEG is cut off; e.jpg"
        in capsys.readouterr().err
    )


def test_one_bad_photo_and_none_that_is_good(tmp_path: Path) -> None:
    whole = people(tmp_path, {"a.jpg": (jpeg(), WH), "gone.jpg": (jpeg(), WH)})
    (tmp_path / "gone.jpg").unlink()
    with pytest.raises(DataError, match=r"/gone\.jpg: no such file, .*correct --images, or pass --drop-invalid$"):
        surveyed(whole, tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    for drop in (False, True):
        with pytest.raises(DataError, match=r"2 photos cannot be used: .*; replace or correct them$"):
            surveyed(whole, tmp_path, drop=drop)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_photos_need_a_decision(tmp_path: Path, orientation: int, capsys: pytest.CaptureFixture[str]) -> None:
    square = (40, 40)
    whole = people(tmp_path, {"a.jpg": (jpeg(wh=square), square), "b.jpg": (jpeg(orientation, square), square)})
    with pytest.raises(
        ConfigError, match=r"1 photo is turned by EXIF \(the first: b\.jpg\); pass --exif apply if .* or"
    ):
        surveyed(whole, tmp_path)
    for rule in ("apply", "ignore"):
        assert surveyed(whole, tmp_path, exif=rule)[1] == Conversion(rule, 1)
    capsys.readouterr()
    assert surveyed(whole, tmp_path, official=True)[1] == Conversion("ignore", 1)
    assert capsys.readouterr().err == (
        "icon_dist: note: 1 photo is turned by EXIF; EXIF is ignored, as by the set's authors (--exif)\n"
    )


def test_annotated_sizes_speak_for_apply(tmp_path: Path) -> None:
    """Labelling tools that show upright pictures write upright sizes; a size as stored may be anybody's."""
    upright = WH[::-1]
    photos = {"a.jpg": (jpeg(6), upright), "b.jpg": (jpeg(3), WH), "c.jpg": (jpeg(), WH)}
    for official in (False, True):
        whole = people(tmp_path, photos)
        assert surveyed(whole, tmp_path, official=official) == (whole, Conversion("apply", 2))
    with pytest.raises(DataError, match=r"a\.jpg: is 40 x 30 px, annotated as 30 x 40; with --exif apply these agree"):
        surveyed(people(tmp_path, photos), tmp_path, exif="ignore")
    mixed = people(tmp_path, photos | {"d.jpg": (jpeg(8), WH)})
    with pytest.raises(ConfigError, match=r"3 photos are .* \(annotated sizes speak 1 for apply and 1 for ignore\)"):
        surveyed(mixed, tmp_path)
    kept, conversion = surveyed(mixed, tmp_path, exif="apply", drop=True)
    assert {p.file for p in kept.instances} == photos.keys()
    assert conversion == Conversion("apply", 2)


def test_deep_photos_share_one_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dark photo among 12-bit ones stays dark."""
    bright, dark = (np.full((30, 40, 3), value, np.uint16) for value in (4000, 300))
    photos = {f"{i}.png": (cv2.imencode(".png", v)[1].tobytes(), WH) for i, v in enumerate((bright, dark))}
    assert surveyed(people(tmp_path, photos), tmp_path)[1] == Conversion(bits=12)
    assert (
        "2 photos have 16 bits a channel with values of 12 bits; the upper 8 bits are used" in capsys.readouterr().err
    )
    for value, bits in ((255, 8), (256, 10), (5000, 14), (60000, 16)):
        one = {"one.png": (cv2.imencode(".png", np.full((30, 40, 3), value, np.uint16))[1].tobytes(), WH)}
        assert surveyed(people(tmp_path, one), tmp_path)[1] == Conversion(bits=bits)
