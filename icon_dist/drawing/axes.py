"""One axis of a plot: values to pixels, linear or by magnitude, with few round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One axis of a plot, from the values ``low`` .. ``high`` to px; with ``log`` by magnitude, for values over 0."""

    low: float
    high: float
    start: float  # px of low
    end: float  # px of high
    log: bool = False

    def at(self, value: float) -> float:
        """What lies outside is drawn at the edge."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers inside: of a step of 1, 2 or 5, or of a power of ten, and its parts on a short log axis."""
        if self.log:
            tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for parts in ((1, 2, 5), (1, 3), (1,)):
                found = [p * 10.0**t for t in tens for p in parts if self.low <= p * 10.0**t <= self.high]
                if len(found) <= most:
                    return found
            return found[:: -(-len(found) // most)]
        if not self.high > self.low:
            return [self.low]
        rough = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * part for part in (1, 2, 5, 10) if size * part >= rough)
        return [i * step for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def around(values: Iterable[float], start: float, end: float, *, room: float = 0.08) -> Axis:
    """A linear axis that shows all of them, with some ``room`` around, a share of what they span."""
    found = list(values)
    low, high = min(found), max(found)
    more = room * (high - low) if high > low else max(abs(high) * 0.05, 0.5)
    return Axis(low - more, high + more, start, end)
