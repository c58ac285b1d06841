"""Submit a training run to a Ray cluster: the exact ``ray job submit`` line, printed and run.

icon-dist submit [--follow] -- --cfg coco run.dir=s3://bucket/runs ...

The job's id follows from where the run lives (run.dir, run.name) and how often it was submitted. So the same line again
resumes the run, unless it is still running: two jobs never write one run. The same line with --status, --logs or --stop
asks for it. Ray itself is used through its command and its REST interface, and asked which files it would ship.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from icon_dist import storage
from icon_dist.cli import Parser
from icon_dist.command_exit import run_cli
from icon_dist.errors import ClusterError, ConfigError, StoppedError, holds_secret, plural, say, shorten, shown
from icon_dist.launch import auth_token

if TYPE_CHECKING:
    from icon_dist.config import Config

ADDRESS = "http://127.0.0.1:8265"
# Not shipped, in gitignore's notation: a leading slash means the working directory itself (icon_dist/data is code).
# Not "/.*": to Ray that is "." too, the working directory, and nothing would be shipped.
LEFT_BEHIND = ["/.?*", "/data", "/datasets", "/runs", "/out", "/build", "/dist", "/venv", "__pycache__", "*.egg-info"]
LEFT_BEHIND += ["*.tar", "*.zip", "*.safetensors", "*.pth", "*.parquet", "*.png", "*.jpg"]
MOST_BYTES = 100_000_000  # every node gets a copy; Ray itself stops at 512 MiB
ACTIVE = ("PENDING", "RUNNING")
PATIENCE_S = 20.0
# Between TERM and KILL when a job is stopped; with Ray's 3 s no checkpoint would be saved.
ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": "300"}


class Cluster(NamedTuple):
    """Where jobs go."""

    address: str
    token: str  # empty where there is none

    def ask(self, path: str, *, post: bool = False) -> Any:
        """JSON of Ray's REST interface; ClusterError with the fix when there is none."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(
            f"{self.address}/api/jobs/{path}", headers=headers, method="POST" if post else "GET"
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403):
                raise ClusterError(f"{self.address}: {auth_token.refused(self.token)}") from None
            raise ClusterError(f"{self.address}: HTTP {error.code}; is this a Ray dashboard? give --address") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            fix = f"start one with 'ray start --head', or reach it: ssh -L 8265:{ADDRESS[7:]} HEAD"
            raise ClusterError(f"{self.address}: no Ray cluster answers ({reason}); {fix}") from None

    def environment(self) -> dict[str, str]:
        """For the ray command, which sends its token only if told so."""
        return {"RAY_AUTH_MODE": "token"} if self.token else {}


