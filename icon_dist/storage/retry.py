"""How long a failing store is tried again, and the sign of life meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from icon_dist import storage
from icon_dist.errors import tell
from icon_dist.storage import s3_client
from icon_dist.storage.s3_errors import FAILURES, code_of, explain, short, transient

PATIENCE_S = 60.0  # without progress; bytes that had not arrived before start the clock again
FIRST_PATIENCE_S = 8.0  # before the endpoint has answered once: then it is more likely misspelt than down
SIGN_S = 2.0  # until people are told that something is waited for

T = TypeVar("T")
_answered: set[tuple[object, ...]] = set()  # clients, by what they are made from, that have worked
told = False  # that an outage goes on


class Clock:
    """When to give up: it runs from the beginning of a call, and starts again with every sign of progress."""

    def __init__(self, uri: str) -> None:
        self.failures = 0
        self._uri, self._most = uri, 0
        self._since = time.monotonic()

    def progress(self, done: int) -> None:
        """``done`` bytes are through; what is only repeated is no progress."""
        if done > self._most:
            self._most, self._since = done, time.monotonic()

    def waited_s(self) -> float:
        """Return the seconds since the call began or last made progress."""
        return time.monotonic() - self._since

    def give_up(self, state: RetryCallState) -> bool:
        """Count a failed attempt and return whether to stop trying: nothing has come for longer than the patience.

        This is the ``stop`` of tenacity. An error code of S3's own also shows that the endpoint answers, so that later
        calls are more patient.
        """
        self.failures += 1
        error = state.outcome.exception() if state.outcome else None
        if error is not None and not code_of(error).isdecimal() and code_of(error):  # a word of S3's own
            _answered.add(s3_client.identity())
        return self.waited_s() > patience_s()

    def sign(self, state: RetryCallState) -> None:
        """Once an outage, before a retry."""
        global told
        if not told and self.waited_s() > SIGN_S / 4:  # the next one may take long
            told = True
            error = state.outcome.exception() if state.outcome else None
            tell(f"{self._uri}: {s3_client.endpoint().host} does not answer ({short(error)}); {_trying()}")

    def first_sign(self) -> None:
        """Tell people, once an outage, that the endpoint has not answered yet and how long it is waited for."""
        global told
        if not told:
            told = True
            tell(f"{self._uri}: no answer from {s3_client.endpoint().host or 'S3'} yet; {_trying()}")


def patience_s() -> float:
    """Return for how many seconds without progress a store is tried: longer once it has answered this process."""
    return PATIENCE_S if s3_client.identity() in _answered else FIRST_PATIENCE_S


def _trying() -> str:
    return f"trying for {patience_s():.0f} s"


def persist(uri: str, call: Callable[[Clock], T]) -> T:
    """``call`` until it works, fails for good, or the patience is over."""
    global told
    clock = Clock(uri)
    retrying = Retrying(
        stop=clock.give_up,
        wait=wait_exponential(multiplier=0.1, max=5.0) + wait_random(0.0, 0.1),
        retry=retry_if_exception(transient),
        before_sleep=clock.sign,
        reraise=True,
    )
    known = s3_client.identity() in _answered
    watch = threading.Timer(SIGN_S, clock.first_sign)  # the first connection may hang before it fails
    watch.daemon = True
    try:
        if not known:
            watch.start()
        result = retrying(call, clock)
        if not known:
            _answered.add(s3_client.identity())
        told = False
        return result
    except FAILURES as error:
        if storage.leaving:
            _answered.discard(s3_client.identity())
        raise explain(uri, error, waited_s=clock.waited_s(), endpoint=s3_client.endpoint()) from None
    finally:
        watch.cancel()
