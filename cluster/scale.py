"""From what ranks were counted to receive (scale.json, by count_messages.py) to what 4096 would: writes docs/scale.md.

python cluster/scale.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parent / "docs/scale.md"
FIGURE = FOLDER.parent / "docs/figures/scale.svg"
WORLDS = tuple(2**n for n in range(1, 13))
LIMITED, FREE = "bank, budget 512", "bank without a budget"
COLORS = {"gradients": "#0072b2", LIMITED: "#d55e00", FREE: "#cc79a7", "buffers": "#009e73"}
RAISED = 2  # flags beside BatchNorm's statistics: whether any rank skips the step or leaves


class Setting(NamedTuple):
    """What the traffic of a step depends on, besides the number of ranks."""

    parameters: int
    statistics: int  # BatchNorm's
    joints: int
    pairs: int
    embedding: int
    budget: int  # people whose joints travel, of all ranks together; 0 = all
    people: int  # of a rank


COUNTED = Setting(1_251_761, 5_158, 17, 8, embedding=16, budget=16, people=8)
COCO = Setting(28_610_609, 54_854, 17, 8, embedding=256, budget=512, people=16)  # HRNet-W32, --cfg coco


def received(setting: Setting, world: int) -> dict[str, int]:
    """Bytes of the tensors that a rank receives in a step, by what they are for (fp32, ZeRO-1, exchange=sync)."""
    if world == 1:
        return {}
    told = math.ceil(setting.budget / world) if setting.budget else setting.people
    rows = world * min(told, setting.people)
    features = 4 * setting.joints * setting.embedding
    return {
        "gradients": 2 * 4 * setting.parameters,  # the mean gradient, then the weights that the others have moved
        "bank": rows * (features + setting.joints + 8) + rows * features,  # embedding, visibility, id; the gradient
        "buffers": 8 * (setting.statistics + RAISED),
        "sums": 4 * (setting.joints + setting.pairs),  # how often each category was asked
    }


def sent(setting: Setting, world: int) -> dict[str, float]:
    """Bytes that leave a rank in a step, by the algorithms of NCCL that move the least: rings."""
    if world == 1:
        return {}
    around = (world - 1) / world
    whole = received(setting, world)
    features = 4 * setting.joints * setting.embedding
    told = math.ceil(setting.budget / world) if setting.budget else setting.people
    rows = world * min(told, setting.people)
    return {
        "gradients": 3 * around * whole["gradients"] / 2,  # all-reduce: twice around; all-gather: once
        "bank": around * (whole["bank"] - rows * features) + around * rows * features,  # all-gather, reduce-scatter
        "buffers": 2 * around * whole["buffers"],
        "sums": 2 * around * whole["sums"],
    }


def table(heads: list[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [heads, ["---:"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def shown(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def lines_of(setting: Setting) -> dict[str, Callable[[int], float]]:
    """The curves of the plot."""
    free = setting._replace(budget=0)
    return {
        "gradients": lambda n: sent(setting, n)["gradients"],
        LIMITED: lambda n: sent(setting, n)["bank"],
        FREE: lambda n: sent(free, n)["bank"],
        "buffers": lambda n: sent(setting, n)["buffers"],
    }


def plot(setting: Setting) -> str:
    """Log-log: ranks against bytes that leave a rank in a step."""
    left, top, wide, high = 80, 20, 560, 300
    low, ceiling = 5, 11  # powers of ten

    def x(world: float) -> float:
        return left + (math.log2(world) - 1) / 11 * wide

    def y(count: float) -> float:
        return top + (ceiling - math.log10(count)) / (ceiling - low) * high

    parts = []
    for power in range(low, ceiling + 1):
        at = y(10**power)
        parts.append(f'<path d="M{left} {at:.1f}h{wide}" stroke="#d9d9d4"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{shown(10**power)}</text>')
    parts += [f'<text x="{x(n):.1f}" y="{top + high + 20}" text-anchor="middle">{n}</text>' for n in WORLDS]
    for row, (name, curve) in enumerate(lines_of(setting).items()):
        points = " ".join(f"{x(world):.1f},{y(curve(world)):.1f}" for world in WORLDS)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLORS[name]}" stroke-width="2.5"/>')
        parts.append(f'<text x="{left + 12}" y="{top + 18 + 18 * row}" fill="{COLORS[name]}">{name}</text>')
    parts.append(f'<text x="{left + wide / 2}" y="{top + high + 42}" text-anchor="middle">ranks</text>')
    label = "Bytes that leave a rank in a step, by the number of ranks"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 670 380" role="img" aria-label="{label}" '
        f'font-family="sans-serif" font-size="13">\n<rect width="670" height="380" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def document(counted: dict[str, dict[str, int]]) -> str:
    """The text of docs/scale.md."""
    kinds = ("gradients", "bank", "buffers", "sums")
    rows, far = [], []
    for world, seen in sorted(counted.items(), key=lambda item: int(item[0])):
        formula = received(COUNTED, int(world))
        said = [(seen.get(f"bytes {kind}", 0), formula.get(kind, 0), seen.get(f"messages {kind}", 0)) for kind in kinds]
        rows.append([world, *(f"{count:,} ({expected:,}) in {messages}" for count, expected, messages in said)])
    for ranks in (2, 16, 128, 1024, 4096):
        free = lines_of(COCO)[FREE](ranks)
        far.append([ranks, *(shown(count) for count in sent(COCO, ranks).values()), shown(free)])
    template = (FOLDER / "scale.in.md").read_text()
    return template.replace("@COUNTED@", table(["ranks", *kinds], rows)).replace(
        "@FAR@", table(["ranks", *kinds, "bank, budget=0"], far)
    )


def main() -> None:
    counted = json.loads((FOLDER / "scale.json").read_text())
    PAGE.write_text(document(counted))
    FIGURE.write_text(plot(COCO))


if __name__ == "__main__":
    main()
