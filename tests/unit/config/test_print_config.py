"""A printed config: every key with its comment, read back as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from icon_dist.cli import presets
from icon_dist.config import Config, load, load_own, to_commented_yaml

ODD = ["run.name=007", "run.dir=a: b # 'c' \"d\" é {x}", "optim.lr=1e-5", "optim.milestones=[]", "run.report=[wandb]"]


@pytest.mark.parametrize(("name", "overrides"), [*((name, []) for name in presets()), ("coco", ODD)])
def test_a_printed_config_is_read_back_as_it_was(name: str, overrides: list[str], tmp_path: Path) -> None:
    config = load(name, overrides)
    (tmp_path / "printed.yaml").write_text(to_commented_yaml(config))
    again = load_own(str(tmp_path / "printed.yaml"))
    assert again.config == config
    assert again.own == {}, "nobody chose all of it"


def test_every_key_is_printed_with_its_comment_and_what_differs() -> None:
    lines = to_commented_yaml(load("coco", ["loss.tau=0.1", "loss.prcc.negatives=3"])).splitlines()
    assert "  epochs: 210" in lines
    for pattern in (
        r"  lr: 0\.001 +  # Adam",
        r"  tau: 0\.1 +  # \[default 0\.07\]",
        r"    negatives: 3 +  # \[default 4\] Hn of them",  # PRCC's own
        r"  milestones: \[170, 200\] +  # epochs at which lr falls to a tenth",
    ):
        assert [line for line in lines if re.fullmatch(pattern, line)], pattern
    assert not any("[default" in line for line in to_commented_yaml(Config()).splitlines())
