"""Defaults < preset YAML < ``a.b=c``. The only omegaconf import.

``load("coco", ["loss.tau=0.1"])`` returns a validated :class:`Config` or raises one-line :class:`ConfigError`.
A preset is ``icon_dist/config/presets/NAME.yaml``; ``extends: NAME`` at its top starts from another preset.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from icon_dist import storage
from icon_dist.cli import PRESETS, presets
from icon_dist.config import value_types
from icon_dist.config.safe_yaml import require_plain
from icon_dist.config.schema import Config, as_sets, leaves, sets_of
from icon_dist.config.unused_values import refuse_unused
from icon_dist.config.validation import validate
from icon_dist.errors import ConfigError, TooLargeError, raise_all, shorten, shown

MAX_BYTES = 1 << 20  # of a config file


class Layer(NamedTuple):
    """One source of values."""

    where: str  # what its faults begin with: the file; an override names itself
    values: dict[str, Any]
    faults: list[str]  # of its notation; its values are then not looked at
    own: str  # the file or override in which the user set them; "" for a preset
    file: Path | None = None  # on this machine


class Loaded(NamedTuple):
    """A config, and what of it the user asked for himself."""

    config: Config
    own: dict[str, str]  # dotted key -> the file or override that set it; what a preset or a default says is not here


def preset_path(name_or_path: str, *, below: Path | None = None) -> Path:
    """The YAML of a preset name, or of a path when it looks like one (has a slash or a .yaml suffix).

    ``below`` is the file that extends it: its folder is where a relative path starts.
    """
    where = f"--cfg {shorten(name_or_path)}" if below is None else f"{below}: extends={shorten(name_or_path)}"
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(os.path.expanduser(name_or_path))
        path = path if below is None else below.parent / path
        try:
            found = path.stat()
        except FileNotFoundError:
            raise ConfigError(f"{where}: no such file; presets are {', '.join(presets())}") from None
        except (OSError, ValueError) as error:  # a name that no file can have, a folder that may not be looked into
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"{where}: {why}; give a YAML file that can be read") from None
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise ConfigError(f"{where}: {kind}, no such file; give a YAML file, or one of {', '.join(presets())}")
        if found.st_size > MAX_BYTES:
            text = f"{found.st_size / 1e6:.1f} MB, no config is larger than {MAX_BYTES >> 20} MiB"
            raise ConfigError(f"{where}: {text}; give a YAML file with sections such as 'optim:'")
        return path
    if name_or_path.lower().endswith((".json", ".json.gz")):
        fix = "annotations are packed with icon-dist shards build first, and data.train=FOLDER names what that wrote"
        raise ConfigError(f"{where}: a JSON file, no config; {fix}; presets are {', '.join(presets())}")
    if name_or_path not in presets():
        close = difflib.get_close_matches(name_or_path[:100], presets(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"{where}: no such preset; {hint}presets are {', '.join(presets())}")
    return PRESETS / f"{name_or_path}.yaml"


def load(name_or_path: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Preset or YAML file, here or on ``s3://``, then overrides (``["a.b=c"]`` or ``{"a.b": c}``), validated.

    Raises ConfigError, and StorageError where ``s3://`` cannot be read.
    """
    return load_own(name_or_path, overrides).config


