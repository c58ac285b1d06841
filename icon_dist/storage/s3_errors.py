"""Which failures pass by themselves, and what the others mean: one line each, never the text of boto3 or the server,
which may quote URLs, headers and keys.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import NameResolutionError

from icon_dist.errors import StorageError
from icon_dist.storage.s3_client import Endpoint
from icon_dist.storage.s3_impostors import ForeignAnswerError

# Whatever boto3 raises by itself. ValueError: credentials or names that fit in no header or URL.
FAILURES = (boto.BotoCoreError, boto.ClientError, ResponseParserError, ForeignAnswerError, ValueError)

PASSING = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
FINAL = {501, 505, 507, 511}  # server errors that no second request changes
CREDENTIALS = {
    "InvalidAccessKeyId": "the store does not know AWS_ACCESS_KEY_ID; correct it, or the endpoint",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is not that of the key, or AWS_REGION is wrong; correct them",
    "ExpiredToken": "they have expired; renew them",
    "InvalidToken": "AWS_SESSION_TOKEN is not of this key; renew all three, or unset it",
    "TokenRefreshRequired": "they have expired; renew them",
}
REGION = ("301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
FULL = ("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "TotalStorageExceeded", "507")
PLAIN_HTTP = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")


def code_of(error: BaseException) -> str:
    """S3's own name of the error, or HTTP's number where it gave none."""
    if not isinstance(error, boto.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", "")) or str(status_of(error))


def status_of(error: BaseException) -> int:
    """Return the HTTP status of an error that S3, or what stands in its place, answered with; 0 for any other error."""
    if isinstance(error, ForeignAnswerError):
        return error.status
    if not isinstance(error, boto.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def transient(error: BaseException) -> bool:
    """Return whether ``error`` may pass by itself, so that the request is worth sending again.

    Such are server errors, throttling, and connections that fail or break off; not refusals, a proxy that cannot be
    reached or a certificate that is not trusted.
    """
    status, code = status_of(error), code_of(error)
    if isinstance(error, boto.ClientError):
        nameless_conflict = status == 409 and code in ("409", "Conflict")
        server = status >= 500 and status not in FINAL and code != "NotImplemented"
        return server or status == 429 or code in PASSING or nameless_conflict
    if isinstance(error, boto.ProxyConnectionError):
        return False
    if isinstance(error, boto.SSLError):
        return "EOF" in str(error)  # cut, not refused
    if type(error) is boto.HTTPClientError:  # of all kinds
        return not isinstance(getattr(error, "kwargs", {}).get("error"), ValueError)
    broken = (boto.HTTPClientError, boto.IncompleteReadError, boto.FlexibleChecksumError, ResponseParserError)
    connecting = (boto.EndpointConnectionError, boto.ConnectTimeoutError)
    return isinstance(error, broken + connecting)


def short(error: BaseException | None) -> str:
    """The kind of failure in a few letters: 503, connection refused."""
    inner = getattr(error, "kwargs", {}).get("error")
    if isinstance(inner, NameResolutionError):
        return "no such host name"
    if "refused" in str(inner):
        return "connection refused"
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return "no answer"
    if isinstance(error, boto.ClientError):
        code, status = code_of(error), str(status_of(error))
        return status if code in (status, "") else f"{code}, {status}"
    if isinstance(error, boto.FlexibleChecksumError | boto.IncompleteReadError | ResponseParserError):
        return "a damaged answer"
    return "the connection breaks"


def explain(uri: str, error: BaseException, *, waited_s: float, endpoint: Endpoint) -> Exception:
    """FileNotFoundError, or a StorageError with the reason and the fix."""
    code, status = code_of(error), status_of(error)
    reads = getattr(error, "operation_name", "") in ("GetObject", "HeadObject")
    if reads and code in ("NoSuchKey", "404"):
        return FileNotFoundError(f"{uri}: no such object")
    said = _of_answer(uri, error, code, status, endpoint) if status else _of_client(error, endpoint)
    if not said and transient(error):
        host = endpoint.host or "S3"
        said = f"{host}: S3 failed with {_what(error, code, status)}, retried for {waited_s:.0f} s; try again later"
        if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError):
            said = f"{host} does not answer ({short(error)}, tried for {waited_s:.0f} s); check {endpoint.variable}"
    elif not said:
        said = f"S3 refuses this with {_what(error, code, status)}; check the name and what the store supports"
    return StorageError(f"{uri}: {said}")


def _what(error: BaseException, code: str, status: int) -> str:
    return f"{code} (HTTP {status})" if code else type(error).__name__


def _of_answer(uri: str, error: BaseException, code: str, status: int, endpoint: Endpoint) -> str:
    """What the store, or whatever stands in its place, says no with; empty where nothing better is known."""
    bucket, host = uri.removeprefix("s3://").partition("/")[0], endpoint.host
    headers = _headers(error)
    if isinstance(error, ForeignAnswerError):
        return f"{host} {error} (HTTP {status}); check {endpoint.variable} and any proxy"
    if code == "NoSuchBucket":
        return f"bucket {bucket!r} does not exist; create it or correct the name"
    if status == 404:
        return f"{host} knows no such place (404, {code}); check the bucket and {endpoint.variable}"
    if code == "InvalidBucketName":
        return f"{bucket!r} cannot be a bucket here; correct the name"
    if code in REGION:
        region = headers.get("x-amz-bucket-region") or _element(error, "Region") or "its region"
        return f"bucket {bucket!r} is in another region; set AWS_REGION to {region}"
    if code in ("RequestTimeTooSkewed", "RequestExpired"):
        return f"the clock of this machine is {_skew(headers)} off the store's ({code}); set the clock"
    if code in ("SecondLevelDomainForbidden", "PathStyleDomainForbidden", "VirtualHostDomainRequired"):
        style = "addressing_style = virtual below s3 in ~/.aws/config"
        return f"this store wants the bucket in the host name ({code}); set {style}"
    if code in FULL:
        return f"the store is full, or its quota is used up ({code}); free some space"
    if _may_be_checksums(error, code, endpoint):
        fix = "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
        return f"the store refuses a write with boto3's checksums ({code}); set {fix}"
    if code in CREDENTIALS:
        return f"the AWS credentials are refused ({code}): {CREDENTIALS[code]}"
    if status == 401:
        return f"{host} asks for another login ({code}); check AWS_ACCESS_KEY_ID and {endpoint.variable}"
    if status == 403:
        why = "403" if code in ("403", "AccessDenied", "Forbidden") else f"403, {code}"
        return f"access denied ({why}); these credentials may not do this, or the key is missing"
    if status == 407:
        return "the proxy asks for a login (407); check HTTPS_PROXY"
    if status in (405, 501):
        call = getattr(error, "operation_name", "this")
        return f"{host} does not do {call} ({code}); check {endpoint.variable}, or use another store"
    if code == "400":
        return f"{host} refuses the request without a reason (400); check {endpoint.variable}: http or https, the port"
    return ""


def _may_be_checksums(error: BaseException, code: str, endpoint: Endpoint) -> bool:
    """Old stores say so as 403, 400 or 501, each in another word."""
    writes = ("PutObject", "UploadPart", "CreateMultipartUpload", "CompleteMultipartUpload")
    known = code in ("SignatureDoesNotMatch", "NotImplemented", "501", "400") or status_of(error) in (400, 411)
    suspect = endpoint.sends_checksums and not endpoint.is_aws
    return (
        suspect
        and known
        and code not in CREDENTIALS.keys() - {"SignatureDoesNotMatch"}
        and (getattr(error, "operation_name", "") in writes)
    )


def _headers(error: BaseException) -> dict[str, str]:
    found: dict[str, str] = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return found


def _element(error: BaseException, name: str) -> str:
    answer: Mapping[str, Any] = getattr(error, "response", {})
    return str(answer.get("Error", {}).get(name, ""))


def _skew(headers: dict[str, str]) -> str:
    try:
        seconds = abs(email.utils.parsedate_to_datetime(headers.get("date", "")).timestamp() - time.time())
    except ValueError:
        return "too far"
    return f"{seconds / 86400:.0f} d" if seconds > 43200 else f"{seconds / 60:.0f} min"


def _of_client(error: BaseException, endpoint: Endpoint) -> str:
    """What is wrong on this side, or on the way; empty where nothing better is known."""
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return "no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
    if isinstance(error, boto.SSOError | boto.TokenRetrievalError | boto.LoginError):
        return "the AWS login has expired; renew it (aws sso login)"
    if isinstance(error, boto.ProfileNotFound):
        return "AWS_PROFILE names a profile that does not exist; correct or unset it"
    if isinstance(error, boto.ConfigParseError | boto.ConfigNotFound | boto.InvalidConfigError):
        return "the AWS config file cannot be read; correct AWS_CONFIG_FILE or ~/.aws/config"
    if isinstance(error, boto.InvalidChecksumConfigError):
        return "a checksum setting has another value than when_supported or when_required; correct AWS_*_CHECKSUM_*"
    if isinstance(error, boto.InvalidRetryConfigurationError | boto.InvalidS3AddressingStyleError):
        return "the AWS profile has a value that boto3 does not know; correct ~/.aws/config"
    if isinstance(error, boto.ProxyConnectionError):
        return "the proxy does not answer; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
    if isinstance(error, boto.SSLError) and any(name in str(error) for name in PLAIN_HTTP):
        return f"{endpoint.host} does not speak TLS; write http:// in {endpoint.variable}"
    if isinstance(error, boto.SSLError) and not transient(error):
        fix = "set AWS_CA_BUNDLE to the file of its CA, or correct the host name"
        return f"the TLS certificate of {endpoint.host} is not accepted; {fix}"
    if isinstance(error, boto.ParamValidationError | boto.InvalidDNSNameError | boto.UnsupportedS3ArnError):
        return "boto3 does not take this bucket or key; correct the name"
    if isinstance(error, ValueError | boto.HTTPClientError) and not transient(error):
        return f"an AWS variable has letters that no request can carry; check the keys and {endpoint.variable}"
    return ""
