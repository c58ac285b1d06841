"""What a bare machine without a network needs: shards of real photos to train on, and the packages it lacks.

``python tests/gpu/prepare.py --shared DIR --out DIR [--wheels DIR]``, in a folder of the checkout that git ignores.
The photos of Leeds Sports Pose are made small, and packed by the package itself: ``lspet_full14`` to train on,
``lsp_train`` to be scored on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the package need not be installed

SETS = {"train": "lspet_full14", "val": "lsp_train"}
SIDE, QUALITY = 224, 80  # of the photos: px at most, JPEG
INPUT = (256, 192)  # the largest to train at
WHEELS = ("omegaconf", "simplejpeg", "pycocotools", "tenacity")  # all that such machines lacked
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tests/gpu/prepare.py", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--photos", type=Path, metavar="DIR", help="with images/ and the json of both sets")
    source.add_argument("--shared", type=Path, metavar="DIR", help="the folder whose data/lsp that is")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="also download the missing packages to it")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N photos of each set")
    args = parser.parse_args(argv)
    photos = args.photos or args.shared / "data/lsp"
    for split, name in SETS.items():
        pack(photos, name, args.out / split, limit=args.limit)
        print(f"{args.out / split}: {mebibytes(args.out / split):.1f} MiB")
    if args.wheels:
        download(args.wheels)
        print(f"{args.wheels}: {mebibytes(args.wheels):.1f} MiB")


def pack(photos: Path, name: str, out: Path, *, limit: int | None) -> None:
    """Shards of the set ``name``, of photos made small."""
    from icon_dist import datasets
    from icon_dist.shards.tar import Settings
    from icon_dist.shards.writer import SetInfo, build

    with tempfile.TemporaryDirectory() as scratch:
        document = json.loads((photos / f"{name}.json").read_text())
        document["images"] = document["images"][:limit]
        zoom = {one["id"]: shrink(photos / "images", Path(scratch), one) for one in document["images"]}
        people = [person for person in document["annotations"] if person["image_id"] in zoom]
        document["annotations"] = [scaled(person, *zoom[person["image_id"]]) for person in people]
        file = Path(scratch, f"{name}.json")
        file.write_text(json.dumps(document))
        annotations = datasets.read("custom", file, images=scratch, skeleton="lsp")
        settings = Settings(max_input=INPUT, quality=QUALITY)
        build(annotations, scratch, str(out), SetInfo(dataset="custom", split=name), settings=settings)


def shrink(source: Path, target: Path, image: dict[str, Any]) -> tuple[float, float]:
    """Write the photo small, correct its size in ``image``, and return by how much it shrank, (x, y)."""
    import cv2

    pixels = cv2.imread(str(source / image["file_name"]), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    height, width = pixels.shape[:2]
    zoom = min(1.0, SIDE / max(height, width))
    if zoom < 1:
        pixels = cv2.resize(pixels, (round(zoom * width), round(zoom * height)), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(target / image["file_name"]), pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    image["height"], image["width"] = pixels.shape[:2]
    return image["width"] / width, image["height"] / height


def scaled(person: dict[str, Any], zoom_x: float, zoom_y: float) -> dict[str, Any]:
    """Box, area and joints on the small photo. Pixel centers sit on integers: the photo begins at -1/2."""
    x, y, w, h = person["bbox"]
    joints = person["keypoints"]
    for at in range(0, len(joints), 3):
        if joints[at + 2]:
            joints[at] = round((joints[at] + 0.5) * zoom_x - 0.5, 3)
            joints[at + 1] = round((joints[at + 1] + 0.5) * zoom_y - 0.5, 3)
    box = [(x + 0.5) * zoom_x - 0.5, (y + 0.5) * zoom_y - 0.5, w * zoom_x, h * zoom_y]
    return {**person, "bbox": [round(value, 3) for value in box], "area": person["area"] * zoom_x * zoom_y}


def download(folder: Path) -> None:
    """Wheels for Python 3.12 on Linux."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    python = ["--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:", "--no-deps"]
    words = [sys.executable, "-m", "pip", "download", "--quiet", *python, *platforms, "-d", str(folder), *WHEELS]
    subprocess.run(words, check=True)


def mebibytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


if __name__ == "__main__":
    main(sys.argv[1:])
