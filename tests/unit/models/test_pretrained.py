"""Every kind of public file, made from official names and shapes, and every way in which one does not fit."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from icon_dist.errors import CheckpointError
from icon_dist.models import Heads, PoseNet, build_model
from icon_dist.models.pretrained import adapt, load, unpack

State = dict[str, Tensor]
FINAL = ["final_layer.weight", "final_layer.bias"]
# test_hrnet.py and test_resnet.py hold these models' names and shapes against the official code's.
HRNET, RESNET = "hrnet_w8", "resnet18"


def ours(backbone: str, *, joints: int = 17, projection: str | None = None, seed: int = 0) -> PoseNet:
    torch.manual_seed(seed)
    return build_model(backbone, Heads(joints=joints, projection=projection, embedding=16, input_hw=(64, 64)))


@functools.cache
def _official(backbone: str) -> State:
    model = ours(backbone, seed=1)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return {name: value.clone() for name, value in model.state_dict().items()}


def official(backbone: str) -> State:
    """A trained pose_hrnet or pose_resnet."""
    return dict(_official(backbone))


def without(state: State, *beginnings: str) -> State:
    return {name: value for name, value in state.items() if not name.startswith(beginnings)}


def imagenet_hrnet(head: str) -> State:
    """hrnet_w32-36af842e.pth has ``head``, timm and the classification code the three others; both all four rows."""
    state = without(official(HRNET), "final_layer.")
    for row in (1, 2, 3):
        state[f"stage4.2.fuse_layers.{row}.0.0.0.weight"] = torch.zeros(16, 8, 3, 3)
        state[f"stage4.2.fuse_layers.{row}.0.0.1.running_mean"] = torch.zeros(16)
    if head == "head":
        state |= {"head.0.0.0.conv1.weight": torch.zeros(32, 8, 1, 1), "head.2.0.bias": torch.zeros(2048)}
    else:
        state |= {"incre_modules.0.0.conv1.weight": torch.zeros(32, 8, 1, 1)}
        state |= {"downsamp_modules.0.0.weight": torch.zeros(8), "final_layer.0.weight": torch.zeros(2048, 1024, 1, 1)}
        state |= {"final_layer.1.running_var": torch.ones(2048)}
    return state | {"classifier.weight": torch.zeros(1000, 2048), "classifier.bias": torch.zeros(1000)}


def torchvision_resnet() -> State:
    """resnet18-5c106cde.pth is of before batches were counted."""
    state = without(official(RESNET), "deconv_layers.", "final_layer.")
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def mmpose(backbone: str, head: str) -> State:
    heads = ("final_layer.", "deconv_layers.")
    return {f"{head if name.startswith(heads) else 'backbone'}.{name}": v for name, v in official(backbone).items()}


HRNET_DROPPED = {f"stage4.2.fuse_layers.{i}.0.0.{n}" for i in (1, 2, 3) for n in ("0.weight", "1.running_mean")} | {
    "classifier.weight",
    "classifier.bias",
}
DECONV = [name for name in _official(RESNET) if name.startswith("deconv_layers.") and "tracked" not in name]
CASES: dict[str, tuple[str, Callable[[], State], str, list[str], set[str], str]] = {
    # kind: backbone, file, name, new, dropped, channel_order
    "hrnet": (HRNET, lambda: official(HRNET), "official pose_hrnet", [], set(), "rgb"),
    "resnet": (RESNET, lambda: official(RESNET), "official pose_resnet", [], set(), "bgr"),
    "mmpose0 hrnet": (HRNET, lambda: mmpose(HRNET, "keypoint_head"), "MMPose 0.x HRNet", [], set(), "rgb"),
    "mmpose0 resnet": (RESNET, lambda: mmpose(RESNET, "keypoint_head"), "MMPose 0.x ResNet", [], set(), "rgb"),
    "mmpose1 hrnet": (HRNET, lambda: mmpose(HRNET, "head"), "MMPose 1.x HRNet", [], set(), "rgb"),
    "mmpose1 resnet": (RESNET, lambda: mmpose(RESNET, "head"), "MMPose 1.x ResNet", [], set(), "rgb"),
    "imagenet hrnet": (
        HRNET,
        lambda: imagenet_hrnet("head"),
        "ImageNet HRNet",
        FINAL,
        HRNET_DROPPED | {"head.0.0.0.conv1.weight", "head.2.0.bias"},
        "rgb",
    ),
    "imagenet hrnet of the classification code": (
        HRNET,
        lambda: imagenet_hrnet("incre"),
        "ImageNet HRNet",
        FINAL,
        HRNET_DROPPED
        | {"incre_modules.0.0.conv1.weight", "downsamp_modules.0.0.weight"}
        | {"final_layer.0.weight", "final_layer.1.running_var"},
        "rgb",
    ),
    "imagenet resnet": (
        RESNET,
        torchvision_resnet,
        "ImageNet ResNet",
        [*DECONV, *FINAL],
        {"fc.weight", "fc.bias"},
        "rgb",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_public_file_loads_with_exactly_its_exceptions(case: str) -> None:
    backbone, file, kind, new, dropped, channel_order = CASES[case]
    model = ours(backbone)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = adapt(file(), model, name="x.pth")
    assert adapted.kind.name == kind
    assert adapted.new == new
    assert set(adapted.dropped) == dropped
    load(adapted, model)
    assert model.channel_order == channel_order
    trained = official(backbone)
    for name, value in model.state_dict().items():
        if "num_batches_tracked" not in name:
            assert torch.equal(value, fresh[name] if name in new else trained[name]), name


@pytest.mark.parametrize("case", CASES)
def test_nothing_else_may_be_missing_or_too_much(case: str) -> None:
    backbone, file, *_ = CASES[case]
    model, whole = ours(backbone), file()
    inside = next(name for name in whole if name.endswith("layer1.0.conv2.weight"))
    with pytest.raises(CheckpointError, match=r"x.pth: has no layer1.0.conv2.weight \[\d+, \d+, 3, 3\], which "):
        adapt(without(whole, inside), model, name="x.pth")
    with pytest.raises(
        CheckpointError, match=rf"x.pth: layer9.w \[2\] \(.*\) has no place in {backbone}; set the model"
    ):
        adapt(whole | {"layer9.w": torch.zeros(2)}, model, name="x.pth")
    with pytest.raises(
        CheckpointError, match=r"x.pth: layer1.0.conv2.weight is \[5, 5\] there and \[\d+, \d+, 3, 3\] in"
    ):
        adapt(whole | {inside: torch.zeros(5, 5)}, model, name="x.pth")


@pytest.mark.parametrize("case", ["hrnet", "resnet", "mmpose0 hrnet", "mmpose1 resnet"])
def test_another_number_of_joints_changes_the_final_layer_alone(case: str) -> None:
    backbone, file, *_ = CASES[case]
    model = ours(backbone, joints=14)
    adapted = adapt(file(), model, name="x.pth")
    assert (adapted.new, adapted.joints) == (FINAL, 17)
    load(adapted, model)
    assert torch.equal(model.get_parameter("conv1.weight"), official(backbone)["conv1.weight"])


def test_rows_of_a_public_head_go_to_joints_of_their_names() -> None:
    model, theirs = ours(HRNET, joints=4), official(HRNET)
    fresh = {name: model.get_parameter(name).detach().clone() for name in FINAL}
    here, there = ("neck", "hip", "tail", "knee"), {17: ("hip", "knee", *map(str, range(15)))}
    adapted = adapt(theirs, model, name="x.pth", here=here, there=there)
    assert (adapted.new, adapted.joints, adapted.carried) == ([], 0, ("hip", "knee"))
    load(adapted, model)
    for name in FINAL:
        row = theirs[name]
        assert torch.equal(model.get_parameter(name), torch.stack([fresh[name][0], row[0], fresh[name][2], row[1]]))
    same = adapt(theirs, ours(HRNET), name="x.pth", here=there[17], there=there)
    assert (same.new, same.joints, same.carried) == ([], 0, None)
    others = adapt(theirs, ours(HRNET), name="x.pth", here=tuple("abcdefghijklmnopq"), there=there)
    assert (others.new, others.joints, others.carried) == (FINAL, 17, None)


def test_a_final_layer_of_other_channels_is_no_question_of_joints() -> None:
    state = official(HRNET) | {"final_layer.weight": torch.zeros(14, 9, 1, 1)}
    with pytest.raises(
        CheckpointError, match=r"final_layer.weight is \[14, 9, 1, 1\] there and \[17, 8, 1, 1\] in hrnet"
    ):
        adapt(state, ours(HRNET), name="x.pth")


def test_a_pose_network_cannot_lose_its_final_layer() -> None:
    state = official(HRNET)
    del state["final_layer.bias"]
    with pytest.raises(
        CheckpointError, match=r"has no final_layer.bias \[17\], which official pose_hrnet for hrnet_w8"
    ):
        adapt(state, ours(HRNET), name="x.pth")


def test_the_projection_head_stays_fresh() -> None:
    model = ours(HRNET, projection="linear")
    adapted = adapt(official(HRNET), model, name="x.pth")
    assert adapted.new == ["projection.0.weight", "projection.0.bias"]
    load(adapted, model)


def test_weights_of_another_family_or_of_none() -> None:
    with pytest.raises(
        CheckpointError, match=r"x.pth: is official pose_resnet; set model.backbone=resnet..., not hrnet_w8"
    ):
        adapt(official(RESNET), ours(HRNET), name="x.pth")
    with pytest.raises(
        CheckpointError, match=r"x.pth: whose weights are these\? a.b, c \.\.\. are not names of MMPose"
    ):
        adapt({"a.b": torch.zeros(1), "c": torch.zeros(1)}, ours(HRNET), name="x.pth")


# ------------------------------------------------------------------------------------------------------------- files


def saved(value: object, *, legacy: bool = False) -> bytes:
    sink = BytesIO()
    torch.save(value, sink, _use_new_zipfile_serialization=not legacy)
    return sink.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_state_dicts_come_out_of_their_wrappings(legacy: bool, wrapped: bool, checkpoint: bool) -> None:
    state = {"conv1.weight": torch.arange(6.0).view(2, 3), "bn1.bias": torch.ones(2)}
    stored: object = {f"module.{name}": value for name, value in state.items()} if wrapped else state
    if checkpoint:
        stored = {"epoch": 210, "state_dict": stored, "perf": 0.75, "optimizer": {"state": {0: torch.zeros(1)}}}
    found = unpack(saved(stored, legacy=legacy), name="checkpoint.pth.tar" if legacy else "checkpoint.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_safetensors() -> None:
    assert torch.equal(unpack(safetensors.torch.save({"a": torch.ones(2)}), name="x.safetensors")["a"], torch.ones(2))


class Log:
    """As MMEngine's HistoryBuffer, arrays in an object."""

    def __init__(self) -> None:
        self._log_history, self.max_length = np.arange(3.0), 1000000


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Makes a HistoryBuffer, whose class is there while a file is written and not when it is read."""
    name = "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, part, module)
    kind = type("HistoryBuffer", (Log,), {"__module__": name})
    monkeypatch.setattr(module, "HistoryBuffer", kind, raising=False)
    return kind


def of_mmengine(backbone: str, log: object) -> dict[str, object]:
    """The layout of a checkpoint that MMPose 1.x writes while it trains, with EMAHook."""
    state = mmpose(backbone, "head")
    colors = np.random.default_rng(0).integers(0, 255, (17, 3))
    meta = {
        "dataset_meta": {"keypoint_colors": colors, "sigmas": np.full(17, 0.05, np.float32), "names": np.array(["a"])},
        "epoch": 210,
        "best_score": np.float64(0.7),
        "flags": np.bool_(True),
        "objects": np.array([None, "x"], dtype=object),
        "cfg": "model = dict()",
    }
    return {
        "meta": meta,
        "state_dict": state,
        "message_hub": {"log_scalars": {"train/loss": log}, "runtime_info": {"iter": np.int64(3)}, "resumed_keys": {}},
        "ema_state_dict": {"steps": torch.tensor(9), **{f"module.{name}": 2 * v for name, v in state.items()}},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 5e-4, "params": [0]}]},
        "param_schedulers": [{"last_step": 3}],
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_a_training_checkpoint_of_mmpose(
    mmengine: Callable[[], object], monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    """Its averaged weights are those under plain names; what lies beside them is never made."""
    allowed = set(torch.serialization.get_safe_globals())
    data = saved(of_mmengine(RESNET, mmengine()), legacy=legacy)
    for name in [name for name in sys.modules if name.startswith("mmengine")]:
        monkeypatch.delitem(sys.modules, name)
    found = unpack(data, name="epoch_210.pth")
    expected = mmpose(RESNET, "head")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    adapted = adapt(found, ours(RESNET), name="epoch_210.pth")
    assert (adapted.kind.name, adapted.new, adapted.dropped) == ("MMPose 1.x ResNet", [], [])
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_the_pickles_of_numpy_1_are_read_as_well() -> None:
    """The same file, with the names that its modules had."""
    data = saved({"meta": np.arange(3), "best": np.float64(1), "state_dict": {"a": torch.ones(1)}}, legacy=True)
    assert data.count(b"numpy._core.multiarray") == 2
    assert unpack(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"), name="w.pth").keys() == {"a"}


def test_what_mmpose_keeps_beside_the_weights_is_dropped_by_name() -> None:
    """EMA buffers of MMCV, and the normalization, which must be ours."""
    state = mmpose(HRNET, "head")
    aside = {f"ema_{name.replace('.', '_')}": 2 * value for name, value in state.items()}
    aside |= {"data_preprocessor.mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)}
    aside |= {"data_preprocessor.std": torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)}
    adapted = adapt(state | aside, ours(HRNET), name="x.pth")
    assert set(adapted.dropped) == set(aside)
    assert torch.equal(adapted.state["conv1.weight"], state["backbone.conv1.weight"])
    for value in (torch.tensor([103.53, 116.28, 123.675]), torch.zeros(3), torch.zeros(1), torch.full((3,), torch.nan)):
        with pytest.raises(
            CheckpointError, match=r"x.pth: data_preprocessor.mean is \[.*\], and pixels are normalized by"
        ):
            adapt(state | aside | {"data_preprocessor.mean": value}, ours(HRNET), name="x.pth")
    with pytest.raises(CheckpointError, match=r"x.pth: data_preprocessor.scale \[1\] \(.*\) has no place in"):
        adapt(state | {"data_preprocessor.scale": torch.zeros(1)}, ours(HRNET), name="x.pth")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(value: float) -> None:
    state = official(HRNET)
    state["conv1.weight"] = torch.full_like(state["conv1.weight"], value)
    with pytest.raises(CheckpointError, match=r"x.pth: conv1.weight has values that are not finite"):
        adapt(state, ours(HRNET), name="x.pth")


def test_weights_of_another_kind_of_number() -> None:
    state = official(HRNET)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    load(adapt(halves, (model := ours(HRNET)), name="x.pth"), model)
    assert torch.equal(model.get_parameter("conv1.weight"), halves["conv1.weight"].float())
    for dtype in (torch.int64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2):
        with pytest.raises(CheckpointError, match=f"x.pth: conv1.weight is {dtype}; give weights as float32"):
            adapt(state | {"conv1.weight": state["conv1.weight"].to(dtype)}, ours(HRNET), name="x.pth")


class Evil:
    """What a pickle may do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("w.onnx", b"", r"not one of .pth, .pt, .pth.tar, .safetensors; give"),
        ("w.pth", b"not a file", r"no file of torch.save \(begins with b'not a file'\); download it again"),
        ("w.pth", b"\n<html>404</html>", r"no file of torch.save \(a page of a web server\); download it again"),
        (
            "w.pth",
            b"\x80not a file",
            r"cut, or more than plain tensors \(.*\); download it again, or save its state_dict",
        ),
        ("w.pth", b"", r"no file of torch.save \(empty\)"),
        ("w.safetensors", b"\x08" + b"\0" * 20, r"cut, or more than plain tensors"),
        ("w.pth", saved({"a": torch.ones(9)})[:-40], r"cut, or more than plain tensors"),
        ("w.pth", saved([torch.ones(1)]), r"neither names of tensors nor a state_dict of them \(list\)"),
        ("w.pth", saved({"epoch": 3, "net": {}}), r"neither names .* \(has epoch, net\); save a state_dict"),
        ("w.pth", saved({}), r"neither names of tensors"),
    ],
)
def test_files_that_hold_no_weights(name: str, data: bytes, says: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^{name}: {says}") as caught:
        unpack(data, name=name)
    assert "\n" not in str(caught.value)


def test_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"w.pth: more than plain tensors: getattr stands in the way; "):
        unpack(saved({"a": Evil()}), name="w.pth")
    assert not (tmp_path / "ran").exists()
