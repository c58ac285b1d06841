"""What the processes of a run hold of their own before any data and network, GB.

Measured: ``pytest -m slow -s tests/benchmarks/test_process_memory.py``.
"""

from __future__ import annotations

WORKER = 0.5  # Python, torch and their libraries; on a CPU
LOADER = 0.1  # beside what it shares with its worker
DRIVER = 0.4
RAY = 2.7  # all of Ray's own processes on one node
