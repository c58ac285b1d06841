"""Whether a device says what the CPU says: networks, losses and gradients, bank, codec, and a run of steps."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist.codec import Codec, codec_of
from icon_dist.codec.heatmap import to_photo
from icon_dist.config import Config
from icon_dist.losses.memory_bank import MemoryBank
from icon_dist.losses.refined_joints import STAGE_WEIGHTS
from icon_dist.methods.from_config import method_of
from icon_dist.models import PoseNet, from_config
from icon_dist.training.precision import use_precision
from icon_dist.types import Outputs
from tests.gpu.setting import COCO, Learning, Row, Rows, Setting, config, crops, within
from tests.gpu.strategies import STRATEGIES, named

TINY = ("hrnet_small", "efficientnet_lite0")
FULL = (
    *("hrnet_small", "hrnet_w32", "hrnet_w48", "resnet18", "resnet50", "resnet101", "resnet152"),
    *("efficientnet_lite0", "movenet_thunder", "vit_s", "opecnet_resnet50", "opecnet_hrnet_w32"),
)
SYNCHRONIZES = "called a synchronizing CUDA operation"  # torch's warning; the mode itself warns that it is a prototype
FP32, BF16, LOSS, PIXELS, CURVE = 1e-4, 2e-2, 1e-5, 1e-3, 2e-3
State = dict[str, Tensor]


def correct(setting: Setting) -> Rows:
    yield from bank(setting)
    yield from codecs(setting)
    yield from losses(setting)
    learning = small(setting, setting.device)
    yield from nan_step(learning)
    yield from resume(setting, learning)
    yield from waits(setting, learning)
    yield from memory(setting, learning)
    yield from curve(setting)
    yield from networks(setting)


def apart(found: Tensor, right: Tensor) -> float:
    """Distance relative to the size; NaN where a number is none."""
    found, right = found.detach().cpu().double(), right.detach().cpu().double()
    size = right.norm()
    return float((found - right).norm() / (size if size > 0 else 1))


def furthest(pairs: Iterable[tuple[Tensor | None, Tensor | None]]) -> float:
    """The largest distance; NaN wins."""
    distances = torch.tensor([apart(a, b) for a, b in pairs if a is not None and b is not None])
    return float(distances.max())


@torch.no_grad()
def networks(setting: Setting) -> Rows:
    """Fresh networks in training, where BatchNorm of a few people magnifies what is rounded: so a bound is at least
    four times the distance by which the CPU's own answer moves when its weights are rounded once."""
    for backbone in TINY if setting.tiny else FULL:
        cfg = config(setting, model__backbone=backbone)
        torch.manual_seed(0)
        here = from_config.build(cfg, COCO).train()
        there = copy.deepcopy(here).to(setting.device)
        image = crops(cfg, 2 if setting.tiny else 4, device="cpu").image
        right = here(image)
        for precision, least, bits in (("fp32", FP32, 24), ("bf16", BF16, 9)):
            most = max(least, 4 * distance(rounded(here, 2.0**-bits)(image), right))
            use_precision(precision)
            torch.backends.cudnn.benchmark = False  # each shape is met but once
            with torch.autocast(setting.device.partition(":")[0], torch.bfloat16, enabled=precision == "bf16"):
                found = there(image.to(setting.device))
            yield within(f"{backbone} {precision}", distance(found, right), most)


def distance(found: Outputs, right: Outputs) -> float:
    return furthest([(found.heatmaps, right.heatmaps), (found.embedding, right.embedding)])


@torch.no_grad()
def rounded(model: PoseNet, size: float) -> PoseNet:
    """A copy with every weight up to ``size`` of it away."""
    moved, g = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for parameter in moved.parameters():
        parameter.mul_(1 + size * (2 * torch.rand(parameter.shape, generator=g) - 1))
    return moved


def losses(setting: Setting) -> Rows:
    """The loss of given outputs and its gradients, over three steps with a bank."""
    use_precision("fp32")
    models: dict[str, PoseNet] = {}  # of which only strides are asked
    for values in STRATEGIES:
        cfg = config(setting, **values)
        if cfg.model.backbone not in models:
            with torch.device("meta"):
                models[cfg.model.backbone] = from_config.build(cfg, COCO)
        model = models[cfg.model.backbone]
        people, steps = (3, 2) if setting.tiny else (6, 3)
        sides = [Side(cfg, model, device, people) for device in ("cpu", setting.device)]
        worst = 0.0
        for step in range(steps):
            (right, here), (found, there) = (side.step(step) for side in sides)
            worst = max(worst, apart(found, right), furthest(zip(there, here, strict=True)))
        yield within(f"loss {named(values)}", worst, BF16 if values.get("loss__products") == "bf16" else LOSS)


