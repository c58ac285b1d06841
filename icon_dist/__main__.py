"""One console script for every verb: ``icon-dist train|evaluate|shards build|... ``. Verbs load when they are used."""

from __future__ import annotations

import importlib

from icon_dist import __version__
from icon_dist.cli import closest
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError, shown

VERBS = {
    "train": ("train", "train a model on a cluster or here; the same run name again resumes"),
    "submit": (
        "submit",
        "the same on a Ray cluster: the exact ray job submit line, printed and run; status, log, stop",
    ),
    "evaluate": ("evaluate", "score a checkpoint on a shard set"),
    "predict": ("predict", "draw and write the poses of your own photos and videos"),
    "pick": ("pick", "choose what to label next: tasks for Label Studio, with predictions"),
    "compare": ("compare", "one page about runs: curves, scores over seeds, kinds of errors, whose poses changed"),
    "fetch": ("fetch", "retrieve and verify a checkpoint as one safetensors file"),
    "export": ("export", "write a trained model as one ONNX or torch.export file, decoding included"),
    "shards build": ("shards.build", "pack photos and annotations into shards, to train and score on"),
    "shards verify": ("shards.verify", "check every byte of a shard set, and its labels by statistics"),
    "shards view": ("shards.view", "a page of its people with their joints, to see what training will see"),
    "shards synthesize": ("shards.synthesize", "draw people and pack them: data from nothing"),
    "sweep": ("search.command", "search loss weights (lambdas), sampling, or a space of your own, with Optuna"),
    "paper": ("paper", "the paper's tables row by row: list them, run them, record what they give"),
    "doctor": ("doctor", "is this machine, storage and cluster fit to train, and what to do about it"),
    "demo": ("demo", "the whole system on generated people, in about two minutes"),
}


def main() -> None:
    """Run the command line ``icon-dist VERB ...`` of this process and leave it with the exit code of the verb."""
    run_cli(dispatch)


def dispatch(argv: list[str]) -> int | None:
    """Run the verb that ``argv`` begins with."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    if argv[:1] in (["--version"], ["-V"]):
        print(f"icon_dist {__version__}")
        return 0
    for words in (2, 1):
        if (verb := " ".join(argv[:words])) in VERBS:
            code: int | None = importlib.import_module(f"icon_dist.{VERBS[verb][0]}").main(argv[words:])
            return code
    group = f"{argv[0]} " if argv and any(verb.startswith(f"{argv[0]} ") for verb in VERBS) else ""
    rest = argv[1:] if group else argv
    if rest and rest[0] not in ("-h", "--help"):
        raise ConfigError(_unknown(rest[0], group))
    print(f"usage: icon-dist {group}VERB [options]\n")
    print("\n".join(f"  {verb:<19}{what}" for verb, (_, what) in VERBS.items() if verb.startswith(group)))
    print("\nicon-dist VERB --help says more, icon-dist --version which this is; python -m icon_dist is the same.")
    return 0 if rest else 2


def _unknown(word: str, group: str) -> str:
    expected = f"expected one of {', '.join(verb for verb in VERBS if verb.startswith(group))}; see icon-dist --help"
    if word.startswith("-"):
        return f"{shown(word)} before a verb; {expected}"
    by_last_word = {verb.rpartition(" ")[2]: verb for verb in VERBS if verb.startswith(group)}
    close = by_last_word.get(closest(word, by_last_word))
    return f"{shown(word)}: no such verb{f'; did you mean icon-dist {close}?' if close else ''}; {expected}"


if __name__ == "__main__":
    main()
