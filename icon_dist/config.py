"""The whole configuration: frozen dataclasses < preset YAML < ``a.b=c``. The only omegaconf import.

``load("coco", ["loss.tau=0.1"])`` returns a validated :class:`Config` or raises one-line :class:`ConfigError`.
A preset is ``icon_dist/configs/NAME.yaml``; ``extends: NAME`` at its top starts from another preset.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from icon_dist.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class RunConfig:
    name: str = "run"  # the same name again = resume
    dir: str = "runs"  # path or s3://bucket/prefix; the run lives in dir/name
    seed: int = 0
    launcher: str = "ray"  # ray | local: the same loop in this process, without Ray
    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0  # 0 or 1
    zero: int = 1  # DeepSpeed ZeRO stage 0-3
    precision: str = "auto"  # auto (bf16 on a GPU, fp32 on a CPU) | fp32 | bf16
    compile: bool = False
    checkpoint_every: float = 1.0  # epochs; 0.25 = four times an epoch
    keep: int = 2  # newest checkpoints kept, besides the best
    log_every: int = 20  # optimizer steps
    max_failures: int = 3  # worker-group restarts before the run gives up
    stop_after_epoch: int = 0  # leave after this epoch as if the job's time were up; 0 = run to the end


@dataclass(frozen=True)
class AugmentConfig:
    rotation: float = 45.0  # degrees: N(0, rotation) clipped to twice that
    rotation_p: float = 0.6
    scale: float = 0.35  # zoom factor clip(1 + N * scale, 1 - scale, 1 + scale)
    flip_p: float = 0.5
    half_body_p: float = 0.3  # only for people with more than half_body_min visible joints
    half_body_min: int = 8


@dataclass(frozen=True)
class DataConfig:
    dataset: str = "coco"  # coco | mpii | crowdpose | custom | fake
    generate: int = 0  # dataset=fake: people to render when the shards are missing (and a quarter of it for val)
    train: str = "data/coco/train"  # shards: path or s3://
    val: str = ""  # shards to evaluate on; empty = no evaluation
    input: str = "256x192"  # height x width, px
    sigma: float = 2.0  # of the target Gaussian, heatmap px
    streams: int = 0  # V, divides the global batch; 0 = its largest divisor up to 256
    loaders: int = 2  # decoding processes per worker; 0 = decode in the training process
    cache_mb: int = 0  # memory per loader for decoded crops, reused in later epochs
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class ModelConfig:
    backbone: str = "hrnet_w32"
    feature: str = "default"  # what the projection head reads: default | all (HRNet branches) | deconv (ResNet)
    embedding: int = 256  # m
    projection: str = "mlp"  # mlp | linear


@dataclass(frozen=True)
class HeatmapLossConfig:
    reduction: str = "sum"  # over the pixels of a heatmap: sum | mean (METHOD: loss-scale trap)
    weight: float = 1.0


@dataclass(frozen=True)
class ContrastConfig:
    """One of the two terms: SKCC (single) or PRCC (pair)."""

    query: str = "hard"  # hard | random | all: which categories of a person ask
    queries: int = 5  # Q of them
    queries_to: int = 0  # random only: Q is drawn for each person from queries .. queries_to; 0 = always queries
    negative: str = "hard"  # hard | random | all: which categories are compared with
    negatives: int = 6  # Hn of them
    negatives_to: int = 0  # random only: the same for Hn


@dataclass(frozen=True)
class BankConfig:
    enabled: bool = True
    slots: int = 512  # S, per category
    warmup: int = 1000  # optimizer steps before its keys are used
    budget: int = 0  # instances contributed per step by all ranks together; 0 = all of them


@dataclass(frozen=True)
class LossConfig:
    lambda_p: float = 1.0  # weight of contrast in the whole (Eq. 5); 0 = baseline without a projection head
    lambda_1: float = 0.3  # SKCC
    lambda_2: float = 0.7  # PRCC
    tau: float = 0.07
    points: int = 16  # T: pixel-set size around a joint; 1 = point mode
    start_epoch: float = 0.0  # contrast starts here ...
    ramp_epochs: float = 0.0  # ... and grows linearly to its full weight over these
    negatives_from_others: bool = False  # negatives never from the query's own person
    heatmap: HeatmapLossConfig = field(default_factory=HeatmapLossConfig)
    single: ContrastConfig = field(default_factory=ContrastConfig)
    pair: ContrastConfig = field(default_factory=lambda: ContrastConfig(query="all", queries=8, negatives=4))
    bank: BankConfig = field(default_factory=BankConfig)


@dataclass(frozen=True)
class OptimConfig:
    epochs: int = 210
    batch: int = 64  # global: per optimizer step, all workers together
    micro_batch: int = 16  # per worker and forward pass; the rest is gradient accumulation
    lr: float = 1e-3  # Adam
    milestones: tuple[int, ...] = (170, 200)  # epochs at which lr is multiplied by gamma
    gamma: float = 0.1
    warmup_steps: int = 0  # linear learning-rate warm-up
    ema: float = 0.0  # decay of the averaged weights that are evaluated; 0 = off


@dataclass(frozen=True)
class EvalConfig:
    every: int = 10  # epochs; the last epoch is always evaluated
    batch: int = 32  # per worker
    flip: bool = True
    decode: str = "quarter"  # quarter | argmax
    limit: int = 0  # people; 0 = all


@dataclass(frozen=True)
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def input_hw(self) -> tuple[int, int]:
        return parse_size(self.data.input, where="data.input")


def parse_size(text: str, *, where: str) -> tuple[int, int]:
    """``"256x192"`` -> (256, 192): height x width, as papers write it."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigError(f"{where}={text!r}: expected HEIGHTxWIDTH in pixels, such as 256x192")
    return int(height), int(width)


