"""One step of each method against the equations written out, with networks that say what they are told to."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from icon_dist import config as configuration
from icon_dist.codec import Codec
from icon_dist.config import SemiConfig
from icon_dist.datasets import load_skeleton
from icon_dist.errors import ConfigError
from icon_dist.losses.health import Health, collapsed
from icon_dist.losses.sampling import key_of
from icon_dist.methods import hard_view
from icon_dist.methods.objective import Losses, Objective
from icon_dist.methods.pseudo_labels import Pseudo, statistics_held
from icon_dist.methods.sspose import LAMBDA_U, SSPose, mean_of
from icon_dist.methods.supervised import Supervised
from icon_dist.types import Batch, Outputs

COCO = load_skeleton("coco")
HW, MAP = (64, 64), (16, 16)
CODEC = Codec("msra", HW, 4, 1.0)
N, U, K = 6, 2, 17  # people, of them unlabelled, joints


def batch_of(seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    joints = 8 + 4 * torch.randint(0, 12, (N, K, 2), generator=g).float()
    labelled = torch.rand(N, K, generator=g) < 0.8
    ids = torch.arange(N)
    return Batch(
        image=torch.randint(0, 256, (N, *HW, 3), dtype=torch.uint8, generator=g),
        joints=joints * labelled[..., None],
        labelled=labelled,
        visible=labelled,
        instance=ids,
        image_id=ids,
        row=ids,
        to_photo=torch.eye(2, 3).repeat(N, 1, 1),
    )


def without_labels(batch: Batch) -> Batch:
    """As the stream gives it: nothing is known of the last people."""
    hidden = {"joints": batch.joints.clone(), "labelled": batch.labelled.clone(), "visible": batch.visible.clone()}
    for value in hidden.values():
        value[-U:] = 0
    return Batch(**{**vars(batch), **hidden})


def objective(lambda_u: float, **more: object) -> Objective:
    loss = configuration.load("coco", {"loss.lambda_p": 0, **more}).loss
    return Objective(loss, COCO, embedding_dim=8, embedding_stride=4, sigma=1.0, lambda_u=lambda_u, seed=0)


class Said(nn.Module):
    """Answers each call with the next heatmaps, which receive the gradient."""

    def __init__(self, *maps: Tensor) -> None:
        super().__init__()
        self.maps = [m.requires_grad_() for m in maps]
        self.calls = 0

    def forward(self, image: Tensor) -> Outputs:
        self.calls += 1
        assert len(image) == len(self.maps[self.calls - 1])
        return Outputs(self.maps[self.calls - 1])


def pseudo(model: nn.Module, teacher: Tensor, *, gamma: float, lambda_u: float = 0.1) -> Pseudo:
    return Pseudo(
        objective(lambda_u), CODEC, model=model, teacher=lambda _: Outputs(teacher), gamma=gamma, unlabelled=U,
        joints=COCO.joints,
    )  # fmt: skip


def test_pseudo_is_the_equation() -> None:
    """L_L + .1 / (U K) sum over sure joints of .5 sum over pixels; peaks below gamma are ignored."""
    torch.manual_seed(0)
    known, unknown, teacher = (torch.rand(n, K, *MAP) for n in (N - U, U, U))
    teacher = teacher * torch.rand(U, K, 1, 1)
    model = Said(known, unknown)
    batch = without_labels(batch_of())
    losses = pseudo(model, teacher, gamma=0.6)(model, batch, step=0, epoch=0.0, diagnose=True)
    target, weight = CODEC.encode(batch.joints[:-U], batch.labelled[:-U])
    expected, sure = 0.0, torch.zeros(K)
    known, unknown = known.detach(), unknown.detach()
    for n in range(N - U):
        for k in range(K):
            expected += 0.5 * float(((known[n, k] - target[n, k]) * weight[n, k]).square().sum()) / (K * (N - U))
    for n in range(U):
        for k in range(K):
            if teacher[n, k].max() > 0.6:
                sure[k] += 1 / U
                expected += 0.1 * 0.5 * float((unknown[n, k] - teacher[n, k]).square().sum()) / (K * U)
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    assert 0 < sure.mean() < 1
    rates = torch.stack([losses.measured[f"pass_{name}"] for name in COCO.joints])
    torch.testing.assert_close(rates, sure)


def test_nothing_is_learnt_from_an_empty_place() -> None:
    torch.manual_seed(5)
    batch = without_labels(batch_of())
    batch.row = torch.tensor([*range(N - 1), -1])
    heatmaps = [torch.rand(n, K, *MAP) for n in (U, N - U, U)]
    model = Said(*heatmaps[1:])
    pseudo(model, torch.ones(U, K, *MAP), gamma=0.5)(model, batch, step=0, epoch=0.0, diagnose=False).total.backward()
    nets = Two(*(Said(*(maps.detach().clone() for maps in heatmaps)) for _ in range(2)))
    sspose()(nets, batch, step=0, epoch=0.0, diagnose=False).total.backward()
    for gradient in (model.maps[1].grad, *(net.maps[2].grad for net in nets.nets)):
        assert gradient[0].any()
        assert not gradient[1].any()


def test_a_perfect_teacher_gives_the_supervised_gradient() -> None:
    """On the people it speaks of, times lambda_u; as if their labels were there."""
    torch.manual_seed(1)
    known, unknown = torch.rand(N - U, K, *MAP), torch.rand(U, K, *MAP)
    whole = batch_of()
    truth, weight = CODEC.encode(whole.joints[-U:], whole.labelled[-U:])
    model = Said(known.clone(), unknown.clone())
    pseudo(model, truth, gamma=0.75)(model, without_labels(whole), step=0, epoch=0.0, diagnose=False).total.backward()
    labelled = Said(unknown.clone())
    last = Batch(**{name: value[-U:] for name, value in vars(whole).items()})
    Supervised(objective(0.0), CODEC)(labelled, last, step=0, epoch=0.0, diagnose=False).total.backward()
    assert model.maps[1].grad is not None
    assert labelled.maps[0].grad is not None
    torch.testing.assert_close(model.maps[1].grad, 0.1 * labelled.maps[0].grad)
    assert (model.maps[1].grad.abs().sum((2, 3)) > 0).equal(weight > 0)


def test_a_teacher_that_has_looked_before_is_learnt_like_labels() -> None:
    """Its joints come with the batch, and the loss on them is that of labels, times lambda_u."""
    torch.manual_seed(6)
    known, unknown = torch.rand(N - U, K, *MAP), torch.rand(U, K, *MAP)
    batch = batch_of()
    model = Said(known, unknown)
    method = Pseudo(
        objective(0.3), CODEC, model=model, teacher=None, gamma=0.75, unlabelled=U, joints=COCO.joints
    )  # fmt: skip
    losses = method(model, batch, step=0, epoch=0.0, diagnose=True)
    target, weight = CODEC.encode(batch.joints, batch.labelled)
    said, expected = torch.cat([known, unknown]).detach(), 0.0
    for n in range(N):
        for k in range(K):
            share = 1 / (N - U) if n < N - U else 0.3 / U
            expected += share / K * 0.5 * float(((said[n, k] - target[n, k]) * weight[n, k]).square().sum())
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    rates = torch.stack([losses.measured[f"pass_{name}"] for name in COCO.joints])
    torch.testing.assert_close(rates, batch.labelled[-U:].float().mean(0))


def test_contrast_on_unlabelled_people_is_at_the_teachers_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    teacher = torch.zeros(U, K, *MAP)
    teacher[0, 3, 5, 7], teacher[1, 4, 2, 9] = 0.9, 0.5
    model = Said(torch.rand(N - U, K, *MAP), torch.rand(U, K, *MAP))
    method = pseudo(model, teacher, gamma=0.75)
    seen: list[Batch] = []
    inner = Objective.__call__

    def spy(own: Objective, outputs: Outputs, batch: Batch, *rest: Tensor, **more: object) -> object:
        seen.append(batch)
        return inner(own, outputs, batch, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Objective, "__call__", spy)
    method(model, without_labels(batch_of()), step=0, epoch=0.0, diagnose=False)
    (batch,) = seen
    assert batch.visible[-U:].nonzero().tolist() == [[0, 3]]
    assert batch.joints[N - U, 3].tolist() == [28.0, 20.0]
    assert torch.equal(batch.visible[:-U], batch_of().visible[:-U])


def test_running_statistics_are_held_and_let_go() -> None:
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = torch.rand(5, 3, 8, 8)
    with statistics_held(norm):
        held = norm(x)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    torch.testing.assert_close(held.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)  # by the batch nevertheless
    norm(x)
    assert not torch.equal(norm.state_dict()["1.running_mean"], before["1.running_mean"])


def sspose(*, gamma: float = 0.75, lessons: Literal["all", "sure"] = "all") -> SSPose:
    return SSPose(
        (objective(LAMBDA_U), objective(LAMBDA_U)),
        CODEC,
        SemiConfig(gamma=gamma, lessons=lessons, compat=False),
        unlabelled=U,
        joints=COCO.joints,
        seed=4,
    )


class Two(nn.Module):
    """Two students that answer easy, labelled and hard views, in this order, and remember what they were shown."""

    def __init__(self, *nets: Said) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.shown: list[tuple[Tensor, Tensor]] = []

    def forward(self, first: Tensor, second: Tensor) -> tuple[Outputs, Outputs]:
        self.shown.append((first, second))
        return self.nets[0](first), self.nets[1](second)


@pytest.mark.parametrize("lessons", ["all", "sure"])
def test_sspose_is_the_equation(lessons: str) -> None:
    torch.manual_seed(3)
    easy, known, hard = ([torch.rand(n, K, *MAP) for _ in range(2)] for n in (U, N - U, U))
    nets = Two(*(Said(easy[i], known[i], hard[i]) for i in range(2)))
    batch = without_labels(batch_of())
    losses = sspose(gamma=0.95, lessons=lessons)(nets, batch, step=7, epoch=0.0, diagnose=False)
    turned = hard_view.turns(batch.instance[-U:], key=key_of(4, 7, 100)).matrix(unit=(4, 4), center=(8, 8))
    target, weight = CODEC.encode(batch.joints[:-U], batch.labelled[:-U])
    expected = 0.0
    for i in range(2):
        lesson = hard_view.warp(easy[1 - i].detach(), turned)
        expected += (
            0.5 * 0.5 * float(((known[i].detach() - target) * weight[..., None, None]).square().sum()) / (K * (N - U))
        )
        sure = lesson.amax((2, 3)) > 0.95
        assert sure.any()
        assert not sure.all()
        teaches = sure[..., None, None] if lessons == "sure" else 1
        expected += 0.5 * float(((hard[i].detach() - lesson) * teaches).square().sum()) / (K * U)
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    losses.total.backward()
    for i in range(2):
        assert easy[i].grad is None  # nobody learns from what it taught
        assert known[i].grad is not None
        assert hard[i].grad is not None
    (e1, e2), (k1, k2), (h1, h2) = nets.shown
    assert torch.equal(e1, batch.image[-U:])
    assert torch.equal(e1, e2)
    assert torch.equal(k1, k2)
    assert not torch.equal(h1, h2)  # each is erased where the other sees joints


def test_the_mean_of_two_students_is_of_refined_joints_too() -> None:
    def forward(first: Tensor, second: Tensor) -> tuple[Outputs, Outputs]:
        maps, joints = torch.rand(U, K, *MAP), torch.ones(4, U, K, 2)
        return Outputs(maps, joints=joints * first.mean()), Outputs(maps, joints=3 * joints * second.mean())

    out = sspose().students(forward)["mean_"](torch.ones(U))
    assert out.joints is not None
    assert out.joints.unique().tolist() == [2.0]


def test_the_collapse_of_either_student_is_seen() -> None:
    """Each by its own loss: the mean of a sound and a collapsed one is below chance."""

    def net(loss: float, cosine: float) -> Losses:
        zero, skcc = torch.zeros(()), torch.tensor(loss)
        health = Health(skcc, chance=torch.tensor(2.0), cosine=torch.tensor(cosine), purity=zero)
        return Losses(zero, zero, skcc=skcc, prcc=zero, health={"skcc": health})

    sound, lost = net(0.5, 0.1), net(2.0, 0.99)
    for nets in ((sound, lost), (lost, sound)):
        scalars = mean_of(*nets).scalars()
        over_chance = [scalars[f"{prefix}skcc_over_chance"] for prefix in ("", "net2_")]
        assert over_chance == [0.25, 1.0] if nets[0] is sound else [1.0, 0.25]
        assert scalars["skcc"] == 1.25
        assert collapsed(scalars)
    assert not collapsed(mean_of(sound, sound).scalars())


def test_a_micro_batch_holds_whole_people_of_each_kind() -> None:
    semi = {"semi.method": "sspose", "data.labelled": 0.3, "optim.batch": 32, "optim.micro_batch": 16}
    configuration.load("coco", semi | {"semi.unlabelled_share": 0.75, "semi.gamma": 1.1})
    with pytest.raises(ConfigError, match=r"semi.unlabelled_share=0.3: 2.4 of the 8 people of a micro-batch"):
        configuration.load("coco", semi | {"semi.unlabelled_share": 0.3})
    with pytest.raises(ConfigError, match=r"data.streams=16: must divide both the 8 labelled and the 24 other people"):
        configuration.load("coco", semi | {"semi.unlabelled_share": 0.75, "data.streams": 16})
