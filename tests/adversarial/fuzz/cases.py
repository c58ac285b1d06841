"""Random bad input for every command, each with the exit codes that are right for it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from icon_dist.storage import hashed_json
from tests.adversarial.fuzz import spoil

OK, CONFIG, DATA, CHECKPOINT, STORAGE, CLUSTER = 0, 2, 3, 4, 5, 7


@dataclass(frozen=True)
class Case:
    """A command whose input is spoilt already."""

    what: str
    script: str  # shards/NAME.py, or a verb of icon_dist
    arguments: tuple[str, ...]
    codes: frozenset[int]
    writes: str = ""  # what it may leave if it succeeds, or half done where its own next call goes on


Family = Callable[[random.Random, Path], Case]


def _bytes(rng: random.Random, file: Path, *, text: bool) -> str:
    """Spoil one file in place; says how."""
    raw = file.read_bytes()
    kind = rng.choice(("tree", "tree", "text", "text", "gone") if text else ("data", "data", "data", "whole", "gone"))
    if kind == "gone":
        file.unlink()
        kind = rng.choice(("missing", "folder", "dangling link", "empty"))
        if kind == "folder":
            file.mkdir()
        elif kind == "dangling link":
            file.symlink_to("nowhere")
        elif kind == "empty":
            file.touch()
    elif kind == "tree":
        document = yaml.safe_load(raw) if file.suffix == ".yaml" else json.loads(raw)
        spoilt = spoil.tree(document, rng, times=rng.choice((1, 1, 1, 3)))
        dump = file.suffix == ".yaml" and rng.random() < 0.5
        file.write_bytes(_yaml(spoilt) if dump else spoil.dumps(spoilt))
    else:
        file.write_bytes(
            {"text": spoil.text, "data": spoil.data}.get(kind, lambda *_: rng.choice(spoil.CONTENTS))(raw, rng)
        )
    return f"{file.name}: {kind}"


def _yaml(document: object) -> bytes:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode("utf-8", "replace")


def build_line(name: str, *more: str, out: str = "out") -> tuple[str, ...]:
    kind = "custom" if name == "lsp" else name
    extra = ("--skeleton", "skeleton.yaml") if name == "lsp" else ()
    files = ("--annotations", f"{name}.json", "--images", "photos", "--out", out)
    return (kind, *files, *extra, "--jobs", "1", "--max-input", "64x64", "--per-shard", "4", *more)


def annotations(rng: random.Random, root: Path) -> Case:
    name = rng.choice(("coco", "crowdpose", "mpii", "lsp"))
    more = ("--drop-invalid",) if rng.random() < 0.3 else ()
    what = _bytes(rng, root / f"{name}.json", text=True)
    return Case(what, "build", build_line(name, *more), frozenset({OK, DATA}), "out")


def detections(rng: random.Random, root: Path) -> Case:
    what = _bytes(rng, root / "boxes.json", text=True)
    return Case(what, "build", build_line("coco", "--boxes", "boxes.json"), frozenset({OK, DATA}), "out")


def skeletons(rng: random.Random, root: Path) -> Case:
    what = _bytes(rng, root / "skeleton.yaml", text=True)
    return Case(what, "build", build_line("lsp"), frozenset({OK, DATA}), "out")


def photos(rng: random.Random, root: Path) -> Case:
    file = root / "photos" / rng.choice(("1.jpg", "2.jpg", "3.jpg"))
    name = rng.choice(("coco", "mpii"))
    return Case(_bytes(rng, file, text=False), "build", build_line(name), frozenset({OK, DATA}), "out")


def configs(rng: random.Random, root: Path) -> Case:
    what = _bytes(rng, root / "config.yaml", text=True)
    return Case(what, "train", ("--cfg", "./config.yaml", "--dry-run"), frozenset({OK, CONFIG, DATA}))


KEYS = (
    *("loss.tau", "loss.skcc.queries", "loss.prcc.negatives", "loss.bank.slots", "loss.lambda_p", "loss.contrast"),
    *("optim.batch", "optim.micro_batch", "optim.milestones", "optim.lr", "optim.epochs", "optim.ema", "loss"),
    *("run.workers", "run.zero", "run.name", "run.dir", "run.launcher", "run.precision", "run.seed", "run.keep"),
    *(
        "data.train",
        "data.val",
        "data.input",
        "data.dataset",
        "data.streams",
        "data.labelled",
        "data.sigma",
        "data.codec",
    ),
    *("data.augment.scale", "data.augment.flip_p", "data.max_bad_fraction", "model.backbone", "model.embedding"),
    *("eval.decode", "eval.limit", "semi.method", "semi.gamma", "zzz", "loss.tua", "", "a b", "run.name.x", "é"),
)
TEXTS = (
    *(
        "",
        "0",
        "-1",
        "1",
        "2",
        "3",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "9" * 30,
        "9" * 5000,
        "0x10",
        "1_0",
        "１２",
        "true",
        "null",
    ),
    *(
        "[1,2",
        "[]",
        "[1,2]",
        "{}",
        "{a: 1}",
        "text",
        "é",
        "a b",
        "../x",
        "~",
        "~/x",
        "/",
        "s3://",
        "s3://a",
        "http://x",
        "gs://b",
    ),
    *(
        "${oc.env:HOME}",
        "???",
        "*a",
        "&a [*a]",
        "!!python/object:os.x",
        "[" * 200,
        "2026-99-99",
        "x\ny",
        "x" * 3000,
        "%s",
    ),
    *(
        "'",
        '"',
        "#",
        "a: b: c",
        "? x",
        "|",
        "\x1b[0m",
        "\udcff",
        "hrnet_w32",
        "random",
        "all",
        "intra",
        "pseudo",
        "sspose",
    ),
)


def overrides(rng: random.Random, _: Path) -> Case:
    items = [f"{rng.choice(KEYS)}={rng.choice(TEXTS)}" for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.1:
        items.append(rng.choice(("loss.tau", "=", "--x", "-", "a=b=c", "loss.tau =1")))
    # 3 and 4: data.train and semi.teacher that are not there; 5: a bucket without credentials
    codes = frozenset({OK, CONFIG, DATA, CHECKPOINT, STORAGE})
    return Case(shown(items), "train", ("--cfg", "./config.yaml", *items, "--dry-run"), codes)


def shown(items: list[str]) -> str:
    return " ".join(item[:60] for item in items)


def shards(rng: random.Random, root: Path) -> Case:
    file = rng.choice(sorted((root / "shards").iterdir()))
    what = _bytes(rng, file, text=file.suffix == ".json" and rng.random() < 0.7)
    if file.name == "manifest.json" and rng.random() < 0.5:
        what += _sealed(file)
    command = rng.choice(("verify", "verify", "train", "evaluate", "view"))
    arguments = {
        "verify": ("shards",),
        "train": ("--cfg", "./config.yaml", "--dry-run"),
        "evaluate": ("weights.safetensors", "--shards", "shards", "--loaders", "0", "--json", "scores.json"),
        "view": ("shards", "-o", "page.png"),
    }[command]
    # 2: a spoilt manifest may name another dataset than the config, which is the config's fault for all we know
    codes = frozenset({OK, DATA, *({CONFIG} if command == "train" else {CHECKPOINT} if command == "evaluate" else ())})
    return Case(what, command, arguments, codes, {"evaluate": "scores.json", "view": "page.png"}.get(command, ""))


def _sealed(file: Path) -> str:
    """A writer's mistake rather than a disk's."""
    with suppress(OSError, ValueError, RecursionError):
        if isinstance(document := json.loads(file.read_bytes()), dict):
            file.write_bytes(hashed_json.sealed(document))
            return ", sealed"
    return ""


def weights(rng: random.Random, root: Path) -> Case:
    what = _bytes(rng, root / "weights.safetensors", text=False)
    arguments = ("weights.safetensors", "--shards", "shards", "--loaders", "0", "--json", "scores.json")
    return Case(what, "evaluate", arguments, frozenset({CHECKPOINT}), "scores.json")


def checkpoints(rng: random.Random, root: Path) -> Case:
    folders = sorted((root / "run" / "checkpoints").iterdir())
    whats = []
    for folder in folders if rng.random() < 0.5 else folders[-1:]:
        file = folder / rng.choice(("MANIFEST.json", "MANIFEST.json", "model.safetensors"))
        whats.append(_bytes(rng, file, text=file.suffix == ".json"))
    codes = frozenset({OK, CHECKPOINT})
    arguments = rng.choice(
        (("run", "-o", "new.safetensors"), ("run", "--step", "2", "-o", "new.safetensors"), ("run", "--list"))
    )
    return Case(", ".join(whats), "fetch", arguments, codes, "new.safetensors")


BAD_FLAGS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("build", build_line("coco", "--seed", "-1"), OK),
    ("build", build_line("coco", "--seed", "x"), CONFIG),
    ("build", build_line("coco", "--per-shard", "0"), CONFIG),
    ("build", build_line("coco", "--limit", "-1"), CONFIG),
    ("build", build_line("coco", "--jobs", "0"), CONFIG),
    ("build", build_line("coco", "--max-input", "9x9"), CONFIG),
    ("build", build_line("coco", "--images", "photos"), CONFIG),
    ("build", build_line("coco", "--skeleton", "lsp"), CONFIG),
    ("build", build_line("coco", "--split", ""), OK),
    ("build", build_line("coco", "--split", "a\x1bb"), CONFIG),
    ("build", build_line("coco", "--boxes", "photos"), DATA),
    ("build", build_line("coco", out="coco.json"), STORAGE),
    ("build", build_line("coco", out="coco.json/out"), STORAGE),
    ("build", build_line("coco", out="shards"), OK),
    ("build", build_line("mpii", out="shards"), CONFIG),
    ("build", build_line("coco", out="s3://"), CONFIG),
    ("build", build_line("coco", out=""), CONFIG),
    ("build", ("coco", "--annotations", "coco.json", "--images", "s3://bucket/photos", "--out", "out"), DATA),
    ("build", ("coco", "--annotations", "coco.json", "--images", "coco.json", "--out", "out"), DATA),
    ("build", ("coco", "--annotations", "photos", "--images", "photos", "--out", "out"), DATA),
    ("build", ("coco", "--annotations", "", "--images", "photos", "--out", "out"), DATA),
    ("build", ("coco", "--annotations", "x" * 5000, "--images", "photos", "--out", "out"), DATA),
    ("build", ("mpii", "--annotations", "mpii.json", "--images", "photos", "--headboxes", "1", "--out", "out"), DATA),
    ("build", ("other",), CONFIG),
    ("build", (), CONFIG),
    ("verify", ("photos",), DATA),
    ("verify", ("nowhere",), DATA),
    ("verify", ("",), CONFIG),
    ("verify", ("http://x/y",), CONFIG),
    ("verify", (), CONFIG),
    ("view", ("shards", "-o", "page.gif"), CONFIG),
    ("view", ("shards", "-o", "page.png", "--seed", "-1"), CONFIG),
    ("view", ("shards", "-o", "page.png", "--count", "0"), CONFIG),
    ("view", ("shards", "-o", "photos/1.jpg/page.png"), STORAGE),
    ("synthesize", ("--out", "out", "--people", "0"), CONFIG),
    ("synthesize", ("--out", "out", "--people", "4", "--difficulty", "x"), CONFIG),
    ("synthesize", ("--out", "out", "--people", "4", "--seed", "-1", "--jobs", "1"), CONFIG),
    ("fetch", ("run", "-o", "photos"), CONFIG),
    ("fetch", ("run", "-o", "photos/1.jpg/x.safetensors"), STORAGE),
    ("fetch", ("run", "-o", "x.safetensors", "--step", "-1"), CHECKPOINT),
    ("fetch", ("run", "-o", "x.safetensors", "--net", "2"), CHECKPOINT),
    ("fetch", ("photos", "-o", "x.safetensors"), CHECKPOINT),
    ("fetch", ("photos/1.jpg", "-o", "x.safetensors"), CHECKPOINT),
    ("fetch", ("", "--list"), CONFIG),
    *(
        ("evaluate", ("weights.safetensors", "--shards", "shards", *flags), code)
        for flags, code in (
            (("--batch", "0"), CONFIG),
            (("--batch", "x"), CONFIG),
            (("--limit", "-1"), CONFIG),
            (("--loaders", "-1"), CONFIG),
            (("--device", "tpu9"), CONFIG),
            (("--device", "cuda:99"), CONFIG),
            (("--decode", "x"), CONFIG),
            (("--boxes", "boxes.json"), CONFIG),
            (("--boxes", "nowhere.json", "--images", "photos"), DATA),
            (("--boxes", "boxes.json", "--images", "nowhere", "--loaders", "0"), DATA),
            (("--json", "photos", "--loaders", "0"), STORAGE),
            (("--json", "photos/1.jpg/x.json", "--loaders", "0"), STORAGE),
            (("--picture", "photos", "--loaders", "0"), CONFIG),
            (("--picture", "x.txt", "--loaders", "0"), CONFIG),
            (("--results", "x.txt", "--loaders", "0"), CONFIG),
            (("--photos", "photos.json"), CONFIG),
            (("--json", "s3://", "--loaders", "0"), CONFIG),
            (("--diagnose", "coco.json", "--loaders", "0"), STORAGE),
        )
    ),
    ("evaluate", ("photos", "--shards", "shards"), CHECKPOINT),
    ("evaluate", ("photos/1.jpg", "--shards", "shards"), CHECKPOINT),
    (
        "evaluate",
        ("weights.safetensors", "--photos", "nowhere.json", "--results", "x.json", "--images", "photos"),
        CONFIG,
    ),
    ("train", ("--cfg", "nowhere", "--dry-run"), CONFIG),
    ("train", ("--cfg", "photos/1.jpg", "--dry-run"), CONFIG),
    ("train", ("--cfg", "photos/", "--dry-run"), CONFIG),
    ("train", ("--cfg", "~", "--dry-run"), CONFIG),
    ("train", ("--dry-run",), CONFIG),
    ("train", ("--cfg", "./config.yaml", "--dry-run", "model.pretrained=nowhere"), CHECKPOINT),
    ("train", ("--cfg", "./config.yaml", "--dry-run", "model.pretrained=photos/1.jpg"), CHECKPOINT),
    ("train", ("--cfg", "./config.yaml", "--dry-run", "data.train=coco.json"), DATA),
)


def flags(rng: random.Random, _: Path) -> Case:
    command, arguments, code = rng.choice(BAD_FLAGS)
    return Case("flags", command, arguments, frozenset({code}), "out" if code == OK else "")


FAMILIES: dict[str, Family] = {
    f.__name__: f
    for f in (annotations, detections, skeletons, photos, configs, overrides, shards, weights, checkpoints, flags)
}
SOUND = (
    *(Case(name, "build", build_line(name), frozenset({OK}), "out") for name in ("coco", "crowdpose", "mpii", "lsp")),
    Case("boxes", "build", build_line("coco", "--boxes", "boxes.json"), frozenset({OK}), "out"),
    Case("shards", "verify", ("shards",), frozenset({OK})),
    Case("config", "train", ("--cfg", "./config.yaml", "--dry-run"), frozenset({OK})),
    Case("page", "view", ("shards", "-o", "page.png"), frozenset({OK}), "page.png"),
    Case("run", "fetch", ("run", "-o", "new.safetensors"), frozenset({OK}), "new.safetensors"),
    Case(
        "scores",
        "evaluate",
        ("weights.safetensors", "--shards", "shards", "--loaders", "0", "--json", "scores.json"),
        frozenset({OK}),
        "scores.json",
    ),
)


def copy(world: Path, root: Path) -> Path:
    """A world of its own for one case, with a blank and letters of other alphabets in its path."""
    return Path(shutil.copytree(world, root / "wörld of öne cäse"))