class Job(NamedTuple):
    """One submission of a run."""

    submission: str
    number: int
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED
    message: str

    def exit_code(self, log: str) -> int:
        """Of the command that ran; 1 where nobody says. Of a job that was stopped Ray forgets it, and the log tells."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return StoppedError.exit_code if re.search(r"^icon_dist: stopped by SIGTERM .*resumes$", log, re.M) else 1
        found = re.search(r"exit code (\d+)", self.message)
        return int(found[1]) or 1 if found else 1


def identity(config: Config) -> str:
    """The beginning of the ids of all submissions of a run.

    >>> import dataclasses
    >>> from icon_dist.config import Config
    >>> run = dataclasses.replace(Config().run, name="w48", dir="s3://bucket/runs")
    >>> identity(dataclasses.replace(Config(), run=run))
    'w48-8cc9535f'
    """
    place = storage.join(config.run.dir.rstrip("/"), config.run.name)
    return f"{config.run.name}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def submissions(cluster: Cluster, run: str) -> list[Job]:
    """All submissions of a run, oldest first."""
    found = []
    for job in cluster.ask(""):
        name = job.get("submission_id") or ""
        if match := re.fullmatch(re.escape(run) + r"\.(\d+)", name):
            found.append(Job(name, int(match[1]), job["status"], job.get("message") or ""))
    return sorted(found, key=lambda job: job.number)


def command(cluster: Cluster, submission: str, train: list[str], *, folder: Path | None) -> list[str]:
    """The ``ray job submit`` line."""
    line = ["ray", "job", "submit", "--address", cluster.address, "--submission-id", submission, "--no-wait"]
    environment: dict[str, object] = {"env_vars": ENVIRONMENT}
    if folder is not None:
        line += ["--working-dir", str(folder)]
        environment["excludes"] = LEFT_BEHIND
    return [*line, "--runtime-env-json", json.dumps(environment), "--", "python", "-m", "icon_dist.train", *train]


def _run(cluster: Cluster, line: list[str], *, silent: bool = False) -> subprocess.CompletedProcess[str]:
    program = shutil.which("ray", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        raise ClusterError("ray: no such command; pip install -c constraints.txt -e .")
    environment = os.environ | cluster.environment()
    return subprocess.run([program, *line[1:]], env=environment, capture_output=silent, text=True, check=False)


def _submit(cluster: Cluster, line: list[str], submission: str) -> None:
    """Run the line; ClusterError with the last of what Ray says where it takes no job, which is a page."""
    done = _run(cluster, line, silent=True)
    if done.returncode:
        said = re.findall(r".*\w.*", done.stdout + done.stderr) or [f"ray ended with {done.returncode}"]
        raise ClusterError(f"{cluster.address}: takes no job: {shorten(said[-1], 300)}")
    say(f"{submission}: submitted")


def _show(cluster: Cluster, line: list[str]) -> None:
    said = [f"{name}={value}" for name, value in cluster.environment().items()]
    say(" ".join(["$", *said, shlex.join(line)]))


def _packaged(folder: Path) -> dict[str, int]:
    """The files that go to the cluster, as Ray finds them, and their sizes; says how many these are."""
    from icon_dist.launch import ray_compat  # a second, for this alone

    try:
        files = ray_compat.packaged(folder, LEFT_BEHIND)
    except (OSError, ValueError) as error:  # a folder that may not be read, a .gitignore that is no text
        fix = "mend that, give another folder, or --no-working-dir"
        raise ConfigError(f"--working-dir {folder}: Ray cannot pack it ({shorten(str(error))}); {fix}") from None
    total = sum(files.values())
    if total > MOST_BYTES:
        name, size = max(files.items(), key=lambda file: file[1])
        raise ConfigError(
            f"--working-dir {folder}: {total / 1e6:.0f} MB would go to every node, the largest file is {name} "
            f"({size / 1e6:.0f} MB); give a folder of at most {MOST_BYTES / 1e6:.0f} MB, or --no-working-dir"
        )
    what = f"{folder}, {plural(len(files), 'file')}, {total / 1e6:.1f} MB"
    say(f"working directory: {what}; left out: what .gitignore names, and {' '.join(LEFT_BEHIND)}")
    return files


def _require_everywhere(config: Config) -> None:
    """Refuse places that mean something else on a node, which starts in a copy of the working directory."""
    from icon_dist import config as configuration

    keys = ("run.dir", "data.train", "data.val", "model.pretrained", "semi.teacher")
    places = [(key, uri) for key in keys for uri in configuration.sets_of(configuration.get(config, key))]
    for key, place in places:
        if place and place != "imagenet" and not place.startswith(("s3://", "/", "file:///")):
            raise ConfigError(
                f"{key}={shown(place)}: a relative path, which every node would look for in its copy of the working "
                "directory; give s3://... or an absolute path that all nodes see, or --no-working-dir"
            )


def _require_shipped(cfg: str, folder: Path, files: Mapping[str, int]) -> None:
    """Refuse a config file of one's own, or one that it extends, that would not be where the job looks for it."""
    from icon_dist import config as configuration

    if os.path.isabs(os.path.expanduser(cfg)):
        return  # all nodes see it, as with data
    inside = not os.path.normpath(cfg).startswith("..")
    there = inside and os.path.realpath(folder / cfg) == os.path.realpath(cfg)
    for file in configuration.files(cfg):
        place = file.parent.resolve() / file.name
        if not there or os.path.relpath(place, folder) not in files:
            fix = "copy it to where it goes along, or put it on s3:// or on an absolute path that all nodes see"
            raise ConfigError(
                f"--cfg {shorten(cfg)}: {place} is not in what is shipped of {folder} (.gitignore counts); {fix}"
            )


def _training(words: list[str]) -> tuple[str, Config]:
    """What ``icon_dist.train`` would make of its arguments, and its --cfg; a mistake is found here and not on the
    cluster."""
    parser = Parser("icon-dist submit", "", add_help=False)
    parser.add_config()
    args = parser.parse_intermixed_args(words)

    from icon_dist import config as configuration

    return args.cfg, configuration.load(args.cfg, args.overrides)


def _require(cluster: Cluster, job: str, run: str) -> Job:
    for found in submissions(cluster, run):
        if found.submission == job:
            return found
    raise ClusterError(f"{job}: the cluster has no such job any more; type the same line again")


def _follow(cluster: Cluster, job: str, run: str) -> int:
    """Show the log until the job ends; one that breaks off is taken up again."""
    line = ["ray", "job", "logs", "--address", cluster.address, "--follow", job]
    _show(cluster, line)
    _run(cluster, line)
    while (now := _require(cluster, job, run)).status in ACTIVE:
        say(f"the log broke off, and {job} is {now.status}; following again", file=sys.stderr)
        _run(cluster, line)
    code = now.exit_code(cluster.ask(f"{job}/logs")["logs"] if now.status == "STOPPED" else "")
    say(f"{job}: {now.status}, exit code {code}")
    return code


