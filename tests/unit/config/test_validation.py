"""What may be set, and with what: every wrong value is one line that names itself and the rule."""

from __future__ import annotations

import dataclasses

import pytest

from icon_dist import config as configuration
from icon_dist.config import from_dict, load
from icon_dist.errors import ConfigError
from tests.support.refusals import refused


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("loss.tua=0.1", "loss.tua: no such key; did you mean loss.tau?"),
        ("los.tau=0.1", "los.tau: no such key; did you mean loss.tau?"),
        ("loss.zzz=1", "loss keys are lambda_p, lambda_1"),
        ("zzz=1", "top-level keys are run, data, model"),
        ("extends=coco", "top-level keys are run"),
        ("run.__doc__=x", "run.__doc__: no such key; run keys are name, dir"),
        ("loss.tau", "expected KEY=VALUE such as loss.tau=0.1"),
        ("=1", "expected KEY=VALUE"),
        ("loss..tau=1", "expected KEY=VALUE"),
        (".tau=1", "expected KEY=VALUE"),
        (" loss.tau=1", "expected KEY=VALUE"),
        ("loss[tau]=1", "expected KEY=VALUE"),
        ("--loss.tau=1", "expected KEY=VALUE"),
        ("loss=3", "loss=3: a section, not a value; its keys are lambda_p"),
        ("run=null", "run=: a section"),
        ("data.augment=[1]", "data.augment=[1]: a section"),
        ("loss.tau.x=1", "loss.tau"),
        ("run.name.x=1", "run.name.x"),
        ("loss.tau=0", "loss.tau=0.0: expected a number above 0"),
        ("loss.tau=nan", "loss.tau=nan: expected a number above 0"),
        ("loss.tau=-1", "loss.tau=-1.0: expected a number above 0"),
        ("loss.tau=inf", "loss.tau=inf: expected a finite number"),
        ("loss.tau=fast", "'fast'"),
        ("loss.tau=0,1", "'0,1'"),
        ("optim.lr=true", "optim.lr=True: expected a number"),
        ("optim.lr=", "optim.lr=: expected a number"),
        ("run.workers=two", "'two'"),
        ("run.workers=1.5", "run.workers=1.5: expected a whole number"),
        ("run.workers=true", "run.workers=True: expected a whole number"),
        ("run.compile=maybe", "run.compile='maybe': expected true or false"),
        ("optim.milestones=5", "optim.milestones"),
        ("optim.milestones=[a]", "optim.milestones=['a']: expected a list of whole numbers"),
        ("optim.milestones=[1,2", "flow sequence"),
        ("optim.milestones=[200,170]", "optim.milestones=[200, 170]: expected rising epochs"),
        ("optim.milestones=[-1]", "expected rising epochs above 0"),
        ("loss.skcc.queries=0", "loss.skcc.queries=0: expected a number above 0"),
        ("loss.prcc.negatives=0", "loss.prcc.negatives=0"),
        ("loss.skcc.query=soft", "expected one of hard, random, all"),
        ("loss.skcc.queries_to=9", "only loss.skcc.query=random draws a number"),
        ("optim.batch=66", "the global batch must be a multiple of run.workers=4; use optim.batch=64"),
        ("optim.batch=100", "25 per worker is not a multiple of optim.micro_batch=16; use optim.micro_batch=5"),
        ("data.streams=7", "data.streams=7: must divide optim.batch=64"),
        ("optim.layer_decay=0", "optim.layer_decay=0.0: expected a share above 0, up to 1"),
        (
            "optim.layer_decay=0.8",
            "optim.layer_decay=0.8: only the backbones vit_... have layers in a row",
        ),
        ("model.drop_path=1", "model.drop_path=1.0: expected a share below 1"),
        ("run.zero=4", "run.zero=4: DeepSpeed ZeRO has stages 0, 1, 2 and 3"),
        ("run.launcher=slurm", "expected one of ray, local"),
        ("run.launcher=local", "run.workers=4: run.launcher=local is one process"),
        ("run.name=../x", "expected letters"),
        ("run.name=", "expected letters"),
        ("run.dir=", "run.dir=: expected a path or s3://"),
        ("data.train=", "data.train=: expected a path or s3://"),
        ("run.precision=fp16", "expected one of auto, fp32, bf16"),
        ("run.seed=-1", "run.seed=-1: expected a finite number, 0 or more"),
        ("data.input=250x192", "data.input=250x192: height and width must be multiples of 32"),
        ("data.input=256", "expected HEIGHTxWIDTH"),
        ("data.input=0x32", "expected HEIGHTxWIDTH"),
        ("data.augment.flip_p=1.5", "expected a share from 0 to 1"),
        ("optim.ema=1", "expected a decay below 1"),
        ("run.name=${oc.env:HOME}", "write the value itself"),
        ("loss.tau=${loss.lambda_1}", "write the value itself"),
        ("optim.milestones=${optim.epochs}", "write the value itself"),
        ("optim.lr=???", "write the value itself"),
    ],
)
def test_a_wrong_override_names_itself_and_the_rule(item: str, says: str) -> None:
    text = refused("coco", [item])
    assert says in text
    assert item.partition("=")[0] in text


