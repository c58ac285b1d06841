"""The lines of a journal, each checked before Optuna replays it: whoever can damage a file would else end a sweep.

A line that a killed driver has written by half is left out: nobody acted on it. So is one that says what the line
before it says. Anything else that is wrong is an error with the number of its line, because later lines count trials.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from optuna.trial import TrialState

from icon_dist.errors import DataError, shorten, shown
from icon_dist.search.optuna_compat import JournalOperation, Replay, contains

MAX_BYTES = 1 << 28  # of a journal: some kilobytes a trial
MAX_LINE = 1 << 20
LARGEST_ID, LARGEST = 1 << 53, 1e300
DRAWN = "tpe:relative_params"  # begins the names of attributes that hold what the sampler drew, as JSON
BEGINNING = b'{"op_code":0'  # of every journal
REPEATED = tuple(b'{"op_code":%d,' % code for code in (2, 3, 7, 8, 9))  # of studies and trials
RESTORE = "restore the file from a copy, or give another --study"

Line = dict[str, Any]


def believed(data: bytes, *, source: str) -> tuple[bytes, list[str]]:
    """The lines to replay, and what was left out, each as a sentence's end; DataError where that could change a trial.

    ``source`` is the journal's name in messages.
    """
    lines = data.split(b"\n")
    torn = lines.pop()
    last = next((number for number in range(len(lines), 0, -1) if lines[number - 1].strip()), 0)
    kept: list[bytes] = []
    left_out: list[str] = []
    replay = _Replay()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            left_out.append(f"line {number} is empty")
        elif kept and line == kept[-1] and not line.startswith(REPEATED):  # which may be set to what they are
            left_out.append(f"line {number} repeats the one before it")
        elif fault := replay.fault(line):
            if number < last or torn.strip() or not (kept or line.startswith(BEGINNING)):
                raise DataError(f"{source}:{number}: {fault}; {RESTORE}")
            left_out.append(f"line {number}, the last one: {fault}")
        else:
            kept.append(line)
    if torn and not (kept or torn.startswith(BEGINNING[: len(torn)])):
        raise DataError(f"{source}: no journal of a sweep; {RESTORE}")
    if torn:
        left_out.append(f"line {len(lines) + 1}, the last one, was written by half")
    return b"".join(line + b"\n" for line in kept), left_out


class _Replay:
    """What the lines so far have made, by Optuna's own rules, and stricter than they are."""

    def __init__(self) -> None:
        self._optuna = Replay()
        self._created: set[bytes] = set()

    def fault(self, line: bytes) -> str:
        """Why ``line`` cannot come next, or nothing: then it has."""
        if len(line) > MAX_LINE:
            return f"{len(line)} bytes, more than a line has ({MAX_LINE})"
        try:
            log = json.loads(line.decode())
        except UnicodeDecodeError as error:
            return f"not UTF-8 at byte {error.start + 1}"
        except (ValueError, RecursionError):
            return "not JSON"
        if type(log) is not dict:
            return f"{shown(log)} is no entry of a journal"
        return _field_fault(log) or self._order_fault(log, line) or self._replay_fault(log)

    def _order_fault(self, log: Line, line: bytes) -> str:
        """Optuna ignores lines of unknown trials, and takes those after a doubled trial for its neighbor's."""
        study, trial = log.get("study_id"), log.get("trial_id")
        if study is not None and study not in self._optuna.studies:
            return f"study_id={study}: no line before it creates this study"
        if trial is not None and trial not in self._optuna.trials:
            return f"trial_id={trial}: no line before it creates this trial"
        if log["op_code"] in (JournalOperation.CREATE_STUDY, JournalOperation.CREATE_TRIAL):
            if line in self._created:
                return "the same study or trial is created twice"
            self._created.add(line)
        if log["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES:
            return self._values_fault(log, self._optuna.study_of(log["trial_id"]))
        return self._values_fault(log, log["study_id"]) if "state" in log and study is not None else ""

    def _values_fault(self, log: Line, study: int) -> str:
        """A whole trial has a score for every objective."""
        found = log.get("values") if log.get("values") is not None else _listed(log.get("value"))
        expected = len(self._optuna.studies[study].directions)
        if log["state"] == TrialState.COMPLETE and len(found or ()) != expected:
            return f"values={shown(found)}: a complete trial has {expected} of them"
        return ""

    def _replay_fault(self, log: Line) -> str:
        """What only Optuna's own reading shows: distributions, dates."""
        try:
            self._optuna.apply(log)
        except Exception as error:  # whatever its parsers raise
            return f"{JournalOperation(log['op_code']).name.lower()}: {shorten(str(error) or type(error).__name__)}"
        if log["op_code"] == JournalOperation.SET_TRIAL_PARAM:
            trial, name = self._optuna.trials[log["trial_id"]], log["param_name"]
            if not trial.state.is_finished() and not _within(trial.distributions.get(name), log):
                return f"{shown(name)}={shown(log['param_value_internal'])}: not within its distribution"
        return ""


def _within(distribution: Any, log: Line) -> bool:
    """Optuna drops a parameter whose distribution is another than before."""
    return distribution is not None and contains(distribution, log["param_value_internal"])


def _listed(value: Any) -> list[Any] | None:
    return None if value is None else [value]


# ------------------------------------------------------------------------------------------------- types of fields

Check = Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST_ID


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST


def _state(value: Any) -> bool:
    return type(value) is int and value in {state.value for state in TrialState}


def _text(value: Any) -> bool:
    """Not half of a surrogate pair, which no file takes."""
    return type(value) is str and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


def _dict_of(check: Check) -> Check:
    return lambda value: type(value) is dict and all(map(_text, value)) and all(map(check, value.values()))


def _value(value: Any) -> bool:
    """Of a config key."""
    return type(value) is bool or _number(value) or _text(value)


def _any(_: Any) -> bool:
    return True


_named = _dict_of(_any)


ATTRIBUTES: dict[str, Check] = {  # that are read again
    **dict.fromkeys(("space", "objectives", "shards", "of", "label", "ended", "why"), _text),
    **dict.fromkeys(("step_ms", "score", "epoch"), _number),
    **dict.fromkeys(("set", "fixed_params"), _dict_of(_value)),
    "config": lambda value: type(value) is dict,
}


def _attributes(value: Any) -> bool:
    return _named(value) and all(_kind(key)(item) for key, item in value.items())


def _kind(key: str) -> Check:
    return _text if key.startswith(DRAWN) else ATTRIBUTES.get(key, _any)


def _one_attribute(value: Any) -> bool:
    return _attributes(value) and len(value) == 1


REQUIRED: dict[int, dict[str, Check]] = {
    JournalOperation.CREATE_STUDY: {
        "study_name": _text,
        "directions": lambda value: _list_of(lambda one: type(one) is int and one in (1, 2))(value) and value != [],
    },
    JournalOperation.DELETE_STUDY: {"study_id": _whole},
    JournalOperation.SET_STUDY_USER_ATTR: {"study_id": _whole, "user_attr": _one_attribute},
    JournalOperation.SET_STUDY_SYSTEM_ATTR: {"study_id": _whole, "system_attr": _one_attribute},
    JournalOperation.CREATE_TRIAL: {"study_id": _whole, "datetime_start": _maybe(_text)},
    JournalOperation.SET_TRIAL_PARAM: {
        "trial_id": _whole,
        "param_name": _text,
        "param_value_internal": _number,
        "distribution": _text,
    },
    JournalOperation.SET_TRIAL_STATE_VALUES: {"trial_id": _whole, "state": _state, "values": _maybe(_list_of(_number))},
    JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE: {"trial_id": _whole, "step": _whole, "intermediate_value": _number},
    JournalOperation.SET_TRIAL_USER_ATTR: {"trial_id": _whole, "user_attr": _one_attribute},
    JournalOperation.SET_TRIAL_SYSTEM_ATTR: {"trial_id": _whole, "system_attr": _one_attribute},
}
OPTIONAL: dict[str, Check] = {
    "state": _state,
    "value": _maybe(_number),
    "values": _maybe(_list_of(_number)),
    "distributions": _dict_of(_text),
    "params": _dict_of(_number),
    "user_attrs": _attributes,
    "system_attrs": _attributes,
    "intermediate_values": _dict_of(_number),
    "datetime_start": _maybe(_text),
    "datetime_complete": _maybe(_text),
}


def _field_fault(log: Line) -> str:
    """The first field that is missing, or of another kind than Optuna writes."""
    operation = log.get("op_code")
    if type(operation) is not int or operation not in REQUIRED:
        return f"op_code={shown(operation)}: no operation that a sweep writes"
    fields: Mapping[str, Check] = {"worker_id": _text, **REQUIRED[operation]}
    for name, check in fields.items():
        if name not in log:
            return f"{name}: missing"
        if not check(log[name]):
            return f"{name}={shown(log[name])}: not what a sweep writes there"
    for name, check in OPTIONAL.items():
        if name in log and not check(log[name]):
            return f"{name}={shown(log[name])}: not what a sweep writes there"
    return ""
