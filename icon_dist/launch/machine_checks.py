"""What the doctor looks at on this machine; each check yields findings with the fix beside every failure.

Only the standard library is imported at the top, because a package may be missing. A token is looked at from outside.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from icon_dist.errors import ClusterError, IconError, StorageError
from icon_dist.launch import process_memory
from icon_dist.storage import tempdirs

GIB = 2**30
MEMORY_GIB = 4.0  # Ray, its dashboard, a driver and two small workers
SHARED_GIB = 2.0  # Ray's object store and NCCL; loaders share anonymous memory instead
DISK_GIB = 2.0
NAMED = ("torch", "ray", "deepspeed")  # packages with a line of their own
GCS, DASHBOARD, CLIENT = 6379, 8265, 10001  # ports of 'ray start --head'


class Finding(NamedTuple):
    """One line of the doctor: how bad it is, what was checked, and what was found, with the fix beside a failure."""

    level: str  # ok | warn | FAIL
    what: str
    text: str
    code: int = 0  # exit code of a FAIL


def ok(what: str, text: str) -> Finding:
    """Return the finding that the check ``what`` passed."""
    return Finding("ok", what, text)


def warn(what: str, text: str) -> Finding:
    """Return the finding that ``what`` may cause trouble; it changes no exit code."""
    return Finding("warn", what, text)


def fail(what: str, text: str, kind: type[IconError] = ClusterError) -> Finding:
    """Return the finding that ``what`` keeps a run from working; the exit code is that of the error ``kind``."""
    return Finding("FAIL", what, text, kind.exit_code)


def packages() -> Iterator[Finding]:
    """Installed versions against the ranges of ``pyproject.toml``, which travel with the package."""
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet

        package = metadata.metadata("icon_dist")
        requirements = [Requirement(line) for line in metadata.requires("icon_dist") or ()]
    except (ModuleNotFoundError, metadata.PackageNotFoundError) as error:
        yield fail("packages", f"{error.name or error} is not installed; pip install -c constraints.txt -e .")
        return
    wanted, here = package["Requires-Python"], platform.python_version()
    if SpecifierSet(wanted).contains(here, prereleases=True):
        yield ok("python", here)
    else:
        yield fail("python", f"{here}, expected {wanted}; make the venv with another Python")
    fitting = 0
    for need in requirements:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield fail(need.name, f"not installed; pip install -c constraints.txt '{need}'")
            continue
        if not need.specifier.contains(found, prereleases=True):
            yield fail(need.name, f"{found}, expected {need.specifier}; pip install -c constraints.txt '{need}'")
        elif need.name in NAMED:
            yield ok(need.name, found)
        else:
            fitting += 1
    yield ok("packages", f"{fitting} others fit")


def gpu() -> Iterator[Finding]:
    """Yield one finding for each GPU that torch sees, after one calculation on it, or why it sees none.

    Less than half of a GPU's memory free is a warning. No driver and no GPU is no failure: training runs on the CPU.
    """
    has_driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            import torch

            usable = torch.cuda.is_available()
    except (ImportError, OSError) as error:
        yield fail("gpu", f"torch cannot be imported ({error}); pip install -c constraints.txt torch")
        return
    if not usable and not has_driver:
        yield ok("gpu", "none, training would run on the CPU")
    elif not usable and torch.version.cuda is None:
        yield fail("gpu", f"an NVIDIA driver, but torch {torch.__version__} is a CPU build; install torch for CUDA")
    elif not usable:
        why = next((str(w.message).split("(Triggered")[0] for w in said if "CUDA" in str(w.message)), "it sees no GPU")
        yield fail("gpu", f"torch for CUDA {torch.version.cuda}: {why.strip()[:200]}; update the driver or fit torch")
    for number in range(torch.cuda.device_count() if usable else 0):
        name = torch.cuda.get_device_name(number)
        try:
            free, total = torch.cuda.mem_get_info(number)
            torch.ones(1, device=f"cuda:{number}").add_(1).item()
        except RuntimeError as error:
            yield fail("gpu", f"{number}: {name}: {str(error).splitlines()[0]}; install a torch built for it")
            continue
        memory = f"{total / GIB:.0f} GiB, {free / GIB:.0f} free, CUDA {torch.version.cuda}"
        yield (ok if free > total / 2 else warn)("gpu", f"{number}: {name}, {memory}")


def memory() -> Iterator[Finding]:
    """Yield one finding: the memory that is available, within the limit of this cgroup (v2).

    Less than MEMORY_GIB GiB, which a run with two workers takes, is a warning.
    """
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no limit
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    each = f"a worker takes {process_memory.WORKER:g} GB and its network, each loader {process_memory.LOADER:g}"
    text = f"{free / GIB:.1f} GiB available; {each}, driver and Ray {process_memory.DRIVER + process_memory.RAY:g}"
    short = f"{text}, a run with two small workers {MEMORY_GIB:g}; lower run.workers or data.loaders, or end others"
    yield ok("memory", text) if free >= MEMORY_GIB * GIB else warn("memory", short)


def shared_memory(place: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Yield one finding: the free shared memory at ``place``.

    Less than SHARED_GIB GiB, or no such folder, is a warning.
    """
    if not place.is_dir():
        yield warn("shared", f"{place} is missing; Ray keeps objects on disk instead")
        return
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.1f} GiB free in {place}"
    short = f"{text}, Ray and NCCL want {SHARED_GIB:g}; start the container with --shm-size={SHARED_GIB:g}g or more"
    yield ok("shared", text) if free >= SHARED_GIB * GIB else warn("shared", short)


