"""Weights and runs that somebody hands over."""

from __future__ import annotations

import torch

from tests.adversarial.hostile import payload
from tests.adversarial.hostile.attacks import (
    DEEP,
    ESCAPE,
    Prepare,
    bad_manifest,
    bad_text,
    bad_weights,
    link,
    put,
    sealed,
    then,
)
from tests.adversarial.hostile.sandbox import packed

CASES: dict[str, tuple[Prepare, int, str]] = {
    # weights that somebody hands over
    "pickle as safetensors": (lambda c: c.evaluate(c.file("x.safetensors", payload.code(c.canary))), 4, "is a pickle"),
    "pth to evaluate": (lambda c: c.evaluate(c.file("x.pth", payload.torch_code(c.canary))), 4, "is a pickle"),
    "header of exabytes": (
        lambda c: c.evaluate(c.file("x.safetensors", payload.safetensors_header(b"{}", size=2**62))),
        4,
        "not written by icon-dist fetch",
    ),
    "header nested deeply": (
        lambda c: c.evaluate(c.file("x.safetensors", payload.safetensors_header(DEEP))),
        4,
        "not written by icon-dist fetch",
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
    "pretrained pth with code": (lambda c: bad_weights(c, "w.pth", payload.torch_code(c.canary)), 4, "more than plain"),
    "pretrained of the old format": (
        lambda c: bad_weights(c, "w.pth.tar", payload.torch_code(c.canary, legacy=True)),
        4,
        "more than plain tensors",
    ),
    "pretrained bare pickle": (lambda c: bad_weights(c, "w.pt", payload.code(c.canary)), 4, "more than plain tensors"),
    "pretrained pickle as safetensors": (
        lambda c: bad_weights(c, "w.safetensors", payload.code(c.canary)),
        4,
        "not a safetensors file",
    ),
    "pretrained pkl": (lambda c: bad_weights(c, "w.pkl", payload.code(c.canary)), 4, "not one of"),
    "pretrained zip bomb": (lambda c: bad_weights(c, "w.pth", payload.torch_bomb()), 4, "unpacks to more"),
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
        lambda c: then(sealed(c, "model.safetensors", payload.code(c.canary)), c.fetch()),
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
}