def load_own(name_or_path: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Loaded:
    """:func:`load`, and which values the user set himself."""
    layers = [*_base_layers(name_or_path), *_override_layers(overrides)]
    config = _merge(layers)
    validate(config)
    refuse_unused(config)
    own: dict[str, str] = {}
    for layer in layers:
        own |= dict.fromkeys(_keys(layer.values), layer.own)
    return Loaded(config, {key: where for key, where in own.items() if where})


def from_dict(values: Mapping[str, Any]) -> Config:
    """Inverse of ``dataclasses.asdict``: how a config travels to workers and out of checkpoints."""
    return _from_json(json.dumps(dict(values)))


@functools.lru_cache(maxsize=16)
def _from_json(text: str) -> Config:
    """A process asks for the same config of a checkpoint several times; nobody can change one."""
    return _merge([Layer("config: ", json.loads(text), [], "")])


def to_yaml(config: Config) -> str:
    """Return the whole config as YAML, with every key and its value and no comments."""
    text: str = OmegaConf.to_yaml(OmegaConf.structured(config))
    return text


def changes(old: Config, new: Config) -> list[str]:
    """``loss.tau=0.1 (was 0.07)`` for every value that differs from another config's.

    Of the ``run`` section the seed alone: the rest does not change what is trained.
    """
    was = dict(leaves(old))
    differ = [(key, value) for key, value in leaves(new) if value != was[key]]
    return [
        f"{key}={written(value)} (was {written(was[key])})"
        for key, value in differ
        if key == "run.seed" or key[:4] != "run."
    ]


def written(value: Any) -> Any:
    """A value as it is typed: several of them as a list.

    >>> written((170, 200)), written(("data/a", "data/b")), written(0.1)
    ('[170, 200]', '[data/a, data/b]', 0.1)
    """
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else value


def config_hash(config: Config) -> str:
    """Identity of what decides the result: everything but the ``run`` section, plus its seed."""
    values = dataclasses.asdict(config) | {"run": {"seed": config.run.seed}}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of a layer's values."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _keys(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix


@functools.cache
def _defaults() -> DictConfig:
    """The schema with its defaults, which a merge copies; making it takes as long as all the rest of a load."""
    schema: DictConfig = OmegaConf.structured(Config)
    return schema


def _merge(layers: Sequence[Layer]) -> Config:
    """The layers one over the other, after every fault in any of them was told."""
    found = []
    for layer in layers:
        texts = layer.faults or list(value_types.faults(layer.values))
        found += [ConfigError((layer.where if text is texts[0] else "") + text) for text in texts]
    raise_all(found, most=400)  # of a file in another format every key is wrong
    config = OmegaConf.to_object(OmegaConf.merge(_defaults(), *(layer.values for layer in layers)))
    assert isinstance(config, Config)
    train, val = (as_sets(sets_of(place)) for place in (config.data.train, config.data.val))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, train=train, val=val))


def files(name_or_path: str) -> list[Path]:
    """The files of one's own that ``--cfg`` reads on this machine, the one it names last; no presets."""
    read = [layer.file for layer in _base_layers(name_or_path)]
    return [path for path in read if path is not None and path.parent != PRESETS]


def _base_layers(name_or_path: str) -> list[Layer]:
    """Of ``--cfg``: a preset, a file, or one on ``s3://`` such as a sweep leaves."""
    if not name_or_path.startswith("s3://"):
        return _yaml_layers(preset_path(name_or_path))
    try:
        raw = storage.read(name_or_path, most=MAX_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"--cfg {shorten(name_or_path)}: no such file; presets are {', '.join(presets())}") from None
    except TooLargeError:
        raise ConfigError(f"--cfg {shorten(name_or_path)}: larger than {MAX_BYTES >> 20} MiB, no config is") from None
    layer, base = _yaml_layer(name_or_path, raw)
    if base is None:
        return [layer]
    if base not in presets():
        raise ConfigError(f"{name_or_path}: extends={shorten(base)}: a file on s3:// extends a preset, or nothing")
    return [*_yaml_layers(preset_path(base)), layer]


def _yaml_layers(path: Path, *, extended_by: tuple[Path, ...] = ()) -> list[Layer]:
    """The file and everything it extends, base first."""
    if path.resolve() in extended_by:
        raise ConfigError(f"{path}: extends itself; the chain of 'extends' must end")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a YAML file that can be read") from None
    layer, base = _yaml_layer(str(path), raw, file=path)
    if base is None:
        return [layer]
    return [*_yaml_layers(preset_path(base, below=path), extended_by=(*extended_by, path.resolve())), layer]


