"""The boto3 client of this process: where requests go, and what is asked of stores that are not AWS.

Endpoint, region, profile and credentials come from the usual AWS variables and files, never from a config of ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import boto3.session
import botocore.config
import botocore.loaders
import botocore.session
from botocore import exceptions as boto

from icon_dist.errors import StorageError
from icon_dist.storage.s3_impostors import refuse_foreign

AWS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".api.amazonwebservices.com.cn")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")
# boto3's own retries are for the parts of a large upload; all else is retried in retry.py.
COMMON = botocore.config.Config(
    connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 2}
)
LOADER = botocore.loaders.create_loader()  # boto3's description of S3: read once, a forked process has it already

_current: tuple[tuple[object, ...], Any] = ((), None)


class Endpoint(NamedTuple):
    """Where requests go, in words for a message."""

    host: str  # with the port, if one is named
    variable: str  # that chooses it
    is_aws: bool
    sends_checksums: bool  # boto3's own, of which not every store knows


def identity() -> tuple[object, ...]:
    """What a client is made from. A connection must not cross a fork."""
    proxies = ("_PROXY", "_proxy")
    chosen = sorted(item for item in os.environ.items() if item[0].startswith("AWS_") or item[0].endswith(proxies))
    return os.getpid(), *chosen


def client() -> Any:
    """Return the boto3 client for S3 of this process; it is made anew after a fork and when the environment changes."""
    global _current
    key, found = _current
    wanted = identity()
    if key != wanted:
        if key[:1] == wanted[:1]:  # of this process, for another environment
            found.close()
        _current = wanted, _made()
    return _current[1]


def _made() -> Any:
    core = botocore.session.get_session()
    core.register_component("data_loader", LOADER)
    session = boto3.session.Session(botocore_session=core)
    try:
        made = session.client("s3", config=COMMON)
        if urlsplit(made.meta.endpoint_url).scheme not in ("http", "https") or not _host(made):
            raise ValueError
        if not _is_aws(made.meta.endpoint_url):
            made = session.client("s3", config=COMMON.merge(_elsewhere(core.get_scoped_config())))
    except boto.InvalidRegionError:
        raise StorageError("AWS_REGION is not the name of a region; write for example us-east-1") from None
    except ValueError:
        raise StorageError(f"{_variable()} is not a URL; write http(s)://host:port") from None
    made.meta.events.register("before-parse.s3", refuse_foreign)
    return made


def _is_aws(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith(AWS)


def _host(made: Any) -> str:
    """With the port, if one is named; never with a password. ValueError for a port that is none."""
    url = urlsplit(made.meta.endpoint_url)
    return (url.hostname or "") + ("" if url.port is None else f":{url.port}")


def _elsewhere(profile: Mapping[str, Any]) -> botocore.config.Config:
    """Behind a custom endpoint, unless the user's variables or profile say otherwise.

    Path addressing, because MinIO, Ceph and moto have no DNS name for each bucket. Checksums only where S3 always had
    them: stores older than boto3's default refuse them in various words. Contents have hashes of ours.
    """
    chosen: dict[str, object] = {}
    if "addressing_style" not in (profile.get("s3") or {}):
        chosen["s3"] = {"addressing_style": "path"}
    for name in CHECKSUMS:
        if not os.environ.get(f"AWS_{name.upper()}") and name not in profile:
            chosen[name] = "when_required"
    return botocore.config.Config(**chosen)


def _variable() -> str:
    return next((name for name in ENDPOINTS if os.environ.get(name)), "endpoint_url of the AWS profile")


def endpoint() -> Endpoint:
    """Of the client, made or not."""
    made = _current[1]
    if made is None:
        return Endpoint("", _variable(), is_aws=True, sends_checksums=False)
    host = _host(made)
    is_aws = _is_aws(made.meta.endpoint_url)
    checksums = made.meta.config.request_checksum_calculation != "when_required"
    return Endpoint(host, "the network" if is_aws else _variable(), is_aws, sends_checksums=checksums)