def disk(what: str, folder: Path) -> Iterator[Finding]:
    """Space and permission, in ``folder`` or where it would be made."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".icon-doctor-") as file:
            file.write(bytes(1 << 16))
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        reason = f"{folder}: {error.strerror or error}; correct its permissions, free space or write elsewhere"
        yield fail(what, reason, StorageError)
        return
    text = f"{folder}: {free / GIB:.1f} GiB free"
    yield ok(what, text) if free >= DISK_GIB * GIB else warn(what, f"{text}; a long run wants {DISK_GIB:g} or more")


def extension_locks(*, fix: bool) -> Iterator[Finding]:
    """A process killed in torch's first build of an extension leaves a lock on which all later ones wait for ever."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "torch_extensions"
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or default)
    found = sorted([*root.glob("*/lock"), *root.glob("*/*/lock")])  # of an extension, below a version of Python or not
    stale = [lock for lock in found if _is_baton(lock) and not _held(lock)]
    if stale:
        which = f"{stale[0]}" + (f" and {len(stale) - 1} more below {root}" if len(stale) > 1 else "")
        if fix:
            for lock in stale:
                lock.unlink(missing_ok=True)
            yield ok("locks", f"{which}: removed")
        else:
            why = f"nobody holds it, and every build would wait for it; rm '{stale[0]}', or --fix"
            if len(stale) > 1:
                why = "nobody holds them, and builds would wait for them; --fix removes them"
            yield fail("locks", f"{which}: {why}")
    else:
        yield ok("locks", "no stale lock of torch_extensions")


def _is_baton(file: Path) -> bool:
    """Whether it can be a lock of torch's, and not a file of that name where the variable points by mistake."""
    status = file.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size == 0 and status.st_uid == os.getuid()


def _held(file: Path) -> bool:
    """Whether a living process has it open, as torch does while it builds."""
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # of others, or gone by now
            if os.readlink(handle) == str(file.resolve()):
                return True
    return not Path("/proc/self").exists()


def leftovers(*, fix: bool) -> Iterator[Finding]:
    """Yield one finding: the temporary folders that killed runs left on this machine.

    ``fix`` removes them; without it they are a warning.
    """
    root = tempdirs.root()
    found = list(tempdirs.leftovers(root, remove=fix))
    first, more = (f"{found[0]}" if found else ""), (f" and {len(found) - 1} more" if len(found) > 1 else "")
    if not found:
        yield ok("leftovers", "no temporary folder of a dead run")
    elif fix:
        yield ok("leftovers", f"{first}{more}: removed")
    else:
        their = "their runs were" if more else "its run was"
        yield warn("leftovers", f"{first}{more}: {their} killed; --fix removes what they left in {root}")


def ray_token(*, fix: bool) -> Iterator[Finding]:
    """Ray's authentication; the token itself is not read."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if mode and mode.lower() != "token":
        yield warn("token", "RAY_AUTH_MODE turns authentication off: whoever reaches the ports may run code; unset it")
        return
    if "RAY_AUTH_TOKEN" not in os.environ and not file.is_file():
        hint = "the first run makes one; before 'ray start': ray get-auth-token --generate"
        yield (warn if mode else ok)("token", f"none yet; {hint}")
        return
    if "RAY_AUTH_TOKEN" not in os.environ and (bits := file.stat().st_mode & 0o777) & 0o077:
        if fix:
            file.chmod(0o600)
            yield ok("token", f"{file}: mode 600 now")
        else:
            yield warn("token", f"{file}: others may read it (mode {bits:o}); chmod 600 '{file}', or --fix")
    if not mode:
        yield warn("token", "RAY_AUTH_MODE is not set, so 'ray job submit' sends no token; export RAY_AUTH_MODE=token")
    else:
        yield ok("token", "there, and sent")


def ray_ports() -> Iterator[Finding]:
    """Whether a head node could start here, or runs already, and who can reach its dashboard."""
    listening = _listening()
    names = {GCS: "--port", DASHBOARD: "--dashboard-port", CLIENT: "--ray-client-server-port"}
    used = [port for port in names if port in listening]
    if open_to := [a for a in listening.get(DASHBOARD, ()) if a not in ("127.0.0.1", "::1")]:
        reach = f"port {DASHBOARD} (Ray's dashboard) listens on {open_to[0]}"
        yield warn("ports", f"{reach}: others can reach it; start Ray with --dashboard-host 127.0.0.1")
    if used and not head_runs():
        flags = ", ".join(f"{names[port]} for {port}" for port in used)
        yield warn("ports", f"taken by something else than a Ray head; 'ray start --head' needs another {flags}")
    else:
        yield ok("ports", f"a Ray head runs here ({', '.join(map(str, used))})" if used else "free for a Ray head")


def _listening() -> dict[int, set[str]]:
    """Addresses by port of the TCP sockets that wait for connections."""
    found: dict[int, set[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, port = local.split(":")
            if state == "0A":
                numbers = [int(address[i : i + 2], 16) for i in range(0, len(address), 2)]
                loopback6 = numbers == [0] * 12 + [1, 0, 0, 0]
                text = ".".join(map(str, numbers[::-1])) if table == "tcp" else "::1" if loopback6 else "[::]"
                found.setdefault(int(port, 16), set()).add(text)
    return found


def head_runs() -> bool:
    """Return whether a head node of Ray runs on this machine."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"gcs_server" in command.read_bytes().split(b"\0")[0]:
                return True
    return False
