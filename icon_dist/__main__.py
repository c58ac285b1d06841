"""One console script for every verb: ``icon-dist train|evaluate|fetch|demo ...``. Verbs load when they are used."""

from __future__ import annotations

import importlib
import sys

from icon_dist.errors import ConfigError, run_cli

VERBS = {
    "train": "train a model on a cluster or here; the same run name again resumes",
    "submit": "the same on a Ray cluster: the exact ray job submit line, printed and run; status, log, stop",
    "evaluate": "score a checkpoint on a shard set",
    "fetch": "retrieve and verify a checkpoint as one safetensors file",
    "recipes": "the paper's tables row by row: list them, run them, record what they give",
    "doctor": "is this machine, storage and cluster fit to train, and what to do about it",
    "demo": "the whole system on generated people, in about two minutes",
}


def main() -> None:
    run_cli(_dispatch)


def _dispatch(argv: list[str]) -> int | None:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: icon-dist VERB [options]\n")
        print("\n".join(f"  {verb:<10}{what}" for verb, what in VERBS.items()))
        print("\nicon-dist VERB --help says more; python -m icon_dist.VERB is the same.")
        return 0 if argv else 2
    verb, *rest = argv
    if verb not in VERBS:
        raise ConfigError(f"{verb!r}: no such verb; expected one of {', '.join(VERBS)}")
    sys.argv[0] = f"icon-dist {verb}"
    code: int | None = importlib.import_module(f"icon_dist.{verb}").main(rest)
    return code


if __name__ == "__main__":
    main()