def test_random_counts_may_be_drawn_upwards_only() -> None:
    random = ["loss.skcc.query=random", "loss.skcc.queries=6"]
    assert load("coco", [*random, "loss.skcc.queries_to=9"]).loss.skcc.queries_to == 9
    assert "expected loss.skcc.queries=6 or more" in refused("coco", [*random, "loss.skcc.queries_to=5"])


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (
            ["loss.contrast=intra", "loss.positives_from=images"],
            "loss.positives_from=images: loss.contrast=intra compares",
        ),
        (
            ["loss.contrast=intra", "loss.negatives_from_others=true"],
            "loss.negatives_from_others=True: loss.contrast=intra",
        ),
        (["loss.contrast=intra", "loss.max_negatives=64"], "nobody else's; leave it at 0"),
        (["loss.skcc.query=all", "loss.query_scope=batch"], "loss.query_scope=batch: loss.skcc.query=all and"),
        (["loss.skcc.query=random", "loss.entropy=peak"], "loss.entropy=peak: only hard queries are scored"),
        (["loss.prcc.negative=all", "loss.prcc.category_score=max"], "only loss.prcc.negative=hard ranks categories"),
        (["loss.skcc.query=all", "loss.skcc.queries=3"], "loss.skcc.queries=3: loss.skcc.query=all takes all of them"),
        (
            ["loss.prcc.negative=all", "loss.prcc.negatives=3"],
            "loss.prcc.negative=all takes all of them; leave it at 4",
        ),
        (["loss.bank.slots=0", "loss.bank.exchange=async"], "give it loss.bank.slots"),
    ],
)
def test_options_that_would_do_nothing_are_refused(items: list[str], says: str) -> None:
    assert says in refused("coco", items)
    for item in items:
        load("coco", [item])  # each alone means something


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["loss.contrast=intra", "loss.bank.exchange=async"], "=async: loss.contrast=intra compares the points of one"),
        (["loss.contrast=intra", "loss.bank.wire=bf16"], "nobody else's; leave it at fp32"),
        (["loss.contrast=intra", "loss.bank.budget=8"], "nobody else's; leave it at 0"),
        (["loss.prcc.queries=3"], "loss.prcc.query=all takes all of them; leave it at 8"),
        (["data.split_seed=1"], "data.labelled=1 leaves nobody without labels"),
        (["data.augment.half_body_p=0", "data.augment.half_body_min=5"], "half_body_p=0 cuts nobody; leave it at 8"),
        (["semi.gamma=0.5"], "semi.method=none learns from labelled people alone; leave it at 0.75"),
        (["semi.teacher=runs/first"], "semi.teacher=runs/first: only semi.method=pseudo has a teacher"),
        (
            ["semi.compat=true"],
            "semi.compat=True: only semi.method=sspose has two students and a hard view; leave it at False",
        ),
        (["data.labelled=0.3", "semi.method=sspose", "semi.lambda_u=1"], "only semi.method=pseudo has a teacher"),
    ],
)
def test_a_value_without_effect_is_refused_where_it_is_set(items: list[str], says: str) -> None:
    text = refused("coco", items)
    assert says in text
    assert text.startswith(items[-1].partition("=")[0])


def test_an_old_checkpoint_may_hold_values_without_effect() -> None:
    values = dataclasses.asdict(load("coco", ["loss.contrast=intra"]))
    values["loss"]["bank"]["wire"] = "bf16"
    configuration.validate(from_dict(values))
    with pytest.raises(ConfigError, match=r"loss\.bank\.wire=bf16"):
        configuration.refuse_unused(from_dict(values))


def test_joints_are_not_refined_in_udps_lengths() -> None:
    refining = ["model.backbone=opecnet_resnet50", "data.codec=udp"]
    assert "data.codec=udp: opecnet_resnet50 reads" in refused("crowdpose", refining)
    load("crowdpose", refining[1:])


def test_averaged_weights_need_whole_parameters() -> None:
    assert "run.zero=2 or less" in refused("coco", ["optim.ema=0.9", "run.zero=3"])
