"""The whole way of a run over stores with other habits than AWS; and what people are told where there is no way."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
import torch
from boto3.s3.transfer import TransferConfig

from icon_dist import errors, fetch, storage
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints.background_saver import Saver, send_unsent
from icon_dist.datasets import load_skeleton, skeleton_to_dict
from icon_dist.errors import StorageError
from icon_dist.launch.signals import Stop
from icon_dist.shards.reader import ShardReader
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.synthetic import Crowd, generate_shards
from icon_dist.storage import retry
from icon_dist.storage import s3 as s3_storage
from icon_dist.storage.s3_client import client as client_of_s3
from tests.support.other_stores import CHECKSUMS, HABITS, Store, store

pytestmark = pytest.mark.usefixtures("short_waits")
RUN = "s3://bucket/runs/w8"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    values = {"ACCESS_KEY_ID": "testing-key", "SECRET_ACCESS_KEY": "testing-secret", "REGION": "us-east-1"}
    values |= {"CONFIG_FILE": os.devnull, "SHARED_CREDENTIALS_FILE": os.devnull, "EC2_METADATA_DISABLED": "true"}
    for name, value in values.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(errors, "noted", set())


@pytest.fixture
def odd(request: pytest.FixtureRequest) -> Iterator[Store]:
    with store(request.param) as server:
        yield server


def habits(*words: str) -> pytest.MarkDecorator:
    """Tests over the stores whose habit has one of these words."""
    return pytest.mark.parametrize("odd", [h for h in HABITS if any(w in h for w in words)], indirect=True)


def save(step: int, *, score: float | None, run: str = RUN) -> str:
    tensors = {"model": {"x": torch.full((300,), float(step))}, "optimizer": {"y": torch.zeros(3)}}
    said = {"score": score, "config": {}, "skeleton": skeleton_to_dict(load_skeleton("coco"))}
    return checkpoint.save(
        run, step=step, attempt="a", tensors=tensors, state={}, manifest=said, keep=1, warn=pytest.fail
    )


@pytest.mark.usefixtures("odd")
@habits("signature", "implemented", "etags", "range", "conflicts", "slows", "404", "once", "nothing yet", "version 2")
def test_bytes_go_up_and_down(tmp_path: Path) -> None:
    data = os.urandom(3000)
    storage.write(f"{RUN}/a b+c/ü%41", data)
    assert storage.read(f"{RUN}/a b+c/ü%41") == data
    storage.write(f"{RUN}/x", data)
    assert storage.size(f"{RUN}/x") == 3000
    assert storage.read(f"{RUN}/x", sound=lambda body: body == data) == data
    assert storage.read(f"{RUN}/x", 7, 100) == data[7:107]
    assert storage.read(f"{RUN}/x", 2990, 100) == data[2990:]
    assert storage.read(f"{RUN}/x", 2990) == data[2990:]
    storage.copy_to(f"{RUN}/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == data
    (tmp_path / "part").write_bytes(data[:1000])
    assert storage.read_resumed(f"{RUN}/x", tmp_path / "part", sha256="") == data
    with pytest.raises(FileNotFoundError):
        storage.read(f"{RUN}/absent")
    storage.delete(f"{RUN}/x")
    storage.delete(f"{RUN}/x")
    assert not storage.exists(f"{RUN}/x")


@habits("version", "pages", "keys", "slows")
@pytest.mark.usefixtures("odd")
def test_a_listing_is_whole() -> None:
    names = sorted(f"{folder}/{n:02}" for folder in "ab" for n in range(8))
    for name in names:
        storage.write(f"{RUN}/{name}", b"x")
    storage.write("s3://bucket/runs/w88/other", b"x")
    assert storage.listing(RUN) == names
    assert storage.exists(f"{RUN}/a")
    assert not storage.exists(f"{RUN}/c")
    storage.delete(f"{RUN}/a", tree=True)
    assert storage.listing(RUN) == names[8:]


@pytest.mark.parametrize("habit", ["slows down", "no multipart", "larger parts", "no etags"])
def test_a_large_upload(habit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    monkeypatch.setattr(s3_storage, "MULTIPART", small)
    data = os.urandom(1 << 10) * (7 << 10)
    with store(habit):
        storage.write(f"{RUN}/big", data)
        assert storage.read(f"{RUN}/big") == data


@habits("if-none-match", "conflicts", "no etags", "signature")
def test_the_first_of_several_writers_wins(odd: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert storage.write_new(f"{RUN}/run.id", b"first")
    assert not storage.write_new(f"{RUN}/run.id", b"second")
    assert not storage.write_new(f"{RUN}/run.id", b"first")
    assert storage.write_new(f"{RUN}/other", b"other")
    assert odd.objects["runs/w8/run.id"] == b"first"
    told = capsys.readouterr().err.count("no conditional writes (If-None-Match): two writers cannot be told apart")
    assert told == ("if-none-match" in odd.habit)


@habits("implemented", "if-none-match", "etags", "conflicts", "version 1", "lists", "404", "spoils")
def test_a_run_is_saved_resumed_and_fetched(odd: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Saver(RUN, keep=1, warn=pytest.fail):
        identity = odd.objects["runs/w8/run.id"]
    for step, score in ((1, 0.9), (2, 0.5), (3, 0.6)):
        save(step, score=score)
        if step == 2:
            continue
        found = checkpoint.find(RUN, warn=pytest.fail, missing_ok=True)
        assert found is not None
        assert found.step == step, "what was just saved is found"
        assert found.tensors("model")["x"][0] == step
    best = checkpoint.find(RUN, which="best", warn=pytest.fail)
    assert best is not None
    if not odd.habit.startswith("lists"):
        assert best.step == 1
        assert [entry.step for entry in manifests.entries(RUN)] == [1, 3]
    with Saver(RUN, keep=1, warn=pytest.fail):
        assert odd.objects["runs/w8/run.id"] == identity
    fetch.main([RUN, "--list"])
    fetch.main([RUN, "--last", "-o", str(tmp_path / "w.safetensors")])
    assert "step 3" in capsys.readouterr().out


@pytest.mark.parametrize("habit", ["ignores range", "spoils a body once"])
def test_shards_are_built_and_read(habit: str, tmp_path: Path) -> None:
    with store(habit):
        generate_shards("s3://bucket/people", Crowd(people=6, seed=0), split="train", per_shard=4)
        generate_shards(str(tmp_path / "people"), Crowd(people=6, seed=0), split="train", per_shard=4)
        remote, local = open_shards("s3://bucket/people"), open_shards(str(tmp_path / "people"))
        for row in range(6):
            assert ShardReader(remote).read(row) == ShardReader(local).read(row)


def test_a_user_who_asks_for_checksums_gets_them_and_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    for habit, (_, code) in CHECKSUMS.items():
        with store(habit), pytest.raises(StorageError) as caught:
            storage.write(f"{RUN}/x", b"x")
        assert f"({code}); set AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in str(caught.value)
        assert "credentials" not in str(caught.value)


def test_a_profile_of_the_user_is_not_overruled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[default]\nrequest_checksum_calculation = when_supported\ns3 =\n  addressing_style = virtual\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9")
    config = client_of_s3().meta.config
    assert config.request_checksum_calculation == "when_supported"
    assert config.response_checksum_validation == "when_required"
    assert config.s3["addressing_style"] == "virtual"


def test_aws_itself_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("", "https://s3.eu-west-1.amazonaws.com"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        config = client_of_s3().meta.config
        assert config.request_checksum_calculation == "when_supported"
        assert not config.s3


def test_a_listing_that_is_behind_hides_no_checkpoint_and_deletes_none() -> None:
    with store() as server:
        save(1, score=0.9)
        server.habit = "lists manifests late"
        save(2, score=0.2)
        assert "runs/w8/checkpoints/step-00000001-a/MANIFEST.json" in server.objects, (
            "the best, though it is not listed"
        )
        found = checkpoint.find(RUN, warn=pytest.fail)
        assert found is not None
        assert found.step == 2
        server.habit = "lists nothing yet"
        found = checkpoint.find(RUN, warn=pytest.fail, missing_ok=True)
        assert found is not None
        assert found.step == 2
        del server.objects["runs/w8/last.json"], server.objects["runs/w8/best.json"]
        storage.write(f"{RUN}/run.id", b"x")
        said: list[str] = []
        assert checkpoint.find(RUN, warn=said.append, missing_ok=True) is None
        assert "a run began here (run.id)" in said[0], "never a fresh start in silence"


def test_an_outage_on_a_store_without_conditions_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 0.1)
    with store("ignores if-none-match") as server:
        said: list[str] = []
        tensors = {name: {"x": torch.ones(8)} for name in ("model", "optimizer")}
        saver = Saver(RUN, keep=1, warn=said.append)
        server.always = (503, {}, b"")
        saver.save(step=5, tensors=tensors, state={}, manifest={})
        saver.wait()
        server.always = None
        Saver(RUN, keep=1, warn=pytest.fail)
        send_unsent(RUN, warn=said.append)
        assert manifests.newest_step(RUN) == 5
    assert "step 5 is not in" in said[0]
    assert "sent; an outage had kept it" in said[1]


def test_what_cannot_be_tidied_up_does_not_unsave_a_checkpoint() -> None:
    said: list[str] = []
    with store("deletes nothing"):
        save(1, score=None)
        uri = checkpoint.save(
            RUN, step=2, attempt="a", tensors={"model": {}}, state={}, manifest={}, keep=1, warn=said.append
        )
        assert manifests.newest_step(RUN) == 2
    assert said[0].startswith(f"warning: {uri} is saved, but what is older could not be tidied up: {RUN}")
    assert "does not do DeleteObject" in said[0]


HTML = b"<!DOCTYPE html><html><body>testing-secret</body></html>"
PAGE = {"Content-Type": "text/html; charset=utf-8"}
SAYS = "<Error><Code>{}</Code><Message>testing-secret</Message></Error>"
LATE = {"Date": formatdate(time.time() - 86400, usegmt=True)}
NO: dict[str, tuple[int, dict[str, str], bytes, str]] = {
    "console": (200, PAGE, HTML, "answers with a web page, not as S3 does (HTTP 200); check AWS_ENDPOINT_URL"),
    "console without a type": (200, {}, HTML, "answers with a web page|no listing"),
    "login page": (403, PAGE, HTML, "answers with a web page, not as S3 does (HTTP 403)"),
    "other server": (404, PAGE, HTML, "answers with a web page, not as S3 does (HTTP 404)"),
    "bad request page": (400, PAGE, HTML, "answers with a web page, not as S3 does (HTTP 400)"),
    "plain 400": (400, {"Content-Type": "text/plain"}, b"HTTP request to HTTPS", "http or https, the port"),
    "no method": (405, {}, b"", "does not do"),
    "not there": (501, {}, SAYS.format("NotImplemented").encode(), "does not do"),
    "proxy login": (407, {}, b"", "the proxy asks for a login (407)"),
    "login": (401, {}, b"", "asks for another login"),
    "redirect": (
        307,
        {"Location": "https://u:testing-secret@s3.example:44/x?y"},
        b"",
        "on to https://s3.example:44 (H",
    ),
    "moved": (301, {"Location": "https://s3.example/x"}, b"", "on to https://s3.example (HTTP 301)"),
    "region": (
        301,
        {"x-amz-bucket-region": "eu-1"},
        SAYS.format("PermanentRedirect").encode(),
        "set AWS_REGION to eu-1",
    ),
    "signed for": (
        400,
        {},
        b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-1</Region></Error>",
        "set AWS_REGION to eu-1",
    ),
    "skew": (403, LATE, SAYS.format("RequestTimeTooSkewed").encode(), "the clock of this machine is 1 d off"),
    "bucket": (404, {}, SAYS.format("NoSuchBucket").encode(), "bucket 'bucket' does not exist"),
    "key": (403, {}, SAYS.format("InvalidAccessKeyId").encode(), "does not know AWS_ACCESS_KEY_ID"),
    "secret": (403, {}, SAYS.format("SignatureDoesNotMatch").encode(), "AWS_SECRET_ACCESS_KEY is not that of the key"),
    "token": (400, {}, SAYS.format("ExpiredToken").encode(), "(ExpiredToken): they have expired; renew them"),
    "denied": (403, {}, SAYS.format("AccessDenied").encode(), "access denied (403)"),
    "suspended": (403, {}, SAYS.format("UserSuspended").encode(), "access denied (403, UserSuspended)"),
    "full": (507, {}, SAYS.format("XMinioStorageFull").encode(), "the store is full"),
    "quota": (403, {}, SAYS.format("QuotaExceeded").encode(), "the store is full"),
    "virtual": (403, {}, SAYS.format("SecondLevelDomainForbidden").encode(), "addressing_style = virtual"),
    "throttled": (429, {}, b"", "429 (HTTP 429), retried for"),
    "gateway": (502, PAGE, HTML, "502 (HTTP 502), retried for"),
    "outage": (503, {}, SAYS.format("ServiceUnavailable").encode(), "(HTTP 503), retried for"),
    "aborted": (409, {}, SAYS.format("OperationAborted").encode(), "(HTTP 409), retried for"),
}
CALLS = {
    "read": lambda: storage.read(f"{RUN}/x"),
    "size": lambda: storage.size(f"{RUN}/x"),
    "list": lambda: storage.listing(RUN),
    "write": lambda: storage.write(f"{RUN}/x", b"x"),
    "new": lambda: storage.write_new(f"{RUN}/x", b"x"),
    "delete": lambda: storage.delete(f"{RUN}/x"),
    "find": lambda: checkpoint.find(RUN, warn=pytest.fail, missing_ok=True),
}


@pytest.mark.parametrize("name", NO)
def test_each_refusal_has_its_own_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 0.0)
    monkeypatch.setattr(retry, "FIRST_PATIENCE_S", 0.0)
    status, headers, body, expected = NO[name]
    with store(always=(status, headers, body)) as server:
        for kind, call in CALLS.items():
            if name == "console without a type" and kind not in ("list", "find", "write", "delete"):
                continue  # such an object could be ours; its hash tells
            if name == "other server" and kind == "read":
                continue  # is it missing, or is it the wrong server? a listing tells
            server.seen.clear()
            with pytest.raises(StorageError) as caught:
                call()
            text = str(caught.value)
            assert re.search(expected if "|" in expected else re.escape(expected), text), f"{kind}: {text}"
            assert text.startswith(RUN)
            assert "\n" not in text
            assert "testing-secret" not in text
            if status < 500 and status not in (409, 429):
                assert len(server.seen) <= 6, "asked again and again what will not change"


def attempt(uri: str) -> None:
    with pytest.raises(StorageError):
        storage.read(uri)


def test_the_first_answer_late_and_an_outage_are_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 1.0)
    with store() as server:
        storage.write(f"{RUN}/x", b"x")
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(retry, "SIGN_S", 0.1)
        server.always = (503, {}, b"")
        with pytest.raises(StorageError):
            storage.read(f"{RUN}/x")
        line = f"icon_dist: {RUN}/x: 127.0.0.1:{server.server_address[1]} does not answer (503); trying for 1 s\n"
        assert capsys.readouterr().err == line, "once, however often it is tried"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, and never says a word
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(retry, "told", False)
        waiting = threading.Thread(target=attempt, args=[f"{RUN}/y"], daemon=True)
        waiting.start()
        while not (told := capsys.readouterr().err):
            time.sleep(0.02)
        monkeypatch.setattr(retry, "FIRST_PATIENCE_S", 0.0)
        assert re.fullmatch(rf"icon_dist: {RUN}/y: no answer from 127.0.0.1:\d+ yet; trying for 8 s\n", told)
    waiting.join()


def test_who_leaves_waits_for_an_outage_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is stopped has minutes before it is killed, and an end makes a dozen calls."""
    monkeypatch.setattr(retry, "PATIENCE_S", 0.05)
    monkeypatch.setattr(retry, "FIRST_PATIENCE_S", 0.0)
    once = 2  # requests: botocore makes a second one at once

    def attempts() -> int:
        server.seen.clear()
        attempt(f"{RUN}/x")
        return len(server.seen)

    with store() as server, Stop() as stop:
        storage.write(f"{RUN}/x", b"x")
        server.always = (503, {}, b"")
        assert min(attempts(), attempts()) > once
        stop.ask("SIGTERM")
        assert attempts() > once
        assert attempts() == attempts() == once
        server.always = None
        assert storage.read(f"{RUN}/x") == b"x"
        server.always = (503, {}, b"")
        assert attempts() > once
    assert not storage.leaving


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "http://no.such.host.invalid:1"}, "no.such.host.invalid:1 does not answer (no such host"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "127.0.0.1:9 does not answer (connection refused"),
        ({"AWS_ENDPOINT_URL": "ftp://127.0.0.1:9"}, "AWS_ENDPOINT_URL is not a URL"),
        ({"AWS_ENDPOINT_URL_S3": "127.0.0.1:9"}, "AWS_ENDPOINT_URL_S3 is not a URL"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:99999"}, "AWS_ENDPOINT_URL is not a URL"),
        ({"AWS_ENDPOINT_URL": "https://127.0.0.1:{port}"}, "does not speak TLS; write http:// in AWS_ENDPOINT_URL"),
        ({"AWS_PROFILE": "absent"}, "AWS_PROFILE names a profile that does not exist"),
        ({"AWS_ACCESS_KEY_ID": "a\nb"}, "letters that no request can carry"),
        ({"AWS_SESSION_TOKEN": "ü\n"}, "letters that no request can carry"),
        ({"AWS_REQUEST_CHECKSUM_CALCULATION": "sometimes"}, "when_supported or when_required"),
        ({"AWS_CA_BUNDLE": "/no/such/file", "AWS_ENDPOINT_URL": "https://127.0.0.1:{port}"}, "AWS_CA_BUNDLE"),
        ({"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}, "the proxy does not answer"),
        ({"AWS_CONFIG_FILE": "{garbage}"}, "the AWS config file cannot be read"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials"),
        ({"AWS_RETRY_MODE": "wild"}, ""),
        ({"AWS_MAX_ATTEMPTS": "-1"}, ""),
        ({"AWS_USE_FIPS_ENDPOINT": "perhaps"}, ""),
    ],
)
def test_what_is_wrong_on_this_side_is_one_line(
    variables: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_PATIENCE_S", 0.0)
    (tmp_path / "garbage").write_text("[default\nx")
    with store() as server:
        for name, value in variables.items():
            if name == "AWS_ENDPOINT_URL_S3":
                monkeypatch.delenv("AWS_ENDPOINT_URL")
            filled = value.replace("{port}", str(server.server_address[1]))
            monkeypatch.setenv(name, filled.replace("{garbage}", str(tmp_path / "garbage")))
        if not expected:
            storage.write(f"{RUN}/x", b"x")
            return
        for call in (CALLS["write"], CALLS["list"]):
            with pytest.raises(StorageError) as caught:
                call()
            assert expected in str(caught.value)
            assert "\n" not in str(caught.value)
            assert "testing-secret" not in str(caught.value)
