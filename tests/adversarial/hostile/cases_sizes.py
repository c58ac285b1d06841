"""Sizes that are forged, and files that are none."""

from __future__ import annotations

import os
from pathlib import Path

from tests.adversarial.hostile import payload
from tests.adversarial.hostile.attacks import Prepare, bad_manifest, bad_shards, bad_weights, link, put, then

CASES: dict[str, tuple[Prepare, int, str]] = {
    "index of a footer of gigabytes": (
        lambda c: then(payload.vouch(c.shards, "index.parquet", b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1"), c.verify()),
        3,
        "footer",
    ),
    "index of a quintillion rows": (
        lambda c: then(
            payload.vouch(
                c.shards, "index.parquet", payload.parquet([payload.node(b"r", 1), payload.leaf(b"x")], rows=2**60)
            ),
            c.verify(),
        ),
        3,
        "rows",
    ),
    "index of a hundred thousand columns": (
        lambda c: then(
            payload.vouch(
                c.shards,
                "index.parquet",
                payload.parquet([payload.node(b"r", 10**5), *[payload.leaf(b"x")] * 10**5]),
            ),
            c.verify(),
        ),
        3,
        "which it cannot have|has 100001 columns",
    ),
    "index nested deeply": (
        lambda c: then(
            payload.vouch(
                c.shards, "index.parquet", payload.parquet([*[payload.node(b"a", 1)] * 900, payload.leaf(b"x")])
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
        lambda c: bad_weights(c, "w.safetensors", payload.safetensors_header(b"{}", size=2**62)),
        4,
        "cut|not a safetensors",
    ),
    "pretrained says a tensor of exabytes": (
        lambda c: bad_weights(
            c,
            "w.safetensors",
            payload.safetensors_header(b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}}'),
        ),
        4,
        "cut|more than plain",
    ),
    "pretrained class of its own": (
        lambda c: bad_weights(c, "w.pth", payload.torch_class("mmengine.config.Config")),
        4,
        "mmengine.config.Config stands in the way",
    ),
    "epoch of a manifest as text": (bad_manifest(lambda m: m.update(epoch="x")), 4, "epoch='x': expected a number"),
    "metrics of a manifest as text": (bad_manifest(lambda m: m.update(metrics={"AP": "x"})), 4, "metrics="),
    "skeleton of a manifest": (bad_manifest(lambda m: m.update(skeleton=[1])), 4, "skeleton="),
    "a manifest of another step": (bad_manifest(lambda m: m.update(step=9)), 4, "is of step 9"),
    "step below zero": (bad_manifest(lambda m: m.update(step=-1)), 4, "is of step -1"),
}
