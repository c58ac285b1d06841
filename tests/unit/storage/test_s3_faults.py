"""A server that answers 503, cuts or corrupts bodies; and each way in which S3 says no."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3.session
import pytest

from icon_dist import storage
from icon_dist.errors import StorageError
from icon_dist.storage import retry, s3_download
from tests.support.s3 import Proxy, refusing

pytestmark = pytest.mark.usefixtures("short_waits")
DATA = os.urandom(3 << 20)


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    del s3_endpoint
    with Proxy.between() as server:
        yield server


@pytest.fixture
def blob(s3: str) -> str:
    uri = s3 + "/blob"
    storage.write(uri, DATA)
    return uri


@pytest.mark.parametrize("fault", ["503", "500", "reset", "cut", "corrupt"])
def test_a_read_survives(fault: str, blob: str, proxy: Proxy) -> None:
    proxy.faults = [fault] * 4
    assert storage.read(blob) == DATA
    assert proxy.faults == []


@pytest.mark.parametrize("fault", ["503", "500", "reset", "lost"])
def test_a_write_survives(fault: str, s3: str, proxy: Proxy) -> None:
    proxy.faults = [fault] * 3
    storage.write(s3 + "/x", DATA)
    assert proxy.faults == []
    assert storage.read(s3 + "/x") == DATA


def test_a_cut_body_is_resumed_where_it_broke(blob: str, proxy: Proxy) -> None:
    proxy.faults = ["cut", "cut"]
    assert storage.read(blob, 100, 2_000_000) == DATA[100:2_000_100]
    starts = [int(asked.removeprefix("bytes=").split("-")[0]) for _, asked in proxy.seen]
    assert starts == sorted(set(starts))
    assert starts[0] == 100
    assert starts[-1] > 900_000  # 30 % and then 30 % of the rest are not asked for again


def test_an_object_replaced_during_a_resume_is_not_spliced(
    blob: str, s3_endpoint: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = bytes(len(DATA))
    replaced = []

    def replace(done: int) -> None:
        if not replaced and done > 0:
            replaced.append(done)
            client = boto3.session.Session().client("s3", endpoint_url=s3_endpoint)
            bucket, _, key = blob.removeprefix("s3://").partition("/")
            client.put_object(Bucket=bucket, Key=key, Body=other)

    monkeypatch.setattr(s3_download, "CHUNK", 1 << 16)
    proxy.faults = ["cut"]
    assert storage.read(blob, progress=replace) == other
    assert replaced


def test_a_lost_answer_does_not_look_like_another_writer(s3: str, proxy: Proxy) -> None:
    proxy.faults = ["lost"]
    assert storage.write_new(s3 + "/x", b"mine")
    proxy.faults = ["lost"]
    assert not storage.write_new(s3 + "/x", b"another's")
    assert storage.read(s3 + "/x") == b"mine"


def test_an_outage_ends(blob: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.size(blob)
    monkeypatch.setattr(retry, "PATIENCE_S", 0.5)
    proxy.faults = ["503"] * 1000
    with pytest.raises(StorageError, match=r"503.*retried for") as caught:
        storage.read(blob)
    assert "\n" not in str(caught.value)


def refusal(uri: str) -> str:
    with pytest.raises(StorageError) as caught:
        storage.read(uri)
    text = str(caught.value)
    assert caught.value.exit_code == 5
    assert "\n" not in text
    assert "testing-secret" not in text
    assert uri in text
    return text


@pytest.mark.usefixtures("s3")
def test_no_bucket(tmp_path: Path) -> None:
    for call in (
        lambda uri: storage.read(uri),
        lambda uri: storage.size(uri),
        lambda uri: storage.exists(uri),
        lambda uri: storage.listing(uri),
        lambda uri: storage.write(uri, b"x"),
        lambda uri: storage.write_new(uri, b"x"),
        lambda uri: storage.copy_to(uri, tmp_path / "x"),
    ):
        with pytest.raises(StorageError, match="bucket 'absent-bucket' does not exist"):
            call("s3://absent-bucket/x")


def test_no_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no AWS credentials" in refusal(s3 + "/x")


def test_no_profile(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    assert "AWS_PROFILE" in refusal(s3 + "/x")


def test_no_endpoint(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PATIENCE_S", 0.3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    text = refusal(s3 + "/x")
    assert "127.0.0.1:9 does not answer" in text
    assert "hunter2" not in text


def test_an_endpoint_that_is_no_url(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost 9000")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL is not a URL"):
        storage.read(s3 + "/x")


@pytest.mark.parametrize(
    ("status", "code", "header", "expected"),
    [
        (403, "AccessDenied", "", "access denied (403)"),
        (403, "InvalidAccessKeyId", "", "credentials are refused (InvalidAccessKeyId)"),
        (400, "ExpiredToken", "", "credentials are refused (ExpiredToken)"),
        (301, "PermanentRedirect", "eu-west-1", "another region; set AWS_REGION to eu-west-1"),
        (400, "InvalidRequest", "", "InvalidRequest (HTTP 400)"),
    ],
)
def test_refusals_differ(status: int, code: str, header: str, expected: str, s3: str) -> None:
    with refusing(status, code, region=header):
        assert expected in refusal(s3 + "/x")
