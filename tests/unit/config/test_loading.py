"""Layers of a config, notations, and files that are none: each mistake is one line."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import pytest

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.cli import presets
from icon_dist.config import config_hash, from_dict, load, load_own, to_yaml
from icon_dist.config.schema import parse_size
from icon_dist.errors import ConfigError
from tests.support.refusals import refused


def test_extends_changes_only_what_it_says() -> None:
    base, child = load("coco"), load("coco_w48")
    assert child == dataclasses.replace(
        base,
        run=dataclasses.replace(base.run, name="coco_w48"),
        model=dataclasses.replace(base.model, backbone="hrnet_w48"),
    )


def test_extends_is_relative_to_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "base.yaml").write_text("extends: mpii\nloss: {tau: 0.1, lambda_p: 0.5}\n")
    (tmp_path / "mine" / "child.yaml").write_text("extends: ./base.yaml\nloss: {tau: 0.2}\n")
    monkeypatch.chdir(tmp_path)
    config = load("mine/child.yaml")
    assert (config.loss.tau, config.loss.lambda_p, config.data.dataset) == (0.2, 0.5, "mpii")


# -------------------------------------------------------------------------------------------------------- overrides


def test_the_last_layer_wins() -> None:
    assert load("coco", ["loss.tau=0.1", "loss.tau=0.2"]).loss.tau == 0.2


def test_a_list_and_a_mapping_of_overrides_are_the_same() -> None:
    items = ["loss.tau=0.1", "run.name=w48", "optim.milestones=[3,5]", "eval.flip=false", "loss.bank.slots=8"]
    values = {"loss.tau": 0.1, "run.name": "w48", "optim.milestones": (3, 5), "eval.flip": False, "loss.bank.slots": 8}
    config = load("coco", items)
    assert config == load("coco", values)
    assert (config.loss.tau, config.run.name, config.optim.milestones) == (0.1, "w48", (3, 5))
    assert (config.eval.flip, config.loss.bank.slots) == (False, 8)


@pytest.mark.parametrize("text", ["007", "1e3", "no", "null", "0x10", "1.0", "2026-01-02"])
def test_text_stays_text(text: str) -> None:
    assert load("coco", [f"run.name={text}"]).run.name == text
    assert load("coco", {"run.name": text}).run.name == text


def test_an_equals_sign_belongs_to_the_value() -> None:
    assert load("coco", ["data.train=a=b"]).data.train == "a=b"


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2.0e-3", 2e-3), ("1", 1.0), (".5", 0.5)])
def test_numbers_as_people_write_them(text: str, value: float) -> None:
    config = load("coco", [f"optim.lr={text}"])
    assert config.optim.lr == value
    assert type(config.optim.lr) is float


def test_configs_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("coco").loss.tau = 0.5  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------------- hash


def test_the_hash_is_of_what_decides_the_result() -> None:
    same = ["run.name=other", "run.dir=elsewhere", "run.workers=2", "run.zero=2", "run.keep=9"]
    different = ["loss.tau=0.1", "run.seed=1", "optim.batch=128", "data.input=384x288", "loss.bank.slots=64"]
    base = config_hash(load("coco"))
    assert {config_hash(load("coco", [item])) for item in same} == {base}
    assert len({base} | {config_hash(load("coco", [item])) for item in different}) == 1 + len(different)
    assert config_hash(from_dict(dataclasses.asdict(load("coco")))) == base


def test_changes_name_what_a_resumed_run_does_differently() -> None:
    old = load("coco")
    assert configuration.changes(old, load("coco", ["run.workers=2", "run.zero=3"])) == []
    new = load("coco", ["loss.tau=0.1", "loss.skcc.queries=3"])
    assert configuration.changes(old, new) == ["loss.tau=0.1 (was 0.07)", "loss.skcc.queries=3 (was 5)"]


def test_an_environment_variable_never_gets_into_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "hunter2")
    for overrides in (["run.dir=${oc.env:SOME_SECRET}"], {"run.dir": "${oc.env:SOME_SECRET}"}):
        assert "hunter2" not in refused("coco", overrides)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"loss.tua": 1}, "did you mean loss.tau?"),
        ({"loss.tau": math.nan}, "loss.tau=nan"),
        ({"loss.tau": None}, "loss.tau"),
        ({"loss.tau": "fast"}, "'fast'"),
        ({"run.name": 7}, "expected text; put quotes around it"),
        ({"run.name": Path("x")}, "run.name"),
        ({"loss": 3}, "a section, not a value"),
    ],
)
def test_wrong_values_in_a_mapping(values: dict[str, Any], says: str) -> None:
    assert says in refused("coco", values)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        (b"", "expected sections"),
        (b"# nothing\n", "expected sections"),
        (b"null\n", "expected sections"),
        (b"3\n", "expected sections"),
        (b"hello\n", "expected sections"),
        (b"- 1\n- 2\n", "expected sections"),
        (b"optim:\n", "expected sections"),
        (b"\xff\xfe\x00a", "not UTF-8 text; save it as UTF-8"),
        ("optim: {batch: 64}\n".encode("utf-16"), "not UTF-8"),
        (b"optim: {batch: 64, batch: 32}\n", ":1: found duplicate key batch"),
        (b"optim: {batch: 64}\noptim: {lr: 1}\n", ":2: found duplicate key optim"),
        (b"optim: [1\n", "; fix the YAML"),
        (b"\toptim: 1\n", ":1: found character"),
        (b"---\na: 1\n---\nb: 2\n", "another document"),
        (b"optim: \x00\n", "fix the YAML"),
        (b"run: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        (b"loss: {tua: 1}\n", "did you mean loss.tau?"),
        (b"1: 2\n", "top-level keys are"),
        (b"loss: 3\n", "a section, not a value"),
        (b"loss: {skcc: {negatives: many}}\n", "loss.skcc.negatives='many': expected a whole number"),
        (b"run: {name: 007}\n", "run.name=7: expected text; put quotes around it"),
        (b"run: {name: no}\n", "run.name=False: expected text"),
        (b"run: {dir: '${oc.env:HOME}'}\n", "write the value itself"),
        (b"extends: cocoo\n", "extends=cocoo: no such preset; did you mean coco?"),
        (b"extends: ./nowhere.yaml\n", "extends=./nowhere.yaml: no such file"),
        (b"extends: [coco]\n", "no such preset"),
        (b"extends: bad.yaml\n", "extends itself"),
    ],
)
def test_a_bad_file_is_named(yaml: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(yaml)
    text = refused(path)
    assert says in text
    assert text.startswith(str(path))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfoptim: {batch: 32}\r\n")
    assert load(str(path)).optim.batch == 32


def test_a_circle_of_files_ends(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert "extends itself" in refused(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", ["cocoo", "COCO", "", "zzz", "nowhere.yaml", "folder/nowhere"])
def test_an_unknown_preset_lists_the_names(name: str) -> None:
    text = refused(name)
    assert text.startswith(f"--cfg {name}: no such ")
    assert ", ".join(presets()) in text
    assert ("did you mean coco?" in text) == (name == "cocoo")


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path)


@pytest.mark.parametrize("text", ["", "x", "256x", "x192", "256x192x3", "-256x192", "256 x 192", "²56x192", "25.6x192"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected HEIGHTxWIDTH"):
        parse_size(text, where="here")


def test_a_size_is_height_then_width() -> None:
    assert parse_size("384x288", where="here") == (384, 288)


# ------------------------------------------------------------------------------------- notations, and several at once


@pytest.mark.parametrize(
    ("text", "read"),
    [("010", 8), ("1_000", 1000), ("0x10", 16), ("1:30", 90), ("0b11", 3), ("-010", -8), ("08", None), ("0o17", None)],
)
@pytest.mark.parametrize("key", ["optim.epochs", "optim.lr", "optim.milestones"])
def test_a_number_that_yaml_reads_as_another_is_refused(text: str, read: int | None, key: str, tmp_path: Path) -> None:
    """Octal, hexadecimal, sexagesimal: 010 would be 8 epochs."""
    value = f"[{text}]" if key == "optim.milestones" else text
    section, name = key.split(".")
    (tmp_path / "own.yaml").write_text(f"\n{section}:\n  {name}: {value}\n")
    for said in (
        refused("coco", [f"{key}={value}"]),
        refused("coco", [f"{section}={{{name}: {value}}}"]),
        refused(tmp_path / "own.yaml"),
    ):
        assert f"{key}={text}: expected plain decimal digits" in said
        assert (f"(YAML would read {read})" in said) == (read is not None)
    assert "own.yaml: line 3: " in said


@pytest.mark.parametrize("text", ["yes", "No", "on", "OFF", "y", "2", "maybe", "[true]"])
def test_a_switch_is_true_or_false(text: str) -> None:
    assert f"eval.flip={text}" in refused("coco", [f"eval.flip={text}"]).replace("'", "").replace("True", "true")
    assert load("coco", ["eval.flip=FALSE", "run.compile=1"]).run.compile is True


def test_text_keeps_odd_notations(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("run: {name: '010'}\n")
    assert load(str(tmp_path / "own.yaml")).run.name == "010"


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("tau=0.1", "tau: no such key; did you mean loss.tau?"),
        ("loss.batch=3", "loss.batch: no such key; did you mean optim.batch or eval.batch?"),
        ("loss.tau.x=1", "loss.tau.x: no such key; loss.tau has a value and no keys"),
        ("optim.milestones={1: 2}", "expected a list of whole numbers, such as [170, 200] or []"),
        ("optim.milestones=[1, two]", "optim.milestones=[1, 'two']: expected a list of whole numbers"),
        ("optim.milestones=[[1]]", "expected a list of whole numbers"),
        ("--loss.tau=1", "did you mean loss.tau=...?"),
        ("optim.epochs=٣", "expected a whole number"),
        (f"run.name={'x' * 300}", "at most 128"),
        ("run.dir=a\nb", "expected a path without line breaks"),
    ],
)
def test_a_mistake_says_what_was_meant(item: str, says: str) -> None:
    assert says in refused("coco", [item])


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("loss: {tua: 1}\noptim: {epochs: many}\n")
    text = refused(tmp_path / "own.yaml", ["run.worker=2", "data.sigma=010"])
    for part in ("loss.tua", "optim.epochs='many'", "run.worker: no such key", "data.sigma=010"):
        assert part in text
    text = refused("coco", ["loss.tau=0", "optim.batch=66", "optim.lr=-1"])  # each by itself
    assert "loss.tau=0.0: " in text
    assert "optim.lr=-1.0: " in text
    assert text.count("; also ") == 1
    assert "run.zero" not in text, "what one value asks of another comes second"
    text = refused("coco", ["run.zero=4", "optim.milestones=[3,2]", "data.labelled=2"])
    assert text.count("; also ") == 2
    text = refused("coco", ["semi.gamma=0.5", "data.split_seed=1"])
    assert "semi.gamma=0.5" in text
    assert "; also " in text
    assert "data.split_seed=1" in text


def test_a_line_stays_readable() -> None:
    text = refused("coco", [f"loss.nothing{i}=1" for i in range(50)])
    assert len(text) < 1000
    assert text.endswith(" more")


def test_what_is_no_config_file(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    for name, says in {
        "folder.yaml": "a folder",
        "pipe.yaml": "a pipe or a device",
        "huge.yaml": "no config is larger than 1 MiB",
        "binary.yaml": "not UTF-8",
        "x" * 300 + ".yaml": "File name too long",
        "a\0b.yaml": "null",
    }.items():
        assert says in refused(f"{tmp_path}/{name}")
    assert "a pipe or a device" in refused("/dev/null")
    refused("~nobody-of-this-name/x.yaml")


def test_a_config_on_s3_is_read(s3: str, tmp_path: Path) -> None:
    """As the first lines of a study's best.yaml say; it extends presets alone, since no folder is beside it."""
    best = load("lsp", ["loss.tau=0.3", "run.name=found"])
    storage.write(f"{s3}/best.yaml", to_yaml(best).encode())
    assert load(f"{s3}/best.yaml") == best
    storage.write(f"{s3}/own.yaml", b"extends: lsp\nloss: {tau: 0.3}\n")
    assert load_own(f"{s3}/own.yaml") == (load("lsp", ["loss.tau=0.3"]), {"loss.tau": f"{s3}/own.yaml"})
    (tmp_path / "base.yaml").write_text("extends: lsp\n")
    for name, data, says in (
        ("relative", b"extends: base.yaml\n", "extends a preset, or nothing"),
        ("binary", bytes(range(256)), "not UTF-8"),
        ("huge", b"#" * (1 << 20) + b"\n", "larger than 1 MiB"),
        ("typo", b"los: {tau: 0.3}\n", f"{s3}/typo.yaml: los"),
    ):
        storage.write(f"{s3}/{name}.yaml", data)
        assert says in refused(f"{s3}/{name}.yaml")
    assert "no such file" in refused(f"{s3}/none.yaml")


# ------------------------------------------------------------------------------------------------- who set what


def test_a_users_own_values_are_known(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("extends: lsp\nloss: {tau: 0.2, skcc: {queries: 4}}\noptim: {lr: 0.1}\n")
    loaded = load_own(str(own), ["optim.lr=0.2", "loss.prcc={negatives: 3}"])
    assert loaded.config == load(str(own), ["optim.lr=0.2", "loss.prcc={negatives: 3}"])
    assert loaded.own == {
        "loss.tau": str(own),
        "loss.skcc.queries": str(own),
        "optim.lr": "optim.lr=0.2",
        "loss.prcc.negatives": "loss.prcc={negatives: 3}",
    }
    assert load_own("lsp").own == {}
    own.write_text(to_yaml(load("lsp")))
    assert load_own(str(own), {"loss.tau": 0.3}).own == {"loss.tau": "loss.tau=0.3"}, "nobody chose a printed config"


def test_a_dotted_key_in_yaml_is_explained(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("loss.tau: 0.1\n")
    assert "write 'loss:' and 'tau: ...' indented below it" in refused(tmp_path / "own.yaml")
