"""What a place is that people give for a run, and what to give instead."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from icon_dist import storage
from icon_dist.checkpoints import manifest as manifests
from icon_dist.errors import plural

PARTS = ("config.yaml", "metrics.jsonl", manifests.FOLDER)  # of a run
FILES = {  # that are no weights
    ".yaml": "a config, no run; give the run that was trained with it",
    ".yml": "a config, no run; give the run that was trained with it",
    ".tar": "a shard, no run; its set is for --shards",
    ".json": "a JSON file, no run",
    ".jsonl": "the records of a run; give the run",
}
OTHERS = "icon-dist fetch FILE --cfg PRESET -o NEW.safetensors"
RUN = "the folder of a run (run.dir/run.name)"


def not_a_run(uri: str, *, file: bool = False) -> str:
    """Say what lies at ``uri`` in place of a run with checkpoints, and what to give instead.

    With ``file`` a file of weights would do as well.
    """
    wanted = f"{RUN}, or a file that icon-dist fetch wrote" if file else RUN
    if not storage.exists(uri):
        return f"nothing is there; check the path, and give {wanted}"
    if storage.exists(storage.join(uri, "journal.log")):
        return f"a sweep, no run; give some of its trials, such as {uri}/trials/0000"
    if storage.exists(storage.join(uri, "manifest.json")):
        return "a shard set, no run; give it with --shards, and a run beside it"
    if any(storage.exists(storage.join(uri, name)) for name in PARTS[:2]):
        return "a run that has no checkpoint yet; wait for its first (run.checkpoint_every)"
    if not storage.is_remote(uri) and Path(uri).is_dir():
        runs = sorted(path.parent.name for path in Path(uri).glob("*/config.yaml"))
        if runs:
            others = "" if len(runs) == 1 else f" and others, or {uri}/*"
            return f"holds {plural(len(runs), 'run')} and is none itself; give {uri}/{runs[0]}{others}"
    for above in PurePosixPath(uri.removeprefix("s3://")).parents[:2]:
        place = f"s3://{above}" if storage.is_remote(uri) else str(above)
        if above.name and storage.exists(storage.join(place, "config.yaml")):
            return f"a part of a run, no run; give {place}"
    if text := FILES.get(PurePosixPath(uri).suffix.lower()):
        return f"{text} (run.dir/run.name)"
    if uri.endswith((".safetensors", ".pth", ".pt")) and not file:
        return f"weights, no run; give the run that they are from, or, for weights of others: {OTHERS}"
    return f"no run (has none of {', '.join(PARTS)}); give {wanted}"
