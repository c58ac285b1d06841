"""What a file that is not json is instead, or what is wrong with it, and what to do."""

from __future__ import annotations

import json
import re

from icon_dist.errors import shown

CONVERT = "convert it to COCO, as docs/data.md says"
STARTS = {
    b"PK": "a zip archive; unpack it and give the json in it",
    b"\x80": "a Python pickle, which is never loaded; write it as json",
    b"\x89HDF": f"an HDF5 file, as SLEAP, DeepLabCut and MATLAB write them; {CONVERT}",
    b"MATLAB": f"a MATLAB file; {CONVERT}",
    b"version https://git-lfs": "a pointer of Git LFS, not the file; run git lfs pull",
}


def what_else(raw: bytes) -> str | None:
    """What the bytes of a file look like that cannot be json; None if they can."""
    if re.match(rb"\s*<", raw):
        return "HTML or XML, not json: an error page, or labels that were not exported as COCO"
    if (found := next((text for start, text in STARTS.items() if raw.startswith(start)), None)) is not None:
        return found
    first = shown(raw[:1000].splitlines()[0].decode("utf-8", "replace"))
    if re.match(rb"[A-Za-z_][\w ]*[,;\t]", raw):
        return f"a table ({first}), not json; export the labels as json"
    if re.match(rb"[A-Za-z_]\w*:\s", raw):
        return f"YAML ({first}), not json; a data.yaml of YOLO is for icon-dist shards build yolo"
    return None


def what_is_wrong(error: json.JSONDecodeError) -> str:
    """What is wrong with a json text, where, and what to do."""
    text, at = error.doc, error.pos
    where = f"line {error.lineno} column {error.colno}"
    if re.compile(r"[\0\s]*\Z").match(text, at) or error.msg.startswith("Unterminated string"):
        return f"not json, or truncated, at {where}: {error.msg}; download it again"
    if re.compile(r",\s*[]}]").match(text, max(text.rfind(",", 0, at + 1), 0)):
        return f"not json at {where}: a comma that nothing follows; remove it"
    if text[at] == "'":
        return f"not json at {where}: single quotes, as Python prints objects; write it with json.dump"
    if error.msg == "Extra data" and text[at] in "[{":
        return f"not json at {where}: a second value, as in JSON lines; write one value, with all of them in it"
    return f"not json at {where}: {error.msg}; correct it, or write it again with a json library"
