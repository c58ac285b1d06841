"""Canaries in every variable and URI that may hold a secret: a whole run with them, and nothing says them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError, plain, say, shorten
from tests.adversarial.hostile.isolated import Outcome, run
from tests.support.paths import ROOT
from tests.support.training import TINY

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canary/of+the/secret-key",
    "AWS_SESSION_TOKEN": "canary-of-the-session-token",
    "RAY_AUTH_TOKEN": "canary-of-the-ray-token-0123456789abcdef",
}
PASSWORD = "canary-of-a-password/x"
WORDS = [word for secret in (*CANARIES.values(), PASSWORD) for word in (secret, secret.split("/")[-1]) if len(word) > 3]


def verb(*line: str, home: Path, **more: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | CANARIES | {"HOME": str(home), "TMPDIR": str(home), "OMP_NUM_THREADS": "1"} | more
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"icon_dist.{line[0]}", *line[1:]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )


def silent(content: bytes) -> None:
    for word in WORDS:
        assert word.encode() not in content, (word, content[:2000])


def isolated(line: list[str], folder: Path, **more: str) -> Outcome:
    """The same without the seconds of a new Python, for what ends at once."""
    home = folder / "home"
    home.mkdir()
    done = run(line[0], *line[1:], sandbox=home, environment=CANARIES | {"HOME": str(home)} | more)
    silent((done.out + done.err).encode())
    return done


@pytest.mark.slow
def test_a_whole_run_tells_no_secret(people: Path, s3: str, tmp_path: Path) -> None:
    values = TINY | {"data.train": f"{people}/train", "data.val": f"{people}/val", "run.dir": s3, "optim.epochs": 1}
    values |= {"run.launcher": "local", "run.workers": 1, "run.name": "it", "optim.milestones": "[]"}
    train = ["train", "--cfg", "demo", *(f"{key}={value}" for key, value in values.items())]
    weights, report = str(tmp_path / "best.safetensors"), str(tmp_path / "report.json")
    shards = ["--shards", f"{people}/val", "--loaders", "0", "--limit", "8"]
    lines = [
        train,
        [*train, "optim.epochs=2", "run.name=it"],  # resumes
        ["fetch", f"{s3}/it", "-o", weights],
        ["evaluate", weights, *shards, "--json", report, "--picture", str(tmp_path / "picture.png")],
        ["doctor", s3],
    ]
    for line in lines:
        done = verb(*line, home=tmp_path)
        assert done.returncode == 0, (line, done.stderr)
        silent(done.stdout + done.stderr)
    names = storage.listing(f"{s3}/it")
    kinds = {"config.yaml", "metrics.jsonl", "MANIFEST.json", "state.json", "model.safetensors", "last.json"}
    assert kinds <= {name.rpartition("/")[2] for name in names}
    assert any("tfevents" in name for name in names)
    for name in names:
        silent(storage.read(f"{s3}/it/{name}"))
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        silent(file.read_bytes())


@pytest.mark.parametrize(
    "line",
    [
        ["fetch", f"s3://AKIA:{PASSWORD}@bucket/run", "-o", "x.safetensors"],
        ["fetch", f"https://me:{PASSWORD}@host/run", "-o", "x.safetensors"],
        ["evaluate", f"s3://AKIA:{PASSWORD}@bucket/w.safetensors", "--shards", "none"],
        ["train", "--cfg", "demo", f"run.dir=s3://AKIA:{PASSWORD}@bucket/runs"],
        ["train", "--cfg", "demo", f"data.train=s3://{CANARIES['AWS_SESSION_TOKEN']}@bucket/train"],
        ["train", "--cfg", f"s3://AKIA:{PASSWORD}@bucket/x.yaml"],
        ["doctor", f"s3://AKIA:{PASSWORD}@bucket/run"],
    ],
)
def test_a_password_in_a_uri_is_not_repeated(line: list[str], tmp_path: Path) -> None:
    done = isolated(line, tmp_path)
    assert done.code == 2, done


@pytest.mark.parametrize("endpoint", [f"http://me:{PASSWORD}@127.0.0.1:9", f"me:{PASSWORD}@127.0.0.1:9"])
def test_an_endpoint_with_a_password_is_not_repeated(endpoint: str, tmp_path: Path) -> None:
    place = ["fetch", "s3://test-bucket/run", "-o", "x.safetensors"]
    environment = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIA"}
    assert isolated(place, tmp_path, **environment).code == 5


@pytest.mark.parametrize("secret", ["me:p", "p", "p/q", "me:p@q/r", "p?q#r"])
def test_a_secret_before_an_at_sign_is_covered(secret: str) -> None:
    assert plain(f"no bucket at 's3://{secret}@bucket/run'; me@host, s3://b/c") == (
        "no bucket at 's3://***@bucket/run'; me@host, s3://b/c"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/x?X-Amz-Signature=p&b=1", "https://h/x?X-Amz-Signature=***&b=1"),
        ("s3://b/k?AWSAccessKeyId=A&Expires=1;sig=p", "s3://b/k?AWSAccessKeyId=***&Expires=1;sig=***"),
        ("AWS_SECRET_ACCESS_KEY=p/q+r AWS_REGION=x", "AWS_SECRET_ACCESS_KEY=*** AWS_REGION=x"),
        ("AWS_SECRET_ACCESS_KEY='p' aws_secret_access_key=p", "AWS_SECRET_ACCESS_KEY='***' aws_secret_access_key=***"),
        ("RAY_AUTH_TOKEN=p RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=*** RAY_AUTH_MODE=token"),
        ("Authorization: Bearer p.q", "Authorization: Bearer ***"),
        ("loss.tau=0.1; optim.lr=2", "loss.tau=0.1; optim.lr=2"),
    ],
)
def test_secrets_of_every_kind_are_covered(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_long_line_is_covered_before_its_middle_is_left_out() -> None:
    """Else the end that tells a password from a path would be gone."""
    secret = "s3cret" * 50
    for text in (
        shorten(f"run.dir=s3://me:{secret}@bucket/x"),
        plain(f"{'x ' * 900}s3://me:{secret}@bucket/{'y' * 900}"),
    ):
        assert "s3cret" not in text


@pytest.mark.parametrize("uri", ["s3://k:s@b/x", "s3://k@b/x", "https://h/x?X-Amz-Signature=p", "s3://b/x?token=p"])
def test_a_place_with_a_secret_is_no_place(uri: str) -> None:
    with pytest.raises(ConfigError, match="no password may be in it") as caught:
        storage.absolute(uri)
    assert uri not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^run.dir=.*no password may be in it"):
        configuration.load("demo", [f"run.dir={uri}"])


def test_an_at_sign_in_a_path_is_no_secret() -> None:
    assert storage.absolute("s3://bucket/runs/me@host") == "s3://bucket/runs/me@host"


def test_what_is_printed_is_escaped_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2J\nb s3://k:s@b/x\r")
    assert capsys.readouterr().out == "a\\x1b[2J\nb s3://***@b/x\\r\n"


def test_a_traceback_names_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """With --debug its last line is the message."""

    def fail(_: list[str]) -> None:
        raise ConfigError("s3://me:hunter2@bucket/x: no")

    with pytest.raises(SystemExit):
        run_cli(fail, ["--debug"])
    told = capsys.readouterr().err
    assert told.splitlines()[-1] == "icon_dist: error: s3://***@bucket/x: no"
    assert "Traceback" in told
