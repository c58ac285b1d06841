"""Shared fixtures: real data, and shape checks of every annotated signature while tests run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3.session
import pytest
from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401  (named below)

install_import_hook("icon_dist", "tests.shapes.check")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real photos and annotations beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder.relative_to(ROOT.parent)} is absent beside the checkout")
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an S3 server in a process of its own; the AWS variables of this process and its children point there."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        command, cwd=tmp_path_factory.mktemp("moto"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server ended at once"
                assert time.monotonic() < deadline, "the S3 server does not answer"
                time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "testing-key")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_REGION", "us-east-1")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            patch.setenv("AWS_CONFIG_FILE", os.devnull)
            patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
                patch.delenv(name, raising=False)
            boto3.session.Session().client("s3").create_bucket(Bucket="test-bucket")
            yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def s3(s3_endpoint: str) -> str:
    """An empty ``s3://`` prefix for one test, served over real HTTP."""
    del s3_endpoint
    return f"s3://test-bucket/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated people as shards: ``train`` (at least 64) and ``val`` (at least 24)."""
    from icon_dist.data.generate import generate_shards

    folder = tmp_path_factory.mktemp("people")
    for split, count, seed in (("train", 64, 0), ("val", 24, 1)):
        generate_shards(str(folder / split), people=count, seed=seed, split=split, per_shard=20)
    return folder
