"""A shard set looked over: what ``icon-dist shards verify`` does and prints."""

from __future__ import annotations

import numpy as np

from icon_dist.codec.affine import PADDING
from icon_dist.errors import DataError, note, plain, plural, say
from icon_dist.images.photo import Conversion
from icon_dist.shards import label_checks
from icon_dist.shards.bytes_check import verify
from icon_dist.shards.duplicates import near_twins
from icon_dist.shards.left_right_check import signs, wrong_flips
from icon_dist.shards.manifest import TRUTH, read_truth
from icon_dist.shards.shard_set import ShardSet, open_shards


def unusual_photos(conversion: Conversion) -> list[str]:
    """How photos became pixels, where that took a decision."""
    done = "was applied" if conversion.exif == "apply" else "was ignored"
    turned = [f"photos turned by EXIF: {conversion.turned}; EXIF {done} when the set was built"]
    deep = [f"photos of 16 bits a channel: their values have {conversion.bits} bits"]
    return turned * (conversion.turned > 0) + deep * (conversion.bits < 16)


def statistics(shards: ShardSet) -> list[str]:
    """What the labels look like."""
    manifest, people = shards.manifest, len(shards)
    height = np.percentile(shards.box[:, 3], (5, 50, 95))
    pixels = shards.stored_wh.astype(np.float64).prod(1)
    original = (shards.stored_wh == shards.window[:, 2:]).all(1).mean()
    lines = [
        f"{manifest['dataset']} {manifest['split']}, boxes {manifest['boxes']}: {plural(people, 'person')} "
        f"in {plural(manifest['photos'], 'photo')}, {plural(len(shards.shard_names), 'shard')}",
        f"boxes {height[0]:.0f} / {height[1]:.0f} / {height[2]:.0f} px high (5 / 50 / 95 %)",
        f"stored {shards.size.mean() / 1024:.1f} KiB and {pixels.mean() ** 0.5:.0f}^2 px a person, "
        f"{original:.1%} at photo scale",
        *([f"licence of the data: {manifest['licence']}"] if "licence" in manifest else []),
        *unusual_photos(shards.conversion),
        f"{'joint':<16} labelled  visible in padded box",
    ]
    v = shards.keypoints[..., 2]
    center, size = shards.box[:, None, :2] + shards.box[:, None, 2:] / 2, shards.box[:, None, 2:] * PADDING
    inside = np.all(np.abs(shards.keypoints[..., :2] - center) <= size / 2, axis=2)
    for j, name in enumerate(shards.skeleton.joints):
        labelled = v[:, j] > 0
        seen = v[:, j] >= shards.skeleton.visible_at
        boxed = f"{inside[labelled, j].mean():13.1%}" if labelled.any() else f"{'-':>13}"
        lines.append(f"{name:<16} {labelled.mean():8.1%} {seen.mean():8.1%} {boxed}")
    return lines


def _labels(shards: ShardSet) -> list[str]:
    """Findings about the ground truth; what the build noted is said again."""
    try:
        truth = read_truth(shards.uri)
    except DataError:  # one of the findings of verify()
        return []
    try:
        findings, odd = label_checks.check(truth, shards.skeleton)
    except (KeyError, TypeError, ValueError, AttributeError):
        return [f"{TRUTH}: no ground truth of this skeleton"]
    for text in (*truth.get("notes", []), *odd):
        note(text)
    return findings


def run(uri: str, *, against: str | None = None) -> None:
    """Print what the labels of the set look like and all that is wrong; a DataError counts the findings.

    ``against`` is another set that should have none of its photos, such as the other split.
    """
    shards = open_shards(uri)
    other = open_shards(against) if against is not None else None
    if other is not None and other.index_sha256 == shards.index_sha256:
        raise DataError(f"--against {against}: is the same set; give the other split")
    say("\n".join(statistics(shards)))
    seen = signs(shards.keypoints, shards.skeleton)
    for sign in seen:
        if sign.people:
            print(f"{sign.what}: {sign.share:.1%} of {sign.people}")
    findings = 0
    swapped = (f"{s.what}: only {s.share:.1%} of {s.people}; left and right look exchanged" for s in seen if s.alarming)
    twins = near_twins(shards, other) if other is not None else ()
    for source in (wrong_flips(shards.skeleton), swapped, _labels(shards), verify(shards), twins):
        for line in source:
            findings += 1
            print(f"FOUND {plain(line)}", flush=True)
    if findings:
        listed = f"{plural(findings, 'finding')}, listed above"
        raise DataError(f"{shards.uri}: {listed}; correct what they name and build the shards again")
    alone = f"; no photo of {other.uri} is among them" if other is not None else ""
    say(f"{shards.uri}: sound, every byte of {plural(len(shards), 'person')}{alone}")
