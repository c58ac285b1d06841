"""How a process uses the CPU: what is freed is not asked of the kernel again, and what the user has set holds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

STEPS, BLOCKS, PAGES = 10, 8, 4096  # blocks of 16 MiB a step
CODE = f"""
import resource
from icon_dist.cpu import keep_freed_memory

def step():
    return [b"x" * ({PAGES} * 4096 + i) for i in range({BLOCKS})]

keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="needs glibc")
@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ({}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}, False),
    ],
)
def test_freed_memory_serves_the_next_step(own: dict[str, str], kept: bool) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    ran = [sys.executable, "-c", CODE]
    done = subprocess.run(ran, capture_output=True, text=True, cwd=ROOT, env=clean | own, check=True)
    new_pages = int(done.stdout)
    assert (new_pages < PAGES) if kept else (new_pages > STEPS * BLOCKS * PAGES / 2)