def _divided(argv: list[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and those of ``icon-dist train`` behind ``--``."""
    if "--" in argv:
        at = argv.index("--")
        return argv[:at], argv[at + 1 :]
    for at, word in enumerate(argv):
        if re.match(r"--cfg\b|--print-config$|\w+(\.\w+)+=", word):
            right = shorten(shlex.join(["icon-dist", "submit", *argv[:at], "--", *argv[at:]]), 400)
            raise ConfigError(f"{shorten(word)}: is for the training, whose words stand after --; type: {right}")
    return argv, []


def main(argv: list[str]) -> int:
    """Run ``icon-dist submit`` with these words: submit a run, or ask for its newest job.

    Returns the exit code: with --follow and --logs that of the job, else 0. Raises ConfigError for a mistake in the
    words, ClusterError where there is no such job, or none is taken.
    """
    own, train = _divided(argv)
    parser = Parser(
        "icon-dist submit",
        __doc__.splitlines()[0],
        usage="%(prog)s [options] -- --cfg NAME [a.b=c ...]",
        epilog="After -- stands what `icon-dist train` takes.",
    )
    where = f"the dashboard; default RAY_API_SERVER_ADDRESS, else {ADDRESS}"
    parser.add_argument("--address", default=os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS, help=where)
    parser.add_argument("--working-dir", default=".", metavar="DIR", help="shipped to every node; default: here")
    parser.add_argument("--no-working-dir", action="store_true", help="run what is installed on the nodes")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--follow", action="store_true", help="show the log and end as the job ends, with its exit code")
    what.add_argument("--dry-run", action="store_true", help="print the line and leave; asks the cluster for nothing")
    what.add_argument("--status", action="store_true", help="of the run's newest job")
    what.add_argument("--logs", action="store_true", help="of the run's newest job, from its start to its end")
    what.add_argument("--stop", action="store_true", help="ask the run's job to save and leave")
    args = parser.parse_args(own)
    if not args.address.startswith(("http://", "https://")):
        raise ConfigError(f"--address {shown(args.address)}: expected the dashboard's, such as {ADDRESS}")
    if holds_secret(args.address):
        raise ConfigError("--address: a password in it would be shown; the token of Ray's is in ~/.ray/auth_token")
    if not train:
        example = "icon-dist submit -- --cfg coco data.train=s3://... run.dir=s3://..."
        raise ConfigError(f"-- --cfg NAME: missing; the words of icon-dist train stand after --, such as: {example}")
    cfg, config = _training(train)
    cluster, run = Cluster(args.address.rstrip("/"), auth_token.find()), identity(config)
    jobs = [] if args.dry_run else submissions(cluster, run)
    newest = jobs[-1] if jobs else None
    if args.status or args.logs or args.stop:
        if newest is None:
            raise ClusterError(f"{cluster.address}: no job of run {config.run.name} in {config.run.dir} was submitted")
        return _ask(cluster, newest, run, stop=args.stop, logs=args.logs)
    if newest is not None and newest.status in ACTIVE:
        say(f"{newest.submission} is {newest.status} already: nothing is submitted (the same line with --stop ends it)")
        return _follow(cluster, newest.submission, run) if args.follow else 0
    folder = None
    if not args.no_working_dir:
        folder = Path(args.working_dir).resolve()
        if not folder.is_dir():
            raise ConfigError(f"--working-dir {args.working_dir}: no such folder")
        _require_everywhere(config)
        _require_shipped(cfg, folder, _packaged(folder))
    submission = f"{run}.{newest.number + 1 if newest else 1}"
    line = command(cluster, submission, train, folder=folder)
    say(f"run {config.run.name} in {config.run.dir}, job {submission}; token: {'yes' if cluster.token else 'none'}")
    _show(cluster, line)
    if args.dry_run:
        return 0
    _submit(cluster, line, submission)
    return _follow(cluster, submission, run) if args.follow else 0


def _ask(cluster: Cluster, job: Job, run: str, *, stop: bool, logs: bool) -> int:
    if logs:
        return _follow(cluster, job.submission, run)
    if stop and job.status in ACTIVE:
        cluster.ask(f"{job.submission}/stop", post=True)
        say(f"{job.submission}: asked to stop")
        return 0
    say(f"{job.submission}: {job.status}" + (f" ({job.message})" if job.message else ""))
    return 0


if __name__ == "__main__":
    run_cli(main)
