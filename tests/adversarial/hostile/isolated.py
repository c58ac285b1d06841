"""A verb in a process of its own with little memory, and what it did to the folder around it."""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import os
import resource
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.training import WARM

MEMORY = 1 << 30  # bytes more than the libraries take
PATIENCE_S = 120
VERBS = {
    "train": "icon_dist.train",
    "evaluate": "icon_dist.evaluate",
    "fetch": "icon_dist.fetch",
    "build": "icon_dist.shards.build",
    "verify": "icon_dist.shards.verify",
    "doctor": "icon_dist.doctor",
    "submit": "icon_dist.submit",
    "recipes": "icon_dist.paper",
    "synthesize": "icon_dist.shards.synthesize",
}


class Outcome(NamedTuple):
    code: int | None
    out: str
    err: str


def run(verb: str, *arguments: str, sandbox: Path, environment: dict[str, str]) -> Outcome:
    """Run a verb as a user does, with the folder ``sandbox`` as home, working and temporary directory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(WARM)
    files = sandbox.parent / "out.txt", sandbox.parent / "err.txt"
    process = context.Process(
        target=_serve, args=(VERBS[verb], arguments, str(sandbox), files, dict(os.environ) | environment)
    )
    process.start()
    process.join(PATIENCE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
    out, err = (file.read_text(errors="surrogateescape") for file in files)
    return Outcome(process.exitcode, out, err)


def _serve(
    module: str, arguments: tuple[str, ...], sandbox: str, files: tuple[Path, Path], environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    os.chdir(sandbox)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    from icon_dist.command_exit import run_cli

    main = importlib.import_module(module).main
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    run_cli(main, list(arguments))


def traces(folder: Path) -> dict[str, str]:
    """Everything below ``folder`` but ``out/``: links by their target, files by their bytes."""
    found = {}
    for place in sorted(folder.rglob("*")):
        name = place.relative_to(folder).as_posix()
        if name.split("/")[0] == "out":
            continue
        if place.is_symlink():
            found[name] = f"-> {os.readlink(place)}"
        elif place.is_fifo():
            found[name] = "pipe"
        elif place.is_file():
            found[name] = hashlib.sha256(place.read_bytes()).hexdigest()
        else:
            found[name] = "folder"
    return found
