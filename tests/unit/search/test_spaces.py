"""A search is a YAML file: the shipped ones, one's own, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from icon_dist import config as configuration
from icon_dist.errors import ConfigError
from icon_dist.search.space import Range, distributions
from icon_dist.search.spaces import names, read_search

DEMO = configuration.load("demo")


@pytest.mark.parametrize("name", names())
def test_the_shipped_searches_fit_the_config_and_begin_with_the_papers_values(name: str) -> None:
    search = read_search(name)
    assert distributions(search.space, DEMO).keys() == search.space.keys() == search.first.keys()


def test_the_space_of_the_weights_is_the_one_that_older_studies_hold() -> None:
    """A study on disk names its space by this text; another one would refuse to go on."""
    assert str(dict(read_search("lambdas").space)) == (
        "{'loss.lambda_1': Range(low=0.0, high=1.0, log=False), 'loss.lambda_2': Range(low=0.0, high=1.0, log=False), "
        "'loss.lambda_p': Range(low=0.003, high=3.0, log=True)}"
    )


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("space:\n  optim.lr: {low: 0.001, high: 0.1, log: true}\n  loss.tau: [0.05, 0.1]\n")
    search = read_search(str(file))
    assert (search.name, search.first) == ("mine", {})
    assert search.space == {"optim.lr": Range(0.001, 0.1, log=True), "loss.tau": (0.05, 0.1)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected 'space:'"),
        ("- a", "expected 'space:'"),
        ("space: {}", "expected 'space:'"),
        ("space: [loss.tau]", "expected 'space:'"),
        ("space: {loss.tau: [0.1]}\nfrist: {loss.tau: 0.1}", "unknown key 'frist'; did you mean first?"),
        ("space: {loss.tau: 0.1}", "space: loss.tau=0.1: expected {low"),
        ("space: {loss.tau: []}", "expected choices"),
        ("space: {loss.tau: [[1, 2]]}", "expected choices"),
        ("space: {loss.tau: [0.1, 0.1]}", "a choice is there twice"),
        ("space: {loss.tau: {low: 0.1}}", "expected {low"),
        ("space: {loss.tau: {low: 0.1, high: 1, step: 2}}", "expected {low"),
        ("space: {loss.tau: {low: 1e-3, high: 1}}", "write 0.001 or 1.0e-3"),
        ("space: {loss.tau: {low: .nan, high: 1}}", "expected numbers"),
        ("space: {loss.tau: {low: 0, high: .inf}}", "expected numbers"),
        ("space: {loss.tau: {low: 0.1, high: 1, log: 3}}", "log: expected true or false"),
        ("space: {loss: {tau: {low: 0.1, high: 1}}}", "space: loss="),
        ("space: {1: [2]}", "expected a config key"),
        ("space: {loss.tau: [0.1]}\nspace: {loss.tau: [0.2]}", "key given twice: space"),
        ("space: {loss.tau: [0.1], loss.tau: [0.2]}", "key given twice: loss.tau"),
        ("space: {loss.tau: [0.1]}\nfirst: {loss.tau: 0.2}", "first: loss.tau: expected every key"),
        ("space: {loss.tau: [0.1]}\nfirst: {loss.tua: 0.1}", "first: loss.tau, loss.tua"),
        ("space: {loss.tau: {low: 0.1, high: 1}}\nfirst: {loss.tau: hot}", "first: loss.tau"),
        ("space: {loss.tau: [0.1]}\nfirst: [0.1]", "first: expected config keys"),
        ("about: [1]\nspace: {loss.tau: [0.1]}", "about: expected one line"),
        ("space: &a {loss.tau: [0.1]}\nfirst: *a", "alias"),
        ("space: !!python/object/apply:os.getcwd []", "not YAML"),
        ("space: {loss.tau: [0.1", "not YAML"),
        ("space: " + "[" * 100, "nested too deeply"),
        ("#" * 70000, "larger than 64 KiB"),
    ],
)
def test_a_file_that_is_no_search(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as told:
        read_search(str(tmp_path / "mine.yaml"))
    assert str(told.value).startswith(f"{tmp_path}/mine.yaml: ")
    assert says in str(told.value)


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"about: \xe9")
    (tmp_path / "folder.yaml").mkdir()
    for name, says in {
        "none.yaml": "No such file or directory; shipped searches are lambdas, sampling",
        "folder.yaml": "is not a file",
        "latin.yaml": "not UTF-8",
        "a b.yaml": "the study is named after the file",
    }.items():
        with pytest.raises(ConfigError, match=says):
            read_search(str(tmp_path / name))
    with pytest.raises(ConfigError, match="/dev/zero: is not a file"):
        read_search("/dev/zero")
    with pytest.raises(ConfigError, match=r"'lamdas': no such search; did you mean lambdas\?"):
        read_search("lamdas")
