"""OPEC-Net against its own base on generated crowds: overlapping people, things in front of them, hidden joints.

``pytest -m slow -s tests/benchmarks/test_opecnet_gain.py``

Measured once, at 64x64: after 296 steps from scratch joints come nearer on average (8.07 px by the base, decoded by
DARK; 7.89 with its unsure joints refined, 7.77 with all refined; hidden ones 8.22, 8.08, 7.82), which is what the L1
loss asks for, but fewer come within PCK's fifth of the torso (31.3 %, 31.0, 30.1; hidden 32.7, 32.5, 32.0). The base is
weak on such a budget; README has the figures of a trained one.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from icon_dist.checkpoints import weights as stored_weights
from icon_dist.codec.decode import decode
from icon_dist.config import EvalConfig
from icon_dist.metrics.pck import THRESHOLD
from icon_dist.models import from_config
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.synthetic import Crowd, generate_shards
from tests.support.streams import eval_stream

TRAINING = [
    "model.backbone=opecnet_hrnet_small",
    "run.launcher=local",
    "run.workers=1",
    "loss.lambda_p=0",
    "optim.epochs=8",
    "optim.milestones=[6]",
    "optim.micro_batch=32",
    "eval.every=8",
]
HIDDEN, VISIBLE = 1, 2


@pytest.mark.slow
def test_joints_come_nearer_to_the_truth(tmp_path: Path) -> None:
    for split, people, seed in (("train", 1200, 0), ("val", 300, 1)):
        generate_shards(str(tmp_path / split), Crowd(people=people, seed=seed, difficulty="hard"), split=split)
    command = [sys.executable, "-m", "icon_dist.train", "--cfg", "demo", *TRAINING]
    places = [f"data.train={tmp_path}/train", f"data.val={tmp_path}/val", f"run.dir={tmp_path}", "run.name=run"]
    done = subprocess.run([*command, *places], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    errors, torso, raw = measured(tmp_path / "run", str(tmp_path / "val"))
    parts = {"all": raw > 0, "hidden": raw == HIDDEN, "visible": raw == VISIBLE}
    mean = {(way, part): error[chosen].mean().item() for way, error in errors.items() for part, chosen in parts.items()}
    for way, error in errors.items():
        right = (error <= THRESHOLD * torso).double()
        text = (f"{part} {mean[way, part]:.2f} px, {100 * right[chosen].mean():.1f}" for part, chosen in parts.items())
        print(f"{way}: mean distance, PCK@0.2: {'; '.join(text)}")
    for way in ("unsure joints refined", "all joints refined"):
        for part in ("all", "hidden"):
            assert mean[way, part] < mean["base", part]


def measured(run: Path, shards: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Distance of every joint from the truth in input px, by way of finding it; its person's torso; raw visibility."""
    weights = stored_weights.load(str(run))
    config, skeleton, model = weights.config, weights.skeleton, from_config.restore(weights).eval()
    people = open_shards(shards)
    first, second = skeleton.torso
    errors: dict[str, list[Tensor]] = {}
    torsos, raws = [], []
    stream = eval_stream(people, rank=0, world=1, batch=32, input_hw=config.input_hw, loaders=0)
    with closing(stream), torch.no_grad():
        for batch in stream:
            out = model(batch.image)
            base, peak = decode(out.heatmaps, method="dark", sigma=config.data.sigma)
            base, refined = base * model.stride, out.joints[-1]
            mixed = torch.where(peak[..., None] < EvalConfig().refine_below, refined, base)
            torso = (batch.joints[:, first] - batch.joints[:, second]).norm(dim=-1, keepdim=True)
            counts = (batch.row >= 0) & batch.labelled[:, first] & batch.labelled[:, second] & (torso[:, 0] > 0)
            for way, xy in (("base", base), ("unsure joints refined", mixed), ("all joints refined", refined)):
                errors.setdefault(way, []).append((xy - batch.joints).norm(dim=-1)[counts])
            torsos.append(torso[counts].expand(-1, skeleton.num_joints))
            raws.append(torch.from_numpy(people.keypoints[batch.row.numpy()][..., 2])[counts])
    return {way: torch.cat(parts) for way, parts in errors.items()}, torch.cat(torsos), torch.cat(raws)
