"""What a config may say, what it is told when it is wrong, and that it survives a round trip."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from support import resolve

from facejax import command_line, config
from facejax.config import Rule
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.schedule import Schedule

VIT = {"name": "vit", "width": 32, "depth": 1, "heads": 2, "patch": 4}
RICH = {
    "encoder": {**VIT, "drop_path": 0.1, "pool": "mean"},
    "encoder_text": {"name": "toy", "size": 24},
    "objective": {
        "mae": {
            "ratio": 0.5,
            "scale": (0.5, 1),
            "weight": {"kind": "linear", "start": 0, "end": 1},
        },
        "other": {"type": "queue", "modifiers": {"gate": {"penalty": 0.5}}, "weight": 2},
    },
    "optimizer": {
        "base_lr": 1e-3,
        "weight_decay": {"start": 0.04, "end": 0.4},
        "rules": (
            {"pattern": "bias", "lr": 2, "name": "sgd"},
            {"pattern": "x", "frozen_until": -1},
        ),
    },
    "data": {
        "size": 16,
        "mean": (0, 0.5, 1),
        "sampler": {"type": "pk", "people": 4, "images": 2, "min_images": 3},
        "blocklist": "blocked.txt",
        "sources": (
            {"name": "folder", "path": "a.zip", "labels": ("a.csv", "b.csv"), "weight": 0.5},
            {"name": "synthetic", "n": 8},
        ),
    },
    "mesh": {"data": 2, "fsdp": -1, "rules": (("kernel$", "replicate"),)},
    "artifacts": {"codebook": "codes.npy"},
    "eval": {"near": {"type": "knn", "path": "faces.zip", "labels": "a.csv", "every_steps": 5}},
    "export": ("timm",),
    "micro_batch": 4,
}


def error_of(**keys) -> UserError:
    with pytest.raises(UserError) as caught:
        resolve(keys.pop("objective", {"ratio": {}}), **keys)
    assert caught.value.status == 2
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("global_batsh", 1, "global_batch"),
        ("data.sise", 1, "size"),
        ("optimizer.schedule.warmpu", 2, "warmup"),
        ("encoder.name", "vti", "vit"),
        ("encoder.widht", 8, "width"),
        ("objective.mea", {}, "mae"),
        ("objective.a.type", "simcrl", "simclr"),
        ("objective.mae.ratoi", 0.5, "ratio"),
        ("objective.queue.modifiers.gaet", {}, "gate"),
        ("objective.queue.modifiers.gate.of", True, "off"),
        ("eval.lfw.type", "verificaton", "verification"),
        ("mesh.fdsp", 2, "fsdp"),
        ("checkpoint.evry_steps", 2, "every_steps"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_legal_one(key, value, meant):
    keys = {"optimizer": {"lr": 1}, "encoder": {"name": "toy"}}
    error = error_of(**command_line.override(keys, [f"--config.{key}={value}"], "config"))
    assert error.where == f"config.{key}"
    assert error.remedy == f"did you mean '{meant}'?"


def rules(**keys):
    return {"lr": 1, "rules": ({"pattern": "x"}, keys)}


@pytest.mark.parametrize(
    ("keys", "where", "told"),
    [
        ({"steps": "many"}, "config.steps", "'many' is not of type int"),
        ({"steps": 2.5}, "config.steps", "2.5 is not of type int"),
        ({"steps": True}, "config.steps", "True is not of type int"),
        ({"seed": None}, "config.seed", "None is not of type int"),
        ({"max_bad_share": False}, "config.max_bad_share", "not of type float"),
        ({"report": "maybe"}, "config.report", "not of type bool"),
        ({"report": 1}, "config.report", "not of type bool"),
        ({"data": 3}, "config.data", "3 is not of type Data"),
        ({"data": {"mean": (0.5, 0.5)}}, "config.data.mean", "2 values; give 3"),
        ({"data": {"mean": (0.5, 0.5, "x")}}, "config.data.mean[2]", "'x' is not of type float"),
        ({"data": {"sources": "folder"}}, "config.data.sources", "not of type tuple"),
        ({"data": {"sources": ("folder",)}}, "config.data.sources[0]", "not of type Mapping"),
        ({"data": {"sampler": "shufle"}}, "config.data.sampler", "did you mean 'shuffle'?"),
        ({"data": {"processes": 2, "cache": "decoded"}}, "config.data.processes",
         "2 with cache 'decoded'"),
        ({"data": {"processes": -1}}, "config.data.processes", "-1 with cache 'none'"),
        ({"data": {"group": 3}}, "config.data.group", "groups of 3 do not fill a batch of 8"),
        ({"data": {"sampler": {"type": "pc"}}}, "config.data.sampler.type", "did you mean 'pk'?"),
        ({"data": {"sampler": {"type": "pk", "images": 4}}}, "config.data.sampler.people",
         "0 people x 4 images do not fill 8 rows"),
        ({"data": {"sampler": {"type": "balanced"}, "group": 2}}, "config.data.group",
         "the sampler makes the groups"),
        ({"dtype": "bfloat61"}, "config.dtype", "did you mean 'bfloat16'?"),
        ({"optimizer": rules(pattern="x", name="adam")}, "config.optimizer.rules[1].name",
         "did you mean 'adamw'?"),
        ({"optimizer": rules(patern="x")}, "config.optimizer.rules[1].patern",
         "did you mean 'pattern'?"),
        ({"optimizer": rules(lr=2)}, "config.optimizer.rules[1].pattern", "missing"),
        ({"optimizer": {"lr": 1, "weight_decay": "x"}}, "config.optimizer.weight_decay",
         "not of type float or Schedule"),
        ({"optimizer": {"lr": 1, "schedule": {"kind": "cos"}}}, "config.optimizer.schedule.kind",
         "did you mean 'cosine'?"),
        ({"objective": {"ratio": 1}}, "config.objective.ratio", "is not a section"),
        ({"objective": {"ratio": {"weight": "x"}}}, "config.objective.ratio.weight",
         "not of type float or Schedule"),
        ({"encoder": {"patch": 4}}, "config.encoder.name", "missing"),
        ({"encoder": "vit"}, "config.encoder", "is not a section"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_key(keys, where, told):
    error = error_of(**keys)
    assert error.where == where
    assert told in str(error)


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"steps": None}, "config.steps"),
        ({"steps": 5, "epochs": 2}, "config.steps"),
        ({"steps": 0}, "config.steps"),
        ({"steps": None, "epochs": 0}, "config.epochs"),
        ({"global_batch": 0}, "config.global_batch"),
        ({"micro_batch": 3}, "config.micro_batch"),
        ({"micro_batch": 16}, "config.micro_batch"),
        ({"micro_batch": 0}, "config.micro_batch"),
        ({"micro_batch": -4}, "config.micro_batch"),
        ({"optimizer": {"name": "sgd"}}, "config.optimizer.lr"),
        ({"optimizer": {"lr": 1.0, "base_lr": 1.0}}, "config.optimizer.lr"),
        ({"encoder": None}, "config.encoder"),
        ({"objective": {}}, "config.objective"),
        ({"objective": {"ratio": {"weight": 0}}}, "config.objective"),
        ({"data": {"size": 16}}, "config.data.sources"),
        ({"log_every": 0}, "config.log_every, config.checkpoint"),
        ({"checkpoint": {"keep": 0}}, "config.log_every, config.checkpoint"),
    ],
)
def test_what_cannot_work_is_refused(keys, where):
    assert error_of(**keys).where == where


def test_values_become_what_their_keys_ask_for():
    run = resolve({"ratio": {}}, steps=5.0, report="False", log_batch_ids="true", export=["timm"])
    assert (run.steps, type(run.steps)) == (5, int)
    assert run.report is False
    assert run.log_batch_ids is True
    assert run.export == ("timm",)
    run = resolve({"ratio": {"weight": 3}}, optimizer={"lr": 1, "clip": 2, "weight_decay": 0})
    assert type(run.objectives["ratio"].weight) is float
    assert type(run.optimizer.clip) is float
    run = resolve({"ratio": {}}, optimizer={"lr": 1, "weight_decay": {"start": 0.1}})
    assert run.optimizer.weight_decay == Schedule(start=0.1)


def test_a_config_dict_is_as_good_as_a_dict():
    assert config.resolve(ConfigDict(config.to_dict(resolve(**RICH)))) == resolve(**RICH)


def test_two_labels_of_one_type_and_a_weight_of_zero():
    run = resolve({"a": {"type": "ratio"}, "ratio": {}, "off": {"type": "queue", "weight": 0}})
    assert list(run.objectives) == ["a", "ratio"]
    assert run.objectives["a"].module is run.objectives["ratio"].module
    scheduled = resolve({"ratio": {"weight": {"kind": "constant", "start": 0}}})
    assert list(scheduled.objectives) == ["ratio"]


def test_plug_ins_inherit_what_the_run_decides_unless_they_say_otherwise():
    data = {"size": 32, "sources": ({"name": "synthetic"},)}
    keys = {"dtype": "bfloat16", "remat": "full", "data": data}
    run = resolve({"mae": {}, "own": {"type": "mae", "dtype": "float32"}, "queue": {}},
                  encoder=VIT, **keys)  # fmt: skip
    encoder = run.towers["encoder"].config
    assert (encoder.dtype, encoder.remat, encoder.size) == ("bfloat16", "full", 32)
    assert run.objectives["mae"].config.dtype == "bfloat16"
    assert run.objectives["own"].config.dtype == "float32"
    own = {"dtype": "float32", "remat": "dots", "size": 64}
    encoder = resolve({"mae": {}}, encoder={**VIT, **own}, **keys).towers["encoder"].config
    assert (encoder.dtype, encoder.remat, encoder.size) == ("float32", "dots", 64)
    toy = resolve({"ratio": {}}, **keys).towers["encoder"].config
    assert toy.size == 32


def test_an_encoder_that_does_not_fit_the_images_is_refused():
    data = {"size": 30, "sources": ({"name": "synthetic"},)}
    assert "does not divide the image side 30" in str(error_of(encoder=VIT, data=data))


def test_lr_per_256_samples():
    assert resolve({"ratio": {}}, optimizer={"base_lr": 0.5}).optimizer.peak(128) == 0.25
    assert resolve({"ratio": {}}, optimizer={"lr": 0.5}).optimizer.peak(128) == 0.5


@pytest.mark.parametrize(("keys", "devices", "key"), [
    ({}, 3, "global_batch"),
    ({"micro_batch": 2}, 4, "micro_batch"),
])  # fmt: skip
def test_batches_divide_over_the_devices(keys, devices, key):
    with pytest.raises(UserError, match=f"config.{key}: .* give a multiple of {devices}"):
        config.check_devices(resolve({"ratio": {}}, **keys), devices)
    config.check_devices(resolve({"ratio": {}}, **keys), 2)


# --------------------------------------------------------------------------------- round trip


def test_a_rich_config_survives_json():
    run = resolve(**RICH)
    assert run.optimizer.rules[0] == Rule("bias", lr=2.0, name="sgd")
    assert run.data.sources[0]["labels"] == ("a.csv", "b.csv")
    stored = json.loads(json.dumps(config.to_dict(run)))
    again = config.resolve(stored)
    assert again == run
    assert config.to_dict(again) == config.to_dict(run)
    stored["seed"] = 1
    assert config.resolve(stored) != run


SCHEDULES = st.builds(
    Schedule,
    kind=st.sampled_from(["cosine", "linear", "constant", "step", "rsqrt"]),
    start=st.floats(0, 10),
    warmup=st.floats(0, 100),
    milestones=st.lists(st.floats(0, 1), max_size=3).map(tuple),
    steps=st.none() | st.integers(1, 100),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    schedule=SCHEDULES,
    weight=st.floats(0.001, 10) | SCHEDULES,
    drop_path=st.floats(0, 0.5),
    pool=st.sampled_from(["class", "mean", "attention"]),
    rules=st.lists(st.builds(Rule, st.text(max_size=5), lr=st.floats(0, 5)), max_size=3).map(tuple),
    clip=st.none() | st.floats(0.1, 10),
    epochs=st.floats(0.5, 100),
)
def test_resolving_is_the_inverse_of_to_dict(
    schedule, weight, drop_path, pool, rules, clip, epochs
):
    plain = config._plain
    run = resolve(
        {"ratio": {"weight": plain(weight)}},
        steps=None,
        epochs=epochs,
        encoder={**VIT, "drop_path": drop_path, "pool": pool},
        optimizer={"lr": 1.0, "schedule": plain(schedule), "rules": plain(rules), "clip": clip},
    )
    assert run.objectives["ratio"].weight == weight
    assert (run.optimizer.schedule, run.optimizer.rules) == (schedule, rules)
    assert config.resolve(json.loads(json.dumps(config.to_dict(run)))) == run


# ------------------------------------------------------------------------------- command line


def overridden(*texts: str, values=None) -> dict:
    return command_line.override(values if values is not None else {}, texts, "config")


def test_overrides_are_literals_or_strings():
    values = {"steps": 1, "encoder": {"name": "vit", "patch": 16}}
    found = overridden(
        "--config.steps=20",
        "--config.encoder.patch=8",
        "--config.encoder.pool=mean",
        "--config.objective.mae.ratio=0.5",
        "--config.objective.mae.scale=(0.5, 1.0)",
        "--config.init_from=None",
        "--config.log_batch_ids=true",
        "--config.data.sources=({'name':'folder','path':'a=b.zip'},)",
        values=values,
    )
    assert found["steps"] == 20
    assert found["encoder"] == {"name": "vit", "patch": 8, "pool": "mean"}
    assert found["objective"] == {"mae": {"ratio": 0.5, "scale": (0.5, 1.0)}}
    assert found["init_from"] is None
    assert found["log_batch_ids"] == "true"
    assert found["data"]["sources"] == ({"name": "folder", "path": "a=b.zip"},)


@pytest.mark.parametrize(
    ("text", "where", "told"),
    [
        ("--config.data.sources=(dict(name='x'),)", "config.data.sources", "not dict(key=value)"),
        ("--config.data.sources=({'name':'x'},", "config.data.sources", "no Python literal"),
        ("--config.steps", "--config.steps", "write --config.steps=VALUE"),
        ("--config.steps.more=1", "config.steps", "is a value, not a section"),
    ],
)
def test_overrides_that_would_be_misread_are_refused(text, where, told):
    with pytest.raises(UserError) as caught:
        overridden(text, values={"steps": 1})
    assert caught.value.where == where
    assert told in str(caught.value)


def test_a_config_file_and_its_arguments(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(args='plain'):\n"
        "    return ConfigDict({'seen': args})\n"
    )
    assert command_line.load_file(str(path)).seen == "plain"
    assert command_line.load_file(f"{path}:a,b:c").seen == "a,b:c"


@pytest.mark.parametrize(
    ("text", "args", "told"),
    [
        (None, "", "no such config file"),
        ("config = 1\n", "", "defines no get_config"),
        ("def get_config():\n    return {}\n", ":large", "takes no arguments"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, args, told):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        command_line.load_file(f"{path}{args}")
    assert str(path) in caught.value.where


def test_an_encoder_checks_a_direct_config_too():
    with pytest.raises(UserError, match="did you mean 'mean'"):
        vit.Config(pool="maen")
