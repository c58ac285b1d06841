"""The card of a fetched file: what the model is, what it was trained on and how it was scored, as Markdown for people.

All of it comes from the metadata of the file. What old checkpoints did not say is left out.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from icon_dist import storage
from icon_dist.codec.affine import PADDING
from icon_dist.errors import TooLargeError, note, safe
from icon_dist.types import score_text

MARK = "<!-- Written by icon-dist fetch, which replaces it. Rename the file to keep your changes. -->"
MOST = 1 << 20  # bytes of a card

Metadata = Mapping[str, Any]


def place(file: str) -> str:
    """Where the card of ``file`` lies: beside it, so that files in one folder have a card each."""
    return file.removesuffix(".safetensors") + ".md"


def write(file: str, text: str) -> str:
    """Write the card of ``file`` and return its place; a file there that is no card is left alone, with a note."""
    target = place(file)
    try:
        ours = MARK in storage.read(target, most=MOST).decode("utf-8", "replace")
    except FileNotFoundError:
        ours = True
    except TooLargeError:
        ours = False
    if not ours:
        note(f"{target}: is not a card that icon-dist fetch wrote, and stays; the card was not written")
        return ""
    storage.write(target, text.encode())
    return target


USE = """```console
icon-dist predict {file} PHOTO.jpg -o out      # poses of your own photos, drawn and as json
icon-dist evaluate {file} --shards FOLDER     # scores it on a set of shards
icon-dist export {file} -o model.onnx         # for onnxruntime, joints out
icon-dist train --cfg PRESET model.pretrained={file} ...   # starts from it
```
```python
import icon_dist

pose = icon_dist.load("{file}")
poses = pose("PHOTO.jpg", boxes=[[100, 50, 80, 200]])  # x, y, width, height in px; without: all of it
poses.xy, poses.scores, poses.names, poses.draw().save("out.jpg")
```
"""
USE_HF = """```python
from transformers import AutoImageProcessor, VitPoseForPoseEstimation

processor = AutoImageProcessor.from_pretrained("{file}")
model = VitPoseForPoseEstimation.from_pretrained("{file}")
inputs = processor(image, boxes=[[[x, y, width, height]]], return_tensors="pt")
poses = processor.post_process_pose_estimation(model(**inputs), boxes=[[[x, y, width, height]]])
```
"""


def card(metadata: Metadata, *, file: str, sha256: str, numbers: int, hf: bool = False) -> str:
    """Markdown about ``file`` with this ``sha256``, whose tensors hold so many ``numbers``.

    With ``hf`` it is a folder for transformers, and the hash that of its ``model.safetensors``.
    """
    name, backbone = PurePath(file).name, _text(_of(metadata, "config", "model").get("backbone", "a model"))
    rows = [*_model(metadata), *_training(metadata), *_origin(metadata)]
    rows.append(("File", f"{numbers:,} numbers, sha256 `{sha256}`"))
    return "\n".join(
        [
            *(
                "---",
                f"library_name: {'transformers' if hf else 'icon_dist'}",
                "pipeline_tag: keypoint-detection",
                "tags: [pose-estimation]",
                "---",
            ),
            *(MARK, "", f"# {_text(name)}", ""),
            f"{backbone} that finds {len(_of(metadata, 'skeleton').get('joints') or [])} joints by heatmaps.",
            *("", "| | |", "|---|---|"),
            *(f"| {what} | {text} |" for what, text in rows),
            *("", "## Use", "", (USE_HF if hf else USE).format(file=_word(name))),
        ]
    )


def _of(metadata: Metadata, *sections: str) -> Mapping[str, Any]:
    """A section of a section, empty where there is none."""
    found: Any = metadata
    for section in sections:
        found = found.get(section)
        if not isinstance(found, Mapping):
            return {}
    return dict(found)


def _text(value: object) -> str:
    """Anybody's text in a cell of a table: one line, and nothing of it is markup."""
    line = " ".join(safe(str(value)).split())
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(line, quote=False))


def _word(name: str) -> str:
    """A file name in a command."""
    return name if re.fullmatch(r"[\w.@%+=:,-]+", name, re.ASCII) else "FILE.safetensors"


def _model(metadata: Metadata) -> Iterator[tuple[str, str]]:
    """What goes in, what comes out."""
    data, skeleton = _of(metadata, "config", "data"), _of(metadata, "skeleton")
    joints = ", ".join(map(_text, skeleton.get("joints") or []))
    yield "Joints", f"{_text(skeleton.get('name', ''))}: {joints}"
    channels = "the weights take BGR, commands turn it themselves" if metadata.get("channel_order") == "bgr" else "RGB"
    yield "Input", f"{_text(data.get('input', ''))} (height x width), {channels}; boxes padded by {PADDING}"
    yield "Heatmaps", f"codec {_text(data.get('codec', 'msra'))}, sigma {_text(data.get('sigma', ''))}"


def _training(metadata: Metadata) -> Iterator[tuple[str, str]]:
    """What it learned from."""
    data, start = _of(metadata, "data"), _of(metadata, "pretrained")
    if data:
        people = f"{data.get('people', 0):,}" if isinstance(data.get("people"), int) else "?"
        yield "Trained on", f"{_text(data.get('dataset', ''))} {_text(data.get('split', ''))}: {people} people"
        unknown = "not stated; icon-dist shards build --licence TEXT states it"
        yield "Licence of the data", _text(data.get("licence") or unknown)
    share = _of(metadata, "split").get("share", 1)
    if share != 1:
        yield "Labels used", f"those of {_text(share)} of the people"
    if start:
        kind, uri, sha256 = (_text(start.get(key, "")) for key in ("kind", "uri", "sha256"))
        what = "Weights, not trained further" if metadata.get("step") == 0 else "Start weights"
        yield what, f"{kind} from {uri}, sha256 {sha256}"
    elif "pretrained" in metadata:
        yield "Start weights", "none; trained from random weights"


def _origin(metadata: Metadata) -> Iterator[tuple[str, str]]:
    """How it scored, and where it is from."""
    metrics, versions = _of(metadata, "metrics"), _of(metadata, "versions")
    scores = ", ".join(
        f"{_text(name)} {score_text(name, value)}" for name, value in metrics.items() if isinstance(value, int | float)
    )
    conditions = f" ({_text(metadata['conditions'])})" if metadata.get("conditions") and scores else ""
    yield "Scores, percent", f"{scores}{conditions}" if scores else "not evaluated"
    if metadata.get("step") == 0:
        return  # public weights have no checkpoint
    averaged = ", averaged over steps (EMA)" if metadata.get("evaluated") == "ema" else ""
    student = ", the second of its two networks" if metadata.get("net") == 2 else ""
    yield "Checkpoint", f"step {_text(metadata.get('step'))} of {_text(metadata.get('checkpoint'))}{student}{averaged}"
    yield "Manifest", f"sha256 {_text(metadata.get('manifest_sha256'))}"
    if versions:
        yield "Versions", ", ".join(f"{_text(name)} {_text(version)}" for name, version in versions.items())
