"""What was expected of the first runs, from counted operations and bytes, to be printed beside what was measured."""

from __future__ import annotations

EXPECTED = {  # (phase, name): on an H100; on an H200 where it differs
    ("ground", "copy"): ("3.0 TB/s", "4.3 TB/s"),
    ("ground", "product bf16"): ("790 TFLOP/s",),
    ("correct", "waits of a step"): ("0",),
    ("speed", "N=16 + fused Adam"): ("460 img/s: launches",),
    ("speed", "N=64 + fused Adam"): ("1,850 img/s: launches",),
    ("speed", "N=256 + fused Adam"): ("2,300-2,700", "2,800-3,300"),
    ("speed", "N=64 + channels_last"): ("35 ms before, 24 ms with fused Adam",),
    ("speed", "N=64 launches"): ("4,500-5,000",),
    ("graphs", "N=256 graph"): ("3,100-3,800 with compile", "3,600-4,400 with compile"),
    ("graphs", "N=64 compile + graph"): ("3,500 is the goal", "4,000 is the goal"),
    ("speed", "N=64 default contrast launches"): ("1,030 more than without",),
    ("speed", "N=64 default contrast costs"): ("15-25 %: 2 ms and the head's 1; goal 3 %",),
    ("speed", "N=64 default contrast alone"): ("2 ms, of all pairs in fp32 4.9",),
    ("data", "1 loaders"): ("1,500: 660 us an image",),
    ("data", "8 loaders"): ("12,000",),
    ("data", "8 loaders again, decoded"): ("23,000 at most: 44 us in this process",),
    ("data", "resident, largest difference"): ("1; OpenCV before 5 works in 1/32 px",),
    ("data", "resident crops"): ("10,000: the plan of a batch, 25 us an image in this process",),
}


def predicted(phase: str, name: str, card: str) -> str:
    said = EXPECTED.get((phase, name), ("",))
    return said[-1] if "H200" in card else said[0]
