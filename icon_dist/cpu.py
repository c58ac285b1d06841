"""How torch uses the CPU: threads that wait go to sleep, and memory that is freed serves the next step.

What the user's environment sets holds. Results keep every bit.
"""

from __future__ import annotations

import ctypes
import os

# Of glibc's mallopt: blocks up to 32 MiB, its most, come out of the heap, and the heap keeps up to 2 GiB that are free.
# Else every step gives its activations back to the kernel and gets new pages for them, which are zeroed first.
M_TRIM_THRESHOLD, KEPT = -1, 2**31 - 1
M_MMAP_THRESHOLD, LARGEST = -3, 32 << 20


def let_waiting_threads_sleep() -> None:
    """Of this process and those that it starts; torch asks only once, when it loads.

    Its threads else burn for milliseconds cores that loaders and others need.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def keep_freed_memory() -> None:
    """Let torch's next tensors have the pages of those that are gone; where the C library is not glibc, do nothing.

    For a process that computes with networks from here on: what it has read before goes back to the kernel as ever.
    """
    of_the_user = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or of_the_user or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, KEPT)
