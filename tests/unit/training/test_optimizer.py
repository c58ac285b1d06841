"""Learning rates by layer and weight decay: ViTPose's rules, parameter by parameter."""

from __future__ import annotations

import pytest
import torch

from icon_dist.models import Heads, build_model
from icon_dist.models.two_students import Pair
from icon_dist.training.engine_plain import PlainEngine
from icon_dist.training.optimizer import LR_SCALE, adam
from tests.support.engines import Net, adam_of, loss_of, micro_batches


def test_scales_of_vit_are_those_of_the_public_code() -> None:
    """LayerDecayOptimizerConstructor: 14 layers, scale = rate ** (14 - layer - 1); vectors and positions stay."""
    with torch.device("meta"):
        nets = [build_model("vit_s", Heads(joints=17, projection="mlp", input_hw=(64, 64))) for _ in range(2)]
        pair = Pair(*nets)
    for model, prefix in ((nets[0], ""), (pair, "net2.")):
        found_by = model.layers_after
        groups = adam(model, lr=1.0, layer_decay=0.75, layers_after=found_by, weight_decay=0.1).param_groups
        found = {id(p): (group[LR_SCALE], group["weight_decay"]) for group in groups for p in group["params"]}
        assert len(found) == len(list(model.parameters()))
        for name, scale, decay in (
            ("backbone.embeddings.position_embeddings", 0.75**13, 0),
            ("backbone.embeddings.patch_embeddings.projection.weight", 0.75**13, 0.1),
            ("backbone.encoder.layer.0.mlp.fc1.weight", 0.75**12, 0.1),
            ("backbone.encoder.layer.11.layernorm_after.weight", 0.75, 0),
            ("backbone.layernorm.bias", 1, 0),
            ("head.deconv2.weight", 1, 0.1),
            ("final_layer.bias", 1, 0),
            ("projection.0.weight", 1, 0.1),
        ):
            assert found[id(model.get_parameter(prefix + name))] == (pytest.approx(scale), decay), name


def test_without_either_it_is_the_papers_adam() -> None:
    optimizer = adam(Net(), lr=1.0)
    assert type(optimizer) is torch.optim.Adam
    assert len(optimizer.param_groups) == 1


def test_each_layer_moves_at_its_own_rate() -> None:
    """Adam's first step is the learning rate times the sign of the gradient; decay takes lr * .1 of the weight."""
    net = Net()
    engine = PlainEngine(net, adam_of(net), accumulation=1, bf16=False)
    before = engine.weights()
    (image, target), *_ = micro_batches(1)
    engine.backward(loss_of(engine(image), target))
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    engine.step(lr=0.01)
    for name, scale in (("conv.weight", 0.25), ("norm.weight", 0.5), ("head.weight", 1.0), ("head.bias", 1.0)):
        decay = 0.1 if before[name].ndim > 1 else 0.0
        expected = before[name] * (1 - 0.01 * scale * decay) - 0.01 * scale * gradients[name].sign()
        torch.testing.assert_close(engine.weights()[name], expected, rtol=1e-4, atol=1e-6)
