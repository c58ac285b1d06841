"""The mailbox between rank 0 and the driver: a process of its own, so it imports neither torch nor what trains."""

from __future__ import annotations

from icon_dist.loggers.events import Event, Fatal, Listening, Up

Mail = Event | Up | Listening | Fatal


class Mailbox:
    """An actor; calls of one sender arrive in order."""

    def __init__(self) -> None:
        self._events: list[Mail] = []
        self._stop = False

    def put(self, event: Mail) -> None:
        """Add an event of the training loop, for the driver."""
        self._events.append(event)

    def take(self) -> list[Mail]:
        """Return the events that came since the last call, oldest first, and forget them."""
        events, self._events = self._events, []
        return events

    def ask_to_stop(self) -> None:
        """Record that the driver wants the training loop to end after the current step."""
        self._stop = True

    def asked_to_stop(self) -> bool:
        """Return whether the driver has asked the training loop to end."""
        return self._stop
