"""What a search may choose: dotted config keys, each with a range or a list of choices, checked before any trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from icon_dist import config as configuration
from icon_dist.config import Changes, Config
from icon_dist.errors import ConfigError, plural, shown
from icon_dist.shards.shard_set import ShardSet
from icon_dist.training.contrast_check import terms
from icon_dist.training.plan import plan_run
from icon_dist.types import Skeleton


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if the config's value is. ``log``: by magnitude."""

    low: float
    high: float
    log: bool = False

    def __contains__(self, value: object) -> bool:
        """Whether ``value`` is a number in the range, as choices know whether it is one of them."""
        return isinstance(value, int | float) and type(value) is not bool and self.low <= value <= self.high


Space = Mapping[str, Range | tuple[Any, ...]]  # dotted key -> a range, or the choices


def with_values(config: Config, changes: Mapping[str, Any]) -> Config:
    """``config`` with values at dotted keys, validated; ConfigError of those that would do nothing, too."""
    changed = _changed(config, changes)
    configuration.refuse_unused(changed)
    return changed


def at_point(config: Config, values: Mapping[str, Any]) -> Config:
    """``config`` at a point of its search, validated. Values that do nothing beside the others are their defaults.

    Keys are searched independently: a point may draw both ``query=all`` and how many queries there are.
    """
    changed = _changed(config, values)
    return with_values(changed, configuration.defaults_of_unused(changed))


def _changed(config: Config, changes: Mapping[str, Any]) -> Config:
    tree = dataclasses.asdict(config)
    for key, value in changes.items():
        *sections, name = key.split(".")
        node: Any = tree
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
            if node is None:
                raise ConfigError(f"{key}: there is no section {section!r}; --print-config shows all keys")
        node[name] = value
    changed = configuration.from_dict(tree)
    configuration.validate(changed)
    return changed


def distributions(space: Space, config: Config) -> dict[str, BaseDistribution]:
    """The space as Optuna's, or ConfigError: every key exists, every range has numbers in it that the rules allow."""
    if not space:
        raise ConfigError("the search space is empty; give it a config key and a range")
    out: dict[str, BaseDistribution] = {}
    for key, values in space.items():
        for value in _ends(key, values):
            _explained(config, {key: value})
            _require_effect(key, value, space, config)
        default = configuration.get(config, key)
        whole = isinstance(default, int)
        out[key] = _range(key, values, whole=whole) if isinstance(values, Range) else CategoricalDistribution(values)
    return out


class Fitted(NamedTuple):
    """What a skeleton can have of a search."""

    space: Space
    first: Changes  # the first point, as far as it can be
    changes: Changes  # of the config that all trials share
    notes: list[str]


def fit(space: Space, point: Mapping[str, Any], config: Config, skeleton: Skeleton) -> Fitted:
    """Terms that the skeleton has no categories for are left out, and numbers of categories end at what it has."""
    kept, first, notes = dict(space), dict(point), []
    changes: dict[str, object] = {}
    for term in terms(skeleton, config.loss.relation):
        section, weight = f"loss.{term.key}.", f"loss.{term.weight}"
        have = f"skeleton {skeleton.name} has {plural(term.categories, term.one)}"
        if term.categories < 2:
            if out := [key for key in space if key == weight or key.startswith(section)]:
                changes[weight] = 0.0
                kept, first = ({k: v for k, v in one.items() if k not in out} for one in (kept, first))
                notes.append(f"{have}, contrast needs 2: {weight}=0, and {', '.join(out)} not searched")
            continue
        for name, most in (("queries", term.categories), ("negatives", term.categories - 1)):
            for key in (f"{section}{name}", f"{section}{name}_to"):
                values = kept.get(key, ())
                fits = _up_to(values, most)
                if fits == values:
                    continue
                notes.append(f"{have}: {key} is searched {_shown(fits)}, not {_shown(values)}")
                if isinstance(fits, tuple) and len(fits) == 1:
                    del kept[key]
                    first.pop(key, None)
                    changes[key] = fits[0]
                    continue
                kept[key] = fits
                first |= {key: min(first[key], most)} if key in first else {}
                changes[key] = min(configuration.get(config, key), most)
    return Fitted(kept, first, changes, notes)


def _up_to(values: Range | tuple[Any, ...], most: int) -> Range | tuple[Any, ...]:
    """What there is of a range or of choices up to ``most``; of a range that starts there or above, this one number."""
    if isinstance(values, tuple):
        return tuple(value for value in values if value <= most) or ((most,) if values else ())
    if values.high <= most:
        return values
    return dataclasses.replace(values, high=most) if values.low < most else (most,)


def _shown(values: Range | tuple[Any, ...]) -> str:
    if isinstance(values, Range):
        return f"from {values.low:g} to {values.high:g}"
    return f"as {' or '.join(map(str, values))}"


def require_trainable(space: Space, config: Config, *, shards: ShardSet) -> None:
    """The rules that need the data: no more categories to compare with than the skeleton has, and such."""
    for key, values in space.items():
        for value in _ends(key, values):
            _explained(config, {key: value}, shards=shards)


def _ends(key: str, values: Range | tuple[Any, ...]) -> tuple[Any, ...]:
    ends = (values.low, values.high) if isinstance(values, Range) else values
    if not ends:
        raise ConfigError(f"search space: {key}: no choices; list some")
    return ends


def _explained(config: Config, changes: Mapping[str, Any], *, shards: ShardSet | None = None) -> None:
    try:
        changed = at_point(config, changes)
        if shards is not None:
            plan_run(changed, shards)
    except ConfigError as error:
        raise ConfigError(f"search space: {str(error).removeprefix('config: ')}") from None


def _require_effect(key: str, value: Any, space: Space, config: Config) -> None:
    """ConfigError where a value would do nothing beside those of ``config``, nor beside any that is searched."""
    others = ({other: end} for other, ends in space.items() if other != key for end in _ends(other, ends))
    for beside in ({}, *others):
        with suppress(ConfigError):  # of the others, which are looked at themselves
            if key not in configuration.defaults_of_unused(_changed(config, {**beside, key: value})):
                return
    try:
        with_values(config, {key: value})
    except ConfigError as error:
        raise ConfigError(f"search space: {error}") from None


def _range(key: str, values: Range, *, whole: bool) -> BaseDistribution:
    where = f"search space: {key}: {values.low:g} .. {values.high:g}"
    if not values.low < values.high:
        raise ConfigError(f"{where}: an impossible range; expected the lower end first")
    if values.log and values.low <= 0:
        raise ConfigError(f"{where}: a range by magnitude begins above 0; give a low end such as 0.001")
    if whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def contains(space: Space, point: Mapping[str, Any]) -> bool:
    """Whether a point has every key, each within its range."""
    return space.keys() == point.keys() and all(point[key] in values for key, values in space.items())


def point_of(config: Config, space: Space) -> Changes:
    """Where a config stands in the space."""
    return {key: configuration.get(config, key) for key in space}


def text(value: Any) -> str:
    """A value for people: four digits are enough of a number."""
    return f"{value:.4g}" if isinstance(value, float) else str(value) if not isinstance(value, str) else shown(value)
