"""The S3 policy lets a run do what it does, and nothing else: against a server that enforces it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3.session
import pytest
import torch

from icon_dist import fetch, storage
from icon_dist.checkpoints import checkpoint
from icon_dist.datasets import load_skeleton, skeleton_to_dict
from icon_dist.errors import StorageError
from icon_dist.shards.shard_set import open_shards
from tests.support.paths import ROOT
from tests.support.s3 import free_port


@pytest.fixture
def enforcing(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with shards; the AWS variables are a user's who has the policy and no more."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name, value in (("ENDPOINT_URL", url), ("ACCESS_KEY_ID", "root"), ("SECRET_ACCESS_KEY", "root")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        session = boto3.session.Session()
        s3, iam = session.client("s3"), session.client("iam")
        for bucket in ("mine", "other"):
            s3.create_bucket(Bucket=f"bucket-{bucket}")
        s3.put_object(Bucket="bucket-other", Key="runs/secret", Body=b"x")
        for file in sorted((people / "train").iterdir()):
            s3.upload_file(str(file), "bucket-mine", f"shards/train/{file.name}")
        s3.put_object(Bucket="bucket-mine", Key="private/secret", Body=b"x")
        policy = json.loads((ROOT / "cluster" / "s3-policy.json").read_text().replace("BUCKET", "bucket-mine"))
        # AWS asks about each object that is deleted; this server about the bucket.
        there = {"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::bucket-mine"}
        policy["Statement"].append(there)
        iam.create_user(UserName="run")
        iam.put_user_policy(UserName="run", PolicyName="s3", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="run")["AccessKey"]
        for client in (s3, iam):
            client.close()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        # from here on it asks who may do what
        enforce = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
        urllib.request.urlopen(enforce, timeout=10).close()
        yield "s3://bucket-mine"
    finally:
        server.terminate()
        server.wait(30)


def test_a_run_may_do_what_it_does_and_no_more(enforcing: str, tmp_path: Path) -> None:
    assert len(open_shards(f"{enforcing}/shards/train")) >= 64
    run, about = (
        f"{enforcing}/runs/w32",
        {"score": 0.5, "config": {}, "skeleton": skeleton_to_dict(load_skeleton("lsp"))},
    )
    for step in (1, 2, 3):  # the first is deleted
        weights = {"model": {"x": torch.arange(3.0)}}
        checkpoint.save(run, step=step, attempt="a", tensors=weights, state={}, manifest=about, keep=1)
    fetch.main([run, "--last", "-o", str(tmp_path / "x.safetensors")])
    fetch.main([run, "--list"])
    (tmp_path / "big").write_bytes(bytes(65 << 20))
    storage.write(f"{run}/big", tmp_path / "big")  # in parts
    forbidden = {
        "write shards": lambda: storage.write(f"{enforcing}/shards/train/index.parquet", b"x"),
        "read elsewhere": lambda: storage.read(f"{enforcing}/private/secret"),
        "read another bucket": lambda: storage.read("s3://bucket-other/runs/secret"),
        "list another bucket": lambda: storage.listing("s3://bucket-other/runs"),
    }
    for attempt in forbidden.values():
        with pytest.raises(StorageError, match="403"):
            attempt()
