"""OPEC-Net through the trainer, its checkpoints and the evaluation, like any other model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from icon_dist import config as configuration
from icon_dist import evaluate, train
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.codec import Codec
from icon_dist.codec.decode import decode
from icon_dist.codec.flip import flip_back
from icon_dist.config import EvalConfig
from icon_dist.data.stream import EvalStream
from icon_dist.inference import predictor
from icon_dist.models import PoseNet, from_config
from icon_dist.shards.shard_set import open_shards
from icon_dist.types import Outputs
from tests.support.streams import eval_stream
from tests.support.training import run_gang, tiny

# What DeepSpeed and torch warn of on DeepSpeed's import is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
OPECNET = {"model__backbone": "opecnet_hrnet_small", "optim__epochs": 2, "optim__milestones": ()}


@pytest.fixture(scope="module")
def run(people: Path, module_path: Path) -> Path:
    """One epoch with contrast by the train command, no Ray."""
    alone = {"run__launcher": "local", "run__workers": 1, "optim__micro_batch": 16}
    config = tiny(people, module_path, **OPECNET, **alone, run__name="local")
    file = module_path / "config.yaml"
    file.write_text(configuration.to_yaml(config))
    train.main(["--cfg", str(file), "run.stop_after_epoch=1"])
    return module_path / "local"


def test_training_logs_the_loss_of_the_joints(run: Path) -> None:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["kind"] == "train"]
    assert all(np.isfinite(event["joints"]) and event["joints"] > 0 for event in steps)
    assert steps[-1]["joints"] < steps[0]["joints"]
    assert any(event["skcc"] > 0 for event in steps)
    assert any(event["kind"] == "eval" for event in events)


@pytest.mark.parametrize("flip", [False, True])
def test_evaluation_takes_unsure_joints_from_the_refinement(run: Path, people: Path, flip: bool) -> None:
    weights = stored_weights.load(str(run))
    config, skeleton, model = weights.config, weights.skeleton, from_config.restore(weights).eval()
    shards = open_shards(f"{people}/val")
    rows = np.arange(6)

    def forward(image: Tensor) -> Outputs:
        out: Outputs = model(image)
        peak = out.heatmaps.amax((2, 3), keepdim=True)
        level = torch.linspace(0.1, 0.3, skeleton.num_joints)[:, None, None]
        return Outputs(out.heatmaps / peak * level, joints=out.joints)  # some of each

    def batches() -> EvalStream:
        return eval_stream(shards, rank=0, world=1, batch=4, input_hw=config.input_hw, loaders=0, rows=rows)

    codec, settings = Codec("msra", config.input_hw, 4, 1), EvalConfig(flip=flip)
    predictions = predictor.predict(forward, batches(), shards, codec=codec, settings=settings, device="cpu")
    expected = []
    for batch in batches():
        with torch.no_grad():
            out, mirrored = forward(batch.image), forward(batch.image.flip(2))
        assert out.joints is not None
        assert mirrored.joints is not None
        maps, refined = out.heatmaps, out.joints[-1]
        if flip:
            maps = (maps + flip_back(mirrored.heatmaps, flips=skeleton.flips)) / 2
            twin = list(range(skeleton.num_joints))
            for a, b in skeleton.flips:
                twin[a], twin[b] = b, a
            other = mirrored.joints[-1, :, twin]
            other = torch.stack([config.input_hw[1] - 1 - other[..., 0], other[..., 1]], -1)
            refined = (refined + other) / 2
        base, peak = decode(maps, method="quarter", sigma=1)
        for n in np.flatnonzero(batch.row.numpy() >= 0):
            matrix = batch.to_photo[n]
            for k in range(skeleton.num_joints):
                xy = refined[n, k] if peak[n, k] < 0.2 else base[n, k] * 4
                expected.append(matrix[:, :2] @ xy + matrix[:, 2])
    np.testing.assert_allclose(
        predictions.keypoints[..., :2].reshape(-1, 2), torch.stack(expected).numpy(), rtol=1e-4, atol=1e-3
    )


def test_the_evaluate_command_reads_its_checkpoint(run: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(run), "--shards", f"{people}/val", "--loaders", "0"])
    assert any(line.startswith("PCK@0.2 ") for line in capsys.readouterr().out.splitlines())


def test_its_base_is_scored_alone(run: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers as from the base's weights in a model without the refinement."""
    weights = stored_weights.load(str(run))
    alone = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(("cascade.", "graph."))}
    config = dataclasses.replace(
        weights.config, model=dataclasses.replace(weights.config.model, backbone="hrnet_small")
    )
    model = from_config.restore(dataclasses.replace(weights, tensors=alone, config=config)).eval()
    shards = open_shards(f"{people}/val")
    rows = np.arange(8)
    refined = from_config.restore(weights).eval()

    def poses(model: PoseNet, *, refine_below: float) -> NDArray[np.float32]:
        stream = eval_stream(shards, rank=0, world=1, batch=4, input_hw=config.input_hw, loaders=0, rows=rows)
        codec, settings = Codec("msra", config.input_hw, 4, 1), EvalConfig(refine_below=refine_below)
        return predictor.predict(model, stream, shards, codec=codec, settings=settings, device="cpu").keypoints

    np.testing.assert_array_equal(poses(refined, refine_below=0), poses(model, refine_below=0.2))
    evaluate.main([str(run), "--shards", f"{people}/val", "--loaders", "0", "--refine-below", "0"])
    assert " refine_below=0 " in capsys.readouterr().out.splitlines()[0]


def test_it_starts_from_a_run_of_its_base(people: Path, tmp_path: Path) -> None:
    alone = {
        "run__launcher": "local",
        "run__workers": 1,
        "optim__epochs": 1,
        "optim__batch": 32,
        "optim__micro_batch": 32,
    }
    for name, changes in {
        "base": {},
        "refined": {"model__backbone": "opecnet_hrnet_small", "model__pretrained": str(tmp_path / "base")},
    }.items():
        config = tiny(
            people, tmp_path, **alone, **changes, run__name=name, optim__lr=1e-30 if name == "refined" else 1e-3
        )
        file = tmp_path / f"{name}.yaml"
        file.write_text(configuration.to_yaml(config))
        train.main(["--cfg", str(file)])
    base, refined = (stored_weights.load(str(tmp_path / name)).tensors for name in ("base", "refined"))
    same = [name for name in base if (base[name] - refined[name]).abs().max() < 1e-20]
    assert {"final_layer.weight", "projection.0.weight", "conv1.weight"} <= set(same)
    assert {name.split(".")[0] for name in set(refined) - set(base)} == {"cascade", "graph"}


@pytest.mark.slow
def test_two_workers_at_zero_3_resume_bit_for_bit(people: Path, tmp_path: Path) -> None:
    straight = tiny(people, tmp_path, **OPECNET, run__name="straight", run__zero=3)
    first = tiny(people, tmp_path, **OPECNET, run__name="parts", run__zero=3, run__stop_after_epoch=1)
    resumed = tiny(people, tmp_path, **OPECNET, run__name="parts", run__zero=3)
    run_gang(straight, first, resumed, scratch=tmp_path)
    for kind in ("model", "optimizer"):
        one, other = (found(f"{tmp_path}/{name}", kind) for name in ("straight", "parts"))
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []


def found(run_uri: str, kind: str) -> dict[str, Tensor]:
    newest = checkpoint.find(run_uri, warn=pytest.fail)
    assert newest is not None
    return newest.tensors(kind)