def _yaml_layer(path: str, raw: bytes, *, file: Path | None = None) -> tuple[Layer, str | None]:
    """What the file says, and what it extends."""
    try:
        written, faults = _read(raw.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem}; fix the YAML") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {shorten(str(error).splitlines()[0])}; fix the YAML") from None
    except ValueError as error:  # a number or a date that is none
        raise ConfigError(f"{path}: {shorten(str(error))}; put quotes around text") from None
    if not isinstance(written, dict) or not written or None in written.values():
        raise ConfigError(f"{path}: expected sections such as 'optim:' with keys below them; see --print-config")
    base = written.get("extends")
    written = {name: values for name, values in written.items() if name != "extends"}
    printed = len([*_keys(written)]) == len(leaves(Config()))  # by --print-config, or by a run: nobody chose it all
    own = "" if printed or (file is not None and file.parent == PRESETS) else path
    return Layer(f"{path}: ", written, faults, own, file), None if base is None else str(base)


def _plain(values: Any) -> Any:
    """Dicts, lists and scalars as they are written: looking at omegaconf's would put the environment in their place."""
    return OmegaConf.to_container(values, resolve=False)


@functools.lru_cache(maxsize=64)
def _read(text: str) -> tuple[Any, list[str]]:
    """What a YAML says, and faults of it; kept, because a process loads the same presets again. Nobody changes either.

    Raises what PyYAML and OmegaConf do.
    """
    require_plain(text)
    try:
        values = OmegaConf.load(io.StringIO(text))
    except OSError:
        return None, []  # a single number or truth value
    unclear = value_types.unclear(yaml.compose(text, Loader=yaml.SafeLoader))
    return _plain(values), [f"line {line}: {what}" for line, what in unclear]


def _override_layers(overrides: Sequence[str] | Mapping[str, Any]) -> Iterator[Layer]:
    for given in overrides.items() if isinstance(overrides, Mapping) else overrides:
        item = given if isinstance(given, str) else f"{given[0]}={given[1]}"
        try:
            layer = _typed(item) if isinstance(given, str) else _override(*given, item=item)
        except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
            why = shorten(str(error).splitlines()[0])
            layer = Layer("", {}, [f"{shorten(item)}: {why}; expected a plain value"], item)
        yield layer


def _typed(item: str) -> Layer:
    """Of an override as somebody types it. Raises what PyYAML and OmegaConf do."""
    key, equals, text = item.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        fault = f"{shown(item)}: expected KEY=VALUE such as loss.tau=0.1"
        return Layer("", {}, [fault + _instead(key, equals)], item)
    if key in value_types.SETS and text.startswith("["):
        return _listed(key, text, item=item)
    if isinstance(value_types.default(key), str):  # the text as typed: run.name=007 is not the number 7
        return _override(key, text, item=item)
    require_plain(text)
    unclear = value_types.unclear(yaml.compose(text, Loader=yaml.SafeLoader), key)
    return Layer("", _plain(OmegaConf.from_dotlist([item])), [what for _, what in unclear], item)


def _instead(key: str, equals: str) -> str:
    """What somebody probably meant who typed no KEY=VALUE."""
    key = key.strip().strip("-.")
    if value_types.default(key) is None or not key:
        return ""
    return f"; did you mean {key}=...?" if equals else f"; give {key} a value"


def _listed(key: str, text: str, *, item: str) -> Layer:
    """Of an override that lists places, each the text as typed: ``data.train=[data/coco, s3://bucket/lsp]``."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError):
        node = None
    if not isinstance(node, yaml.SequenceNode) or not all(isinstance(one, yaml.ScalarNode) for one in node.value):
        return Layer(
            "", {}, [f"{shorten(item)}: expected a list such as '[data/coco, data/lsp]', quoted in a shell"], item
        )
    return _override(key, [str(one.value) for one in node.value], item=item)


def _override(key: str, value: Any, *, item: str) -> Layer:
    for name in reversed(key.split(".")):
        value = {name: value}
    return Layer("", _plain(OmegaConf.create(value)), [], item)