def presets() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def preset_path(name_or_path: str, *, below: Path | None = None) -> Path:
    """The YAML of a preset name, or of a path when it looks like one (has a slash or a .yaml suffix).

    ``below`` is the file that extends it: its folder is where a relative path starts.
    """
    where = f"--cfg {name_or_path}" if below is None else f"{below}: extends={name_or_path}"
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path) if below is None else below.parent / name_or_path
        if not path.is_file():
            raise ConfigError(f"{where}: no such file; presets are {', '.join(presets())}")
        return path
    if name_or_path not in presets():
        close = difflib.get_close_matches(name_or_path, presets(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"{where}: no such preset; {hint}presets are {', '.join(presets())}")
    return CONFIGS / f"{name_or_path}.yaml"


def load(name_or_path: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Preset or YAML file, then overrides (``["a.b=c"]`` or ``{"a.b": c}``), validated. Raises ConfigError."""
    layers = [(str(path), values) for path, values in _yaml_layers(preset_path(name_or_path))]
    config = _merge([*layers, *_override_layers(overrides)])
    validate(config)
    return config


def from_dict(values: Mapping[str, Any]) -> Config:
    """Inverse of ``dataclasses.asdict``: how a config travels to workers and out of checkpoints."""
    return _merge([("config", OmegaConf.create(dict(values)))])


def to_yaml(config: Config) -> str:
    text: str = OmegaConf.to_yaml(OmegaConf.structured(config))
    return text


def changes(old: Mapping[str, Any], new: Config) -> list[str]:
    """``loss.tau=0.1 (was 0.07)`` for every value that differs from a saved config's, outside the ``run`` section."""
    was = dict(_leaves(from_dict(old)))
    differ = [(key, value) for key, value in _leaves(new) if value != was[key] and not key.startswith("run.")]
    return [f"{key}={value} (was {was[key]})" for key, value in differ]


def config_hash(config: Config) -> str:
    """Identity of what decides the result: everything but the ``run`` section, plus its seed."""
    values = dataclasses.asdict(config) | {"run": {"seed": config.run.seed}}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _merge(layers: Sequence[tuple[str, Any]]) -> Config:
    merged = OmegaConf.structured(Config)
    for where, layer in layers:
        _refuse_notations(where, OmegaConf.to_container(layer, resolve=False))
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{where}: {_explain(error)}") from None
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    return config


def _refuse_notations(where: str, node: Any, key: str = "") -> None:
    """A value means what it says: no interpolation (it would copy environment variables into files), no other type."""
    if isinstance(node, dict):
        for name, value in node.items():
            _refuse_notations(where, value, f"{key}.{name}" if key else str(name))
        return
    default = _default(key)
    if isinstance(node, str) and ("${" in node or node == "???"):
        raise ConfigError(f"{where}: {key}: '${{...}}' and '???' are not understood here; write the value itself")
    if isinstance(default, str) and not isinstance(node, str):
        raise ConfigError(f"{where}: {key}={node}: expected text; put quotes around it")
    if dataclasses.is_dataclass(default):
        names = [f.name for f in dataclasses.fields(default)]
        raise ConfigError(f"{where}: {key}={node}: a section, not a value; its keys are {', '.join(names)}")


def _explain(error: OmegaConfBaseException) -> str:
    """Omegaconf's first line, with the key in full and, where it has no suggestion, the valid keys."""
    text = str(error).splitlines()[0].replace("Value '$VALUE' of type '$VALUE_TYPE'", "an element")
    if error.full_key and isinstance(error, ConfigKeyError) and "Did you mean" not in text:
        section = error.full_key.rpartition(".")[0]
        names = [f.name for f in dataclasses.fields(get(Config(), section))]
        text += f"; {section or 'top-level'} keys are {', '.join(names)}"
    return f"{error.full_key}: {text}" if error.full_key else text


def _yaml_layers(path: Path, *, extended_by: tuple[Path, ...] = ()) -> list[tuple[Path, Any]]:
    """The file and everything it extends, base first."""
    if path.resolve() in extended_by:
        raise ConfigError(f"{path}: extends itself; the chain of 'extends' must end")
    try:
        values = OmegaConf.load(path)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem}; fix the YAML") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}; fix the YAML") from None
    except OSError as error:
        if error.strerror is not None:
            raise ConfigError(f"{path}: {error.strerror}") from None
        values = None  # a single number or truth value
    if not isinstance(values, DictConfig) or not values or None in values.values():
        raise ConfigError(f"{path}: expected sections such as 'optim:' with keys below them; see --print-config")
    base = values.pop("extends", None)
    if base is None:
        return [(path, values)]
    return [
        *_yaml_layers(preset_path(str(base), below=path), extended_by=(*extended_by, path.resolve())),
        (path, values),
    ]


