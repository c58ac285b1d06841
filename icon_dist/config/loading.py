"""Defaults < preset YAML < ``a.b=c``. The only omegaconf import.

``load("coco", ["loss.tau=0.1"])`` returns a validated :class:`Config` or raises one-line :class:`ConfigError`.
A preset is ``icon_dist/configs/NAME.yaml``; ``extends: NAME`` at its top starts from another preset.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from icon_dist.config.idle import refuse_idle
from icon_dist.config.plain import require_plain
from icon_dist.config.rules import validate
from icon_dist.config.schema import Config, get, leaves
from icon_dist.errors import ConfigError, shorten, shown

CONFIGS = Path(__file__).parent.parent / "configs"


def presets() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def preset_path(name_or_path: str, *, below: Path | None = None) -> Path:
    """The YAML of a preset name, or of a path when it looks like one (has a slash or a .yaml suffix).

    ``below`` is the file that extends it: its folder is where a relative path starts.
    """
    where = f"--cfg {name_or_path}" if below is None else f"{below}: extends={name_or_path}"
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path).expanduser()
        path = path if below is None else below.parent / path
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
    refuse_idle(config)
    return config


def from_dict(values: Mapping[str, Any]) -> Config:
    """Inverse of ``dataclasses.asdict``: how a config travels to workers and out of checkpoints."""
    return _merge([("config", OmegaConf.create(dict(values)))])


def to_yaml(config: Config) -> str:
    text: str = OmegaConf.to_yaml(OmegaConf.structured(config))
    return text


def changes(old: Mapping[str, Any], new: Config) -> list[str]:
    """``loss.tau=0.1 (was 0.07)`` for every value that differs from a saved config's, outside the ``run`` section."""
    was = dict(leaves(from_dict(old)))
    differ = [(key, value) for key, value in leaves(new) if value != was[key] and not key.startswith("run.")]
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
        raise ConfigError(f"{where}: {key}={shorten(str(node))}: expected text; put quotes around it")
    if dataclasses.is_dataclass(default):
        names = [f.name for f in dataclasses.fields(default)]
        raise ConfigError(
            f"{where}: {key}={shorten(str(node))}: a section, not a value; its keys are {', '.join(names)}"
        )


def _explain(error: OmegaConfBaseException) -> str:
    """Omegaconf's first line, with the key in full and, where it has no suggestion, the valid keys."""
    text = shorten(str(error).splitlines()[0], 200).replace("Value '$VALUE' of type '$VALUE_TYPE'", "an element")
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
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a YAML file that can be read") from None
    try:
        require_plain(text)
        values = OmegaConf.load(io.StringIO(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem}; fix the YAML") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {shorten(str(error).splitlines()[0])}; fix the YAML") from None
    except ValueError as error:  # a number or a date that is none
        raise ConfigError(f"{path}: {shorten(str(error))}; put quotes around text") from None
    except OSError:
        values = None  # a single number or truth value
    # as it is written: looking at a value of Omegaconf would put the environment in its place
    written = OmegaConf.to_container(values, resolve=False) if isinstance(values, DictConfig) else None
    if not isinstance(values, DictConfig) or not isinstance(written, dict) or not written or None in written.values():
        raise ConfigError(f"{path}: expected sections such as 'optim:' with keys below them; see --print-config")
    _refuse_notations(str(path), written)
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
            layers.append((shorten(item), _nest(key, value)))
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"{shorten(item)}: {shorten(str(error).splitlines()[0])}; expected a plain value"
            ) from None
    return layers


def _parse(item: str) -> tuple[str, Any]:
    """Key and value of ``"loss.tau=0.1"``. Text fields take the text as typed: run.name=007 is not the number 7."""
    key, equals, text = item.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise ConfigError(f"{shown(item)}: expected KEY=VALUE such as loss.tau=0.1")
    if isinstance(_default(key), str):
        return key, text
    try:
        require_plain(text)
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{shorten(item)}: {shorten(str(error).splitlines()[0])}; expected a plain value") from None
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
