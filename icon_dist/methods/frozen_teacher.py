"""The frozen teacher of ``semi.method=pseudo``: any run or fetched file, verified, and checked against this run.

It never changes; the moving average of a run's own weights is in ``training/ema.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from icon_dist import config as configuration
from icon_dist import distributed
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.codec import codec_of
from icon_dist.config import Config, EvalConfig
from icon_dist.errors import CheckpointError, ConfigError, DivergedError, plain, plural
from icon_dist.inference.predictor import eval_stream, evaluate
from icon_dist.metrics.score import headline_text
from icon_dist.models import PoseNet, from_config
from icon_dist.shards import teacher_cache
from icon_dist.shards.label_split import Split, refuse_leak
from icon_dist.shards.reader import rows_of
from icon_dist.shards.shard_set import ShardSet
from icon_dist.shards.teacher_cache import F32
from icon_dist.shards.union import ShardUnion, on_joints
from icon_dist.types import Outputs, Predictions


@dataclass(frozen=True)
class Teacher:
    """Photos to heatmaps, and what it was."""

    model: PoseNet
    bf16: bool
    sha256: str  # of its weights, wherever they lie: a resumed run must have the same teacher
    note: str  # one line for people

    @torch.no_grad()
    def forward(self, image: Tensor) -> Outputs:
        """Return the teacher's outputs for uint8 RGB images [N, H, W, 3].

        No gradient is kept. With ``bf16`` the model runs under autocast to bfloat16.
        """
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            outputs: Outputs = self.model(image)
        return outputs


def load_teacher(config: Config, shards: ShardSet, known: Split, *, device: str, bf16: bool) -> Teacher:
    """The network that ``semi.teacher`` names, in evaluation mode; ``known`` are the people labelled in this run."""
    uri = config.semi.teacher
    weights = distributed.from_first(lambda: stored_weights.load(uri))
    skeleton = weights.skeleton
    if skeleton.joints != shards.skeleton.joints:
        raise CheckpointError(
            f"semi.teacher={uri}: predicts {plural(skeleton.num_joints, 'joint')} of {skeleton.name}, the shards have "
            f"{shards.skeleton.num_joints} of {shards.skeleton.name}; give a teacher of the same skeleton"
        )
    for key in ("data.input", "data.sigma", "data.codec"):  # its heatmaps are the targets
        there, here = (configuration.get(c, key) for c in (weights.config, config))
        if there != here:
            raise ConfigError(f"semi.teacher={uri}: trained with {key}={there}, this run has {here}; make them equal")
    leak = refuse_leak(f"semi.teacher={uri}", weights, known, shards)
    model = from_config.restore(weights).to(device).eval()

    score = headline_text(skeleton, weights.score, weights.headline)
    sha256 = hashlib.sha256(safetensors.torch.save(weights.tensors)).hexdigest()  # of the one student that teaches
    said = plain(f"teacher: step {weights.step} of {weights.checkpoint}, {score}") + leak
    return Teacher(model, bf16, sha256, said)


def sure_joints(teacher: Teacher, config: Config, shards: ShardSet, *, device: str, note: Callable[[str], None]) -> F32:
    """Keypoints ``[n, K, 3]`` of everybody, photo px, where the teacher's peak is above gamma: v is 2 there, else 0.

    It looks once, at the plain crop and its mirror image, and DARK reads the mean. What it saw stays beside the shards
    (:mod:`icon_dist.shards.teacher_cache`), where the next run finds it; of a union, beside each set. Collective.
    """
    if isinstance(shards, ShardUnion):
        of_sets = []
        for part, has_joint in zip(shards.parts, shards.has_joint, strict=True):
            sure = sure_joints(teacher, config, on_joints(part, shards.skeleton), device=device, note=note)
            of_sets.append(np.where(has_joint[:, None], sure, np.float32(0)))
        return np.concatenate(of_sets)
    data = config.data
    uri = teacher_cache.uri_of(shards, teacher.sha256, teacher.bf16, data.input, data.codec, data.sigma)
    keypoints = distributed.from_first(lambda: teacher_cache.read(uri, shards, warn=note))
    if keypoints is None:
        note(f"the teacher looks at {plural(len(shards), 'person')}, once")
        found = _look(teacher, config, shards, device=device)
        looked = np.zeros(shards.keypoints.shape, np.float32)
        looked[rows_of(shards, found.instance)] = found.keypoints
        if bad := len(shards) - len(found.instance):
            note(f"warning: {plural(bad, 'image')} cannot be read: the teacher's joints are not kept")
            keypoints = looked
        else:
            keypoints = distributed.from_first(lambda: teacher_cache.keep(uri, looked, shards, warn=note))
    else:
        note(f"the teacher has looked: {uri}")
    xy, peak = keypoints[..., :2], keypoints[..., 2:]
    labels = np.concatenate([xy, np.full_like(peak, 2)], axis=-1)
    return np.where(peak > config.semi.gamma, labels, np.float32(0))


def _look(teacher: Teacher, config: Config, shards: ShardSet, *, device: str) -> Predictions:
    codec, settings = codec_of(config), EvalConfig(batch=config.eval.batch, decode="dark")
    loaders, skip_bad = config.data.loaders, config.data.max_bad_fraction > 0
    with closing(eval_stream(shards, codec, settings, loaders=loaders, device=device, skip_bad=skip_bad)) as stream:
        try:
            return evaluate(teacher.forward, stream, None, codec=codec, settings=settings, device=device)[1]
        except DivergedError:
            raise CheckpointError(
                f"semi.teacher={config.semi.teacher}: it says poses that are not finite; give another"
            ) from None