def _override_layers(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        named = [(f"{key}={value}", key, value) for key, value in overrides.items()]
    else:
        named = [(item, *_parse(item)) for item in overrides]
    layers = []
    for item, key, value in named:
        try:
            layers.append((item, _nest(key, value)))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{item}: {str(error).splitlines()[0]}") from None
    return layers


def _parse(item: str) -> tuple[str, Any]:
    """Key and value of ``"loss.tau=0.1"``. Text fields take the text as typed: run.name=007 is not the number 7."""
    key, equals, text = item.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise ConfigError(f"{item!r}: expected KEY=VALUE such as loss.tau=0.1")
    if isinstance(_default(key), str):
        return key, text
    try:
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{item}: {str(error).splitlines()[0]}") from None
    return key, parsed["value"]


def _default(key: str) -> Any:
    try:
        return get(Config(), key)
    except AttributeError:
        return None  # unknown: merging will say so, with a suggestion


def _nest(key: str, value: Any) -> Any:
    for name in reversed(key.split(".")):
        value = {name: value}
    return OmegaConf.create(value)


def validate(config: Config) -> None:
    """Every rule that needs no data. Raises ConfigError naming key, value and rule."""

    def check(ok: bool, key: str, rule: str) -> None:
        if not ok:
            raise ConfigError(f"{key}={get(config, key)}: {rule}")

    def one_of(key: str, *values: str) -> None:
        check(get(config, key) in values, key, f"expected one of {', '.join(values)}")

    def positive(*keys: str) -> None:
        for key in keys:
            check(get(config, key) > 0, key, "expected a number above 0")

    def share(*keys: str) -> None:
        for key in keys:
            check(0 <= get(config, key) <= 1, key, "expected a share from 0 to 1")

    for key, value in _leaves(config):
        if isinstance(value, int | float) and not isinstance(value, bool):
            check(math.isfinite(value) and value >= 0, key, "expected a finite number, 0 or more")

    one_of("run.launcher", "ray", "local")
    one_of("run.precision", "auto", "fp32", "bf16")
    check(config.run.zero in (0, 1, 2, 3), "run.zero", "DeepSpeed ZeRO has stages 0, 1, 2 and 3")
    check(config.run.gpus_per_worker in (0, 1), "run.gpus_per_worker", "a worker has one GPU or none")
    check(
        config.run.launcher == "ray" or config.run.workers == 1,
        "run.workers",
        "run.launcher=local is one process; use run.launcher=ray for more",
    )
    check(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.run.name) is not None,
        "run.name",
        "expected letters, digits, '.', '_' and '-'",
    )
    for key in ("run.dir", "data.train"):
        check(get(config, key) != "", key, "expected a path or s3://bucket/prefix")
    positive("run.workers", "run.cpus_per_worker", "run.checkpoint_every", "run.keep", "run.log_every")
    one_of("data.dataset", "coco", "mpii", "crowdpose", "custom", "fake")
    height, width = config.input_hw
    check(height % 32 == 0 and width % 32 == 0, "data.input", "height and width must be multiples of 32")
    positive("data.sigma")
    share("data.augment.rotation_p", "data.augment.flip_p", "data.augment.half_body_p")
    check(config.data.augment.scale < 1, "data.augment.scale", "expected less than 1")
    positive("model.embedding")
    check(
        not config.run.compile or config.run.zero < 3,
        "run.compile",
        "ZeRO-3 gathers parameters in hooks that a compiled model does not run; use run.zero=2 or less",
    )
    one_of("model.feature", "default", "all", "deconv")
    one_of("model.projection", "mlp", "linear")
    positive("loss.tau", "loss.points", "loss.bank.slots")
    one_of("loss.heatmap.reduction", "sum", "mean")
    for term in ("loss.single", "loss.pair"):
        one_of(f"{term}.query", "hard", "random", "all")
        one_of(f"{term}.negative", "hard", "random", "all")
        positive(f"{term}.queries", f"{term}.negatives")
        for count, strategy in (("queries", "query"), ("negatives", "negative")):
            low, high = get(config, f"{term}.{count}"), get(config, f"{term}.{count}_to")
            is_random = get(config, f"{term}.{strategy}") == "random"
            check(high == 0 or is_random, f"{term}.{count}_to", f"only {term}.{strategy}=random draws a number")
            check(high == 0 or high >= low, f"{term}.{count}_to", f"expected {term}.{count}={low} or more")
    positive("optim.epochs", "optim.batch", "optim.micro_batch", "optim.lr")
    milestones = config.optim.milestones
    rising = all(a < b for a, b in zip((0, *milestones), milestones, strict=False))
    check(rising, "optim.milestones", "expected rising epochs above 0")
    check(config.optim.ema < 1, "optim.ema", "expected a decay below 1, such as 0.999")
    check(
        config.optim.ema == 0 or config.run.zero < 3,
        "optim.ema",
        "averaged weights need whole parameters; use run.zero=2 or less",
    )
    check(
        config.optim.batch % config.run.workers == 0,
        "optim.batch",
        f"the global batch must be a multiple of run.workers={config.run.workers}",
    )
    check(
        per_worker(config) % micro_batch(config) == 0,
        "optim.batch",
        f"{per_worker(config)} per worker is not a multiple of optim.micro_batch={config.optim.micro_batch}",
    )
    check(
        config.data.streams == 0 or config.optim.batch % config.data.streams == 0,
        "data.streams",
        f"must divide optim.batch={config.optim.batch}",
    )
    positive("eval.every", "eval.batch")
    one_of("eval.decode", "quarter", "argmax")


def per_worker(config: Config) -> int:
    """People per worker and optimizer step."""
    return config.optim.batch // config.run.workers


def micro_batch(config: Config) -> int:
    """People per worker and forward pass."""
    return min(config.optim.micro_batch, per_worker(config))


def get(config: Config, key: str) -> Any:
    """The value or section at a dotted key; the empty key is the whole."""
    node: Any = config
    for name in filter(None, key.split(".")):
        node = getattr(node, name)
    return node


def _leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    out = []
    for f in dataclasses.fields(node):
        value, key = getattr(node, f.name), f"{prefix}{f.name}"
        out += _leaves(value, f"{key}.") if dataclasses.is_dataclass(value) else [(key, value)]
    return out
