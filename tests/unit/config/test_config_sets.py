"""``data.train`` and ``data.val``: one place, or a list of places."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from icon_dist.config import config_hash, from_dict, load, to_commented_yaml, to_yaml
from icon_dist.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("data/coco", "data/coco"),
        ("[data/coco]", "data/coco"),  # a list of one is that one, to the hash
        ("[data/coco,s3://bucket/lsp]", ("data/coco", "s3://bucket/lsp")),
        ("[ 007 , 1e3, yes ]", ("007", "1e3", "yes")),  # as typed
        ("['a, b', c]", ("a, b", "c")),
    ],
)
def test_on_the_command_line(text: str, places: str | tuple[str, ...]) -> None:
    assert load("coco", [f"data.train={text}"]).data.train == places


def test_in_yaml_and_back(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("extends: coco\ndata:\n  train:\n    - a\n    - s3://b/c\n  val: [d]\n")
    config = load(str(file))
    assert (config.data.train, config.data.val) == (("a", "s3://b/c"), "d")
    for text in (to_yaml(config), to_commented_yaml(config)):
        file.write_text(text)
        assert load(str(file)) == config
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert load("coco", ["data.val=[]"]).data.val == ""


def test_one_set_in_a_list_is_the_same_run() -> None:
    one, listed = load("coco", ["data.train=a"]), load("coco", {"data.train": ["a"]})
    assert one == listed
    assert config_hash(one) == config_hash(listed)
    assert config_hash(one) != config_hash(load("coco", ["data.train=[a,b]"]))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[a,a]", "expected different sets, each once"),
        ("[]", "expected a path or s3://bucket/prefix"),
        ("[a,[b]]", "quoted in a shell"),
        ("[a", "quoted in a shell"),
        ("[a,'']", "in every place of the list"),
        ("[a,s3://key:secret@b/c]", "no password may be in it"),
        (["a", 1], "expected a path or s3://..., or a list of them such as"),
        ({"a": "b"}, "data.train has a value and no keys"),
    ],
)
def test_what_is_no_list_of_places(value: Any, says: str) -> None:
    words = [f"data.train={value}"] if isinstance(value, str) else {"data.train": value}
    with pytest.raises(ConfigError) as error:
        load("coco", words)
    assert says in str(error.value)
    assert "secret" not in str(error.value)
