"""Is this machine fit to train, and the cluster? One line a check, the fix beside every failure.

Neither this nor :mod:`icon_dist.launch.machine_checks` imports more than the standard library at the top: the doctor
must run where a package is missing. No secret is printed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from icon_dist.cli import Parser
from icon_dist.command_exit import run_cli
from icon_dist.errors import ClusterError, IconError, StorageError, plain
from icon_dist.launch import machine_checks
from icon_dist.launch.machine_checks import NAMED, Finding, fail, ok, warn
from icon_dist.storage import tempdirs

CLUSTER_PATIENCE_S = 60.0
UNCONDITIONAL = "it has no conditional writes, by which two runs of one name could be told apart; run one at a time"


def probe(uri: str) -> str:
    """Use the place as a run does; how long each took. Raises the IconError that a run would."""
    from icon_dist import storage

    named = uri = storage.absolute(uri)
    if not storage.is_remote(uri):
        while not Path(uri).exists():
            uri = str(Path(uri).parent)
    place = storage.join(uri, f".icon-doctor-{secrets.token_hex(4)}")
    data, taken = secrets.token_bytes(1 << 16), {}

    def timed(name: str, call: Callable[[], object]) -> object:
        """Return what ``call`` returns, and record its duration in seconds under ``name``."""
        start = time.monotonic()
        result = call()
        taken[name] = time.monotonic() - start
        return result

    if not timed("conditional put", lambda: storage.write_new(place, data)):
        raise StorageError(f"{uri}: a new name is said to be taken; do not use this storage for checkpoints")
    try:
        if storage.write_new(place, b""):
            raise StorageError(f"{uri}: ignores If-None-Match, so two runs could overwrite each other; use another S3")
        conditional = storage.has_conditions(place, data)
        if timed("read", lambda: storage.read(place)) != data:
            raise StorageError(f"{uri}: gave back other bytes than were written; do not use this storage")
        timed("write", lambda: storage.write(place, data[::-1]))
    finally:
        timed("delete", lambda: storage.delete(place))
    where = uri if uri in (named, str(Path(named).parent)) else f"{named} would be made in {uri}"
    text = f"{where}: " + ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in taken.items())
    return text if conditional else f"{text}; {UNCONDITIONAL}"


def place(what: str, uri: str) -> Iterator[Finding]:
    """Yield one finding, named ``what``: a test of the storage at ``uri``, and how long each operation took.

    It is a warning where conditional writes are missing, and a failure where a package is. Raises the IconError that a
    run would, such as StorageError.
    """
    try:
        text = probe(uri)
        yield (warn if text.endswith(UNCONDITIONAL) else ok)(what, text)
    except ImportError as error:
        yield fail(what, f"{error.name or error} is missing; pip install -c constraints.txt -e .")


class Node(NamedTuple):
    """What a node says of itself."""

    versions: dict[str, str]
    storage: str
    code: int  # 0: the storage works


def examine(uri: str) -> Node:
    """Runs on a node."""
    try:
        return Node(_versions(), probe(uri), 0)
    except IconError as error:
        return Node(_versions(), str(error), error.exit_code)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "sources": _sources()}
    for name in ("icon_dist", *NAMED, "numpy"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _sources() -> str:
    """Tells two working copies of one version apart."""
    import icon_dist

    digest = hashlib.sha256()
    folder = Path(icon_dist.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def cluster(uri: str) -> Iterator[Finding]:
    """Every node: the same versions as here, and the storage reached from there."""
    from icon_dist import storage
    from icon_dist.launch.every_node import on_every_node

    own = _versions()
    for name, answer in on_every_node(partial(examine, storage.absolute(uri)), patience_s=CLUSTER_PATIENCE_S).items():
        if isinstance(answer, str):
            yield fail("node", f"{name}: {answer}")
            continue
        node = Node(*answer)
        said = {key: node.versions.get(key, "absent") for key in own}
        differ = [f"{key} {said[key]}, here {own[key]}" for key in own if said[key] != own[key]]
        if differ:
            yield fail("node", f"{name}: {'; '.join(differ)}; install the same on every node")
        else:
            yield ok("node", f"{name}: versions as here")
        yield Finding("FAIL" if node.code else "ok", "node", f"{name}: {node.storage}", node.code)


def examined(check: Callable[[], Iterator[Finding]], what: str, *, code: int = 0) -> list[Finding]:
    """A check that breaks off is a finding of its own: a failure with an exit ``code``, a warning without."""
    findings = []
    try:
        for finding in check():  # one at a time, to keep those before an error
            findings.append(finding)  # noqa: PERF402
    except IconError as error:
        findings.append(Finding("FAIL", what, str(error), error.exit_code))
    except Exception as error:  # the machine is not as the check expects; the others still tell something
        text = f"could not look: {type(error).__name__}: {error}"
        findings.append(Finding("FAIL" if code else "warn", what, text, code))
    return findings


def main(argv: list[str]) -> int:
    """Run ``icon-dist doctor`` with these words; returns the exit code of the first check that failed, or 0."""
    parser = Parser("icon-dist doctor", __doc__.splitlines()[0])
    parser.add_argument(
        "uri", nargs="?", default="runs", metavar="URI", help="where runs go: path or s3://; default %(default)s"
    )
    parser.add_argument("--cluster", action="store_true", help="ask every node too; the default if RAY_ADDRESS is set")
    parser.add_argument("--fix", action="store_true", help="remove files of dead runs, make the token's file private")
    args = parser.parse_args(argv)
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": machine_checks.packages,
        "gpu": machine_checks.gpu,
        "memory": machine_checks.memory,
        "shared": machine_checks.shared_memory,
        "tmp": lambda: machine_checks.disk("tmp", tempdirs.root()),
        "locks": partial(machine_checks.extension_locks, fix=args.fix),
        "leftovers": partial(machine_checks.leftovers, fix=args.fix),
        "token": partial(machine_checks.ray_token, fix=args.fix),
        "ports": machine_checks.ray_ports,
        "storage": partial(place, "storage", args.uri),
    }
    if not re.match(r"\w+:", args.uri):
        checks["disk"] = partial(machine_checks.disk, "disk", Path(args.uri).expanduser().absolute())
    code = 0
    with ThreadPoolExecutor(len(checks)) as pool:  # an endpoint that does not answer takes seconds, so does torch
        waiting = [pool.submit(examined, check, what) for what, check in checks.items()]
        for future in waiting:
            shown = _show(future.result())
            code = code or shown  # of the first that fails
    if args.cluster or "RAY_ADDRESS" in os.environ:
        shown = _show(examined(partial(cluster, args.uri), "cluster", code=ClusterError.exit_code))
        code = code or shown
    return code


def _show(findings: list[Finding]) -> int:
    for level, what, text, _ in findings:
        print(f"{level:<4}  {what:<10} {plain(text)}", flush=True)
    return next((finding.code for finding in findings if finding.level == "FAIL"), 0)


if __name__ == "__main__":
    run_cli(main)
