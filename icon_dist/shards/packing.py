"""Photos and annotations to shards, in processes or on Ray: what ``icon-dist shards build`` does."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from icon_dist import datasets, storage
from icon_dist.datasets import joined
from icon_dist.datasets.detections import detected
from icon_dist.datasets.skeleton import skeleton_yaml
from icon_dist.errors import ClusterError, ConfigError, note, plural, say
from icon_dist.loggers.progress_line import ProgressLine
from icon_dist.shards import label_checks
from icon_dist.shards.manifest import SKELETON
from icon_dist.shards.photo_survey import MapItems, Rule, survey
from icon_dist.shards.tar import Settings
from icon_dist.shards.writer import SetInfo, build
from icon_dist.types import Annotations

AUTHORS: Rule = ("ignore", "as by the set's authors")
USUAL: dict[str, Rule] = {  # whether EXIF is applied where sizes do not say it, and why
    **dict.fromkeys(("coco", "mpii", "crowdpose", "wholebody133", "aic14"), AUTHORS),
    "yolo": ("apply", "as Ultralytics does"),
    "labelstudio": ("apply", "as browsers do"),
}
OWN = ("coco", "mpii", "crowdpose")  # datasets with a preset of their own; all others are custom


def read(options: argparse.Namespace) -> tuple[Annotations, str]:
    """Who is packed, and the folder that their photos are named from."""
    files, folders = options.annotations, [storage.absolute(folder) for folder in options.images or ()]
    if len(folders) not in (0, 1, len(files)):
        raise ConfigError(f"--images: {len(folders)} folders for {len(files)} annotation files; give one, or one each")
    several = folders * len(files) if len(folders) == 1 else folders or [""] * len(files)
    parts: list[Annotations] = []
    for file, folder in zip(files, several, strict=True):
        part = datasets.read(
            options.dataset,
            file,
            images=folder or None,
            skeleton=parts[0].skeleton if parts and _derives(options) else options.skeleton,
            headboxes=options.headboxes,
            split=options.split if datasets.takes(options.dataset, "split") else None,
            sigmas=() if parts else options.sigmas or (),
            exif=options.exif,
            drop_invalid=options.drop_invalid,
        )
        parts.append(part if part.folder else replace(part, folder=folder))
    root = os.path.commonpath([part.folder for part in parts])
    named = (p if p.folder == root else joined.prefixed(p, os.path.relpath(p.folder, root)) for p in parts)
    whole = joined.join([*named])
    if options.boxes and _image_ids(whole) != set().union(*map(_image_ids, parts)):
        raise ConfigError(
            f"--boxes {options.boxes}: several annotation files have the same image ids, so its boxes do not say "
            "in whose photos they are; build a set of each file"
        )
    if options.limit:
        whole = joined.first(whole, options.limit)
    options.split = options.split or parts[0].split
    return (detected(whole, options.boxes) if options.boxes else whole), root


def _image_ids(part: Annotations) -> set[int]:
    return {int(image["id"]) for image in part.truth["images"]}


def _derives(options: argparse.Namespace) -> bool:
    """Whether the skeleton of the set is derived from its first annotation file."""
    return not options.skeleton and datasets.takes(options.dataset, "skeleton")


def _worker() -> None:
    """In a pool process: leave signals, which a terminal sends to all, to the parent, and do not outlive it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def in_processes(count: int) -> MapItems:
    """Return a function that runs jobs in at most ``count`` processes and yields their results as they are done.

    It raises what a job raises, and a ClusterError if a process dies. Of one process: ``map``, in this one.
    """
    if count == 1:
        return map

    def map_jobs(function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        """Yield ``function(job)`` of all jobs as they are done."""
        if not jobs:
            return
        context = multiprocessing.get_context("forkserver")  # imports once, where spawn would in every process
        context.set_forkserver_preload(["icon_dist.shards.writer"])
        with ProcessPoolExecutor(min(count, len(jobs)), mp_context=context, initializer=_worker) as pool:
            try:
                for future in as_completed([pool.submit(function, job) for job in jobs]):
                    yield future.result()
            except BrokenProcessPool:
                hint = "out of memory? try fewer --jobs or a smaller --per-shard; the same command goes on from here"
                raise ClusterError(f"a packing process died; {hint}") from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    return map_jobs


def in_ray(function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
    """Run ``function(job)`` of all jobs as Ray tasks and yield the results as they are done.

    ``function`` and the jobs must be serializable. Raises what a job raises.
    """
    import ray

    from icon_dist.launch.connect import connect

    if not ray.is_initialized():  # photos are surveyed before they are packed
        connect()
    task = ray.remote(function)
    pending = [task.remote(job) for job in jobs]
    while pending:
        ready, pending = ray.wait(pending)
        try:
            yield ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


def run(options: argparse.Namespace) -> None:
    """Check everything, then pack it; the options are those of ``icon-dist shards build``."""
    storage.require_place(storage.join(storage.absolute(options.out), "manifest.json"))
    whole, images = read(options)
    map_jobs = in_ray if options.ray else in_processes(options.jobs)
    whole, photos = survey(
        whole,
        images,
        exif=options.exif,
        usual=USUAL.get(options.dataset),
        drop=options.drop_invalid,
        map_items=map_jobs,
        progress=ProgressLine("checked", "photos"),
    )
    findings, odd = label_checks.check(whole.truth, whole.skeleton)
    for text in (*whole.truth.get("notes", []), *findings, *odd):
        note(text)
    settings = Settings(max_input=options.max_input, per_shard=options.per_shard, seed=options.seed, photos=photos)
    progress = ProgressLine("packed", "people")
    manifest = build(
        whole,
        images,
        options.out,
        SetInfo(
            dataset=options.dataset if options.dataset in OWN else "custom",
            split=options.split,
            boxes=Path(options.boxes).name if options.boxes else "gt",
            licence=options.licence or "",
        ),
        settings=settings,
        map_jobs=map_jobs,
        progress=progress,
    )
    place = storage.join(storage.absolute(options.out), SKELETON)
    if _derives(options) and not storage.exists(place):  # it may have been corrected
        storage.write(place, skeleton_yaml(whole.skeleton).encode())
    size = sum(file["bytes"] for file in manifest["files"].values())
    who = label_checks.packed(manifest["people"], whole.truth) if not options.boxes else f"{manifest['people']} people"
    facts = f"{who}, {plural(len(manifest['shards']), 'shard')}, {size / 2**20:.1f} MiB"
    say(f"{options.out}: {facts}" + (", already complete" if progress.found == manifest["people"] else ""))