class Side:
    """A method on one device, given outputs instead of a network's."""

    def __init__(self, cfg: Config, model: PoseNet, device: str, people: int) -> None:
        self.cfg, self.device, self.people = cfg, device, people
        self.stride = model.embedding_stride
        self.method = method_of(cfg, COCO, model, micro_batch=people, teacher=None)
        self.refines = cfg.model.backbone.startswith("opecnet")

    def step(self, step: int) -> tuple[Tensor, list[Tensor | None]]:
        """The loss, and its gradients."""
        g = torch.Generator().manual_seed(step)
        batch = crops(self.cfg, self.people, device="cpu", seed=step)
        (h, w), (he, we) = ([side // stride for side in self.cfg.input_hw] for stride in (4, self.stride))
        maps = torch.rand(self.people, COCO.num_joints, h, w, generator=g)
        vectors = F.normalize(torch.randn(self.people, self.cfg.model.embedding, he, we, generator=g), dim=1)
        # As a network on a GPU lays them.
        heatmaps, embedding = (x.contiguous(memory_format=torch.channels_last) for x in (maps, vectors))
        joints = batch.joints + torch.randn(len(STAGE_WEIGHTS), *batch.joints.shape, generator=g)
        refined = joints if self.refines else None
        leaves = [None if x is None else x.to(self.device).requires_grad_() for x in (heatmaps, embedding, refined)]
        assert leaves[0] is not None
        outputs = Outputs(leaves[0], leaves[1], joints=leaves[2])
        total = self.method(lambda *_: outputs, batch.to(self.device), step=step, epoch=1.0, diagnose=False).total
        total.backward()
        self.method.commit()
        return total, [None if x is None else x.grad for x in leaves]


def bank(setting: Setting) -> Rows:
    """What is pushed lies there in every bit."""
    banks = [MemoryBank(17, 50, 32, device=device) for device in ("cpu", setting.device)]
    g = torch.Generator().manual_seed(0)
    for step in range(6):
        features, visible = torch.randn(24, 17, 32, generator=g), torch.rand(24, 17, generator=g) < 0.7
        number = torch.randint(0, 1000, (24,), generator=g)
        for one, device in zip(banks, ("cpu", setting.device), strict=True):
            one.push(features.to(device), visible.to(device), number.to(device), step=step)
    right, found = (one.state_dict() for one in banks)
    yield within("bank, tensors that differ", different(found, right), 0)


def different(found: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> int:
    """How many tensors differ in a bit."""
    return len(found.keys() ^ right.keys()) + sum(
        not torch.equal(found[name].cpu(), right[name].cpu()) for name in found.keys() & right.keys()
    )


def codecs(setting: Setting) -> Rows:
    """Under the precision of training: TF32 must not reach coordinates."""
    use_precision("auto")
    for name in ("msra", "dark", "udp"):
        cfg = config(setting, data__codec=name)
        codec: Codec = codec_of(cfg)
        batch = crops(cfg, 8, device="cpu")
        there = batch.to(setting.device)
        right, weight = codec.encode(batch.joints, batch.labelled)
        found, same = codec.encode(there.joints, there.labelled)
        yield within(f"{name} encode", furthest([(found, right), (same, weight)]), 1e-6)
        maps = right + 0.01 * torch.rand(right.shape, generator=torch.Generator().manual_seed(0))
        for method in ("argmax", "quarter", "dark"):
            xy, peak = codec.decode(maps, method=method)
            near, height = codec.decode(maps.to(setting.device), method=method)
            worst = max(float((a.cpu() - b).abs().max()) for a, b in ((near, xy), (height, peak)))
            yield within(f"{name} decode {method}", worst, PIXELS if method == "dark" else 0, "px")
        back = codec.flip_back(maps, flips=COCO.flips), codec.flip_back(maps.to(setting.device), flips=COCO.flips)
        yield within(f"{name} flip", apart(back[1], back[0]), 0)
    matrix = torch.rand(8, 2, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([2.0, 2.0, 400.0])
    right, found = to_photo(batch.joints, matrix=matrix), to_photo(there.joints, matrix=matrix.to(setting.device))
    yield within("joints to the photo", float((found.cpu() - right).abs().max()), PIXELS, "px")


def curve(setting: Setting) -> Rows:
    """Losses of some steps in fp32. Rounding the first weights once moves them by 2e-4 in 20 steps."""
    steps = 2 if setting.tiny else 20
    curves = []
    for device in ("cpu", setting.device):
        learning = small(setting, device)
        curves.append([measured(learning, crops(learning.cfg, 8, device=device, seed=i)) for i in range(steps)])
    right, found = (torch.tensor(values) for values in curves)
    yield within(f"{steps} steps, loss", float(((found - right).abs() / right).max()), CURVE)


def small(setting: Setting, device: str, **values: object) -> Learning:
    """A small network in fp32 with every part of the loss."""
    base = {"run__precision": "fp32", "data__input": "64x64", "data__sigma": 1, "model__backbone": "hrnet_small"}
    sizes = {"model__embedding": 16, "loss__bank__slots": 32, "loss__bank__warmup": 1, "optim__lr": 1e-4}
    learning = Learning(config(setting, **(base | sizes | values)), device=device)
    torch.backends.cudnn.benchmark = False  # a search for the fastest kernels takes longer than these few steps
    return learning


def measured(learning: Learning, batch: object) -> float:
    """The loss of a step that is then made."""
    seen: list[Tensor] = []
    method = learning.method

    def watched(*arguments: object, **keywords: object) -> object:
        out = method(*arguments, **keywords)
        seen.append(out.total.detach())
        return out

    learning.method = Watched(method, watched)
    learning.step(batch)
    learning.method = method
    return float(seen[0])


class Watched:
    """A method whose calls go through a function."""

    def __init__(self, method: object, call: Callable[..., object]) -> None:
        self._method, self._call = method, call

    def __call__(self, *arguments: object, **keywords: object) -> object:
        return self._call(*arguments, **keywords)

    def __getattr__(self, name: str) -> object:
        return getattr(self._method, name)


def whole(learning: Learning) -> State:
    """All that a checkpoint would hold of it, copied."""
    parts = learning.state.tensors()
    return {f"{part}.{name}": tensor.clone() for part, named in parts.items() for name, tensor in named.items()}


def nan_step(learning: Learning) -> Rows:
    batches = [crops(learning.cfg, 8, device=learning.device, seed=i) for i in range(3)]
    learning.step(batches[0])
    before = whole(learning)
    spoil = learning.model.final_layer.register_forward_hook(lambda *args: args[2] * torch.nan)
    learning.step(batches[1])
    spoil.remove()
    learning.heed(wait=True)
    yield within("NaN step, tensors that changed", different(whole(learning), before), 0)
    skips = learning.state.skipped
    yield Row("NaN step, skipped", skips, ok=skips == 1 and learning.state.step == 2)
    learning.step(batches[2])
    yield within("the step after it, tensors that stayed", sum(map(torch.equal, *weights(before, whole(learning)))), 0)


def weights(*states: State) -> list[list[Tensor]]:
    """Convolutions and the like: what every step moves."""
    return [[t for name, t in state.items() if name.startswith("model.") and t.dim() == 4] for state in states]


def resume(setting: Setting, first: Learning) -> Rows:
    """Saved on the device, loaded and saved on the CPU, loaded on the device: the same bits, and the same next loss."""
    learners = [first]
    for device in ("cpu", setting.device):
        learning, saved = small(setting, device), learners[-1].state.tensors()
        learning.model.load_state_dict(saved["model"])
        learning.engine.load_optimizer_state(saved["optimizer"])
        learning.method.load_state_dict(saved["bank"])
        learning.state.step = first.state.step
        learners.append(learning)
    yield within("resume, tensors that differ", different(whole(learners[2]), whole(first)), 0)
    batch = crops(first.cfg, 8, device=setting.device, seed=3)
    one, other = (measured(learning, batch) for learning in (first, learners[2]))
    yield within("resume, next loss", abs(other - one) / one, LOSS)
    later = weights(whole(learners[2]), whole(first))
    yield within("resume, weights a step later", furthest(zip(*later, strict=True)), CURVE)


def waits(setting: Setting, learning: Learning) -> Rows:
    """How often the host waits for the device in a step that does not log: never."""
    batch = crops(learning.cfg, 8, device=setting.device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if setting.cuda:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            learning.step(batch)
        finally:
            if setting.cuda:
                torch.cuda.set_sync_debug_mode("default")
    places = waited(caught)
    yield Row("waits of a step", len(places), note=", ".join(sorted({*places})))


def waited(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    """Where the host waited for the device, once for each time."""
    found = (w for w in caught if SYNCHRONIZES in str(w.message))
    return [f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in found]


def memory(setting: Setting, learning: Learning) -> Rows:
    """Nothing piles up: the peak of later steps is that of earlier ones."""
    peaks = []
    for steps in (1, 1) if setting.tiny else (10, 40):
        if setting.cuda:
            torch.cuda.reset_peak_memory_stats()
        for i in range(steps):
            learning.step(crops(learning.cfg, 8, device=setting.device, seed=i))
        peaks.append(torch.cuda.max_memory_allocated() if setting.cuda else 0)
    yield within("memory, growth of the peak", (peaks[1] - peaks[0]) / 2**20, 1, "MiB")
