"""Shards, annotations and photos."""

from __future__ import annotations

import tarfile

from tests.adversarial.hostile import payload
from tests.adversarial.hostile.attacks import (
    DEEP,
    ESCAPE,
    JPEG,
    LAUGHS,
    Prepare,
    bad_shards,
    crop,
    link,
    long_texts,
    mpii,
    name,
    put,
    skeleton,
    then,
    with_member,
)

CASES: dict[str, tuple[Prepare, int, str]] = {
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
        lambda c: then(payload.vouch(c.shards, "index.parquet", payload.code(c.canary)), c.verify()),
        3,
        "cannot be read|build the shards again",
    ),
    "index of equal rows": (
        lambda c: then(
            payload.vouch(c.shards, "index.parquet", payload.index_bomb(2_500_000)),
            c.reshard(lambda m: m.update(people=2_500_000)),
            c.verify(),
        ),
        3,
        "have room for|columns differ",
    ),
    "index of long texts": (long_texts, 3, "up to 100 letters|unpacks to more"),
    "truth of gigabytes": (
        lambda c: then(payload.vouch(c.shards, "truth.json.gz", payload.gzip_bomb(1024)), c.evaluate()),
        3,
        "unpacks to more than",
    ),
    "tar member above": (lambda c: with_member(c, payload.member("../../outside/victim")), 3, "no plain KEY"),
    "tar member absolute": (lambda c: with_member(c, payload.member("/etc/x.jpg")), 3, "no plain KEY"),
    "tar symbolic link": (
        lambda c: with_member(c, payload.member("k.jpg", tarfile.SYMTYPE, "/etc/passwd")),
        3,
        "no plain",
    ),
    "tar hard link": (lambda c: with_member(c, payload.member("k.jpg", tarfile.LNKTYPE, "../x")), 3, "no plain KEY"),
    "tar device": (lambda c: with_member(c, payload.member("k.jpg", tarfile.CHRTYPE)), 3, "no plain KEY"),
    "tar pipe": (lambda c: with_member(c, payload.member("k.jpg", tarfile.FIFOTYPE)), 3, "no plain KEY"),
    "tar member pickle": (lambda c: with_member(c, payload.member("k.pkl"), payload.code(c.canary)), 3, "no plain KEY"),
    "tar member for the terminal": (lambda c: with_member(c, payload.member(f"{ESCAPE}.jpg")), 3, "no plain KEY"),
    "file beside them for the terminal": (lambda c: then(c.file(f"shards/{ESCAPE}", "x"), c.verify()), 3, r"\\x1b"),
    "shard is a link": (lambda c: then(link(c.shards / "shard-00000.tar", c.victim), c.verify()), 3, "bytes, manifest"),
    "crop of a terapixel": (lambda c: then(crop(c, payload.png(10**6, 10**6)), c.verify()), 3, "more than 50000000 px"),
    "crop of a terapixel, predicted": (
        lambda c: then(crop(c, payload.png(10**6, 10**6)), c.evaluate(None, "--limit", "0")),
        3,
        "more than 50000000 px",
    ),
    "crop is a pickle": (
        lambda c: then(crop(c, payload.code(c.canary)), c.evaluate(None, "--limit", "0")),
        3,
        "not a JPEG or PNG",
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
    "png of a terapixel": (lambda c: c.build({}, payload.png(10**5, 10**5)), 3, "more than 50000000 px"),
    "jpeg of gigapixels": (lambda c: c.build({}, payload.jpeg_with_frame(JPEG, 65500, 65500)), 3, "more than 50000000"),
    "jpeg of two sizes": (
        lambda c: c.build({}, payload.jpeg_of_two_sizes(JPEG, 30000, 30000)),
        3,
        "header of the JPEG",
    ),
    "annotations of gigabytes": (lambda c: c.build(text=payload.gzip_bomb(1024)), 3, "unpacks to more than"),
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
        lambda c: [*mpii(c), "--headboxes", c.file("gt_valid.mat", payload.code(c.canary))],
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
