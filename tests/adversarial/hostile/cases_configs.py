"""Configs and command lines, and the secrets in them."""

from __future__ import annotations

from tests.adversarial.hostile.attacks import ESCAPE, LAUGHS, Prepare

CASES: dict[str, tuple[Prepare, int, str]] = {
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
}
