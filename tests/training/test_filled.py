"""Recipes and durations in whole configs: what wins, what is recorded, and what is refused."""

from __future__ import annotations

import itertools
import json
import sys

import pytest

import jaxfer
import jaxfer.recipes
from jaxfer import registry
from jaxfer.config import override, resolve
from jaxfer.errors import InputError
from jaxfer.registry import RECIPES
from jaxfer.runs.checkpoint import Checkpoints
from jaxfer.runs.folder import stored_config
from jaxfer.training.filled import filled
from jaxfer.training.preflight import preflight
from tests import kill
from tests.experiments import tiny_config

CASES = ("resnet_basic", "vit_cls", "bert_pooler")


def with_recipe(case, name, **fields):
    return override(tiny_config(case, schedule="cosine", **fields), {"recipe": name})


@pytest.mark.parametrize("case", CASES)
def test_on_every_kind_of_model(case):
    """`gradual`, planned: groups from the head down, to all of it. The other recipes are filled in and resolve."""
    config = with_recipe(case, "gradual", steps=20)
    ready = preflight(config)
    trained = [set(stage.spec.trainable) for stage in ready.stages]
    assert trained[0] == {path for path in trained[-1] if ready.stages[0].spec.port.unit(path) == "head"}
    assert all(lower < upper for lower, upper in itertools.pairwise(trained))
    assert trained[-1] == set(ready.stages[0].leaves())
    assert [stage.config.steps for stage in ready.stages] == [4, 4, 4, 8]
    rates = {leaf.depth: leaf.lr_scale for leaf in ready.stages[-1].spec.trainable.values()}
    assert rates[0] == 1 and rates[1] == pytest.approx(1 / 2.6)
    assert ready.experiment.run.filled_by == "gradual" and not ready.experiment.run.recipe
    for name in ("lp_ft", "discriminative", "surgical", "bit_hyperrule", "auto"):
        made = filled(with_recipe(case, name), preflight)
        assert resolve(made.config).stages and made.told[0].startswith(f"recipe {name} (")


def test_what_the_config_sets_wins():
    config = override(
        with_recipe("vit_cls", "lp_ft", steps=10, weight_decay=0.5),
        {
            "recipe_options.share": 0.2,
            "recipe_options.ratio": 0.5,
            "stage.full.layer_decay": 0.9,
            "stage.probe.lr": 0.3,
        },
    )
    probe, full = (stage for _, stage in resolve(filled(config, preflight).config).stages)
    assert (probe.method, probe.steps, probe.lr, probe.weight_decay) == ("probe", 2, 0.3, 0.5)
    assert (full.method, full.steps, full.lr, full.layer_decay) == ("full", 8, 5e-4, 0.9)
    hyper = filled(with_recipe("vit_cls", "bit_hyperrule", lr=0.1, schedule_options=()), preflight).config
    (stage,) = (stage for _, stage in resolve(hyper).stages)
    assert (stage.lr, stage.steps, stage.optimizer) == (0.1, 4, "sgd")


def test_it_is_the_same_experiment_as_its_stages_written_out():
    made = preflight(with_recipe("vit_cls", "lp_ft", steps=10)).experiment
    written = tiny_config("vit_cls", schedule="cosine")
    written.stages = ("probe", "full")
    written.stage = dict(probe=dict(method="probe", steps=5), full=dict(method="full", steps=5, lr=1e-4))
    plain = preflight(written).experiment
    assert made.identity() == plain.identity()
    record = made.to_dict()
    assert record.pop("filled_by") == "lp_ft" and record == plain.to_dict()


def test_show_names_the_recipe_and_why(monkeypatch):
    monkeypatch.setattr("jaxfer.training.summary.step_flops", lambda *_: 1.0)
    shown = str(jaxfer.show(with_recipe("vit_cls", "discriminative")))
    assert "\nrecipe discriminative (Howard & Ruder, 2018, arXiv:1801.06146; the floor is timm's)\n" in shown
    assert "rates fall by 0.75 a unit, from 1 at the head to 0.42 at the input" in shown
    assert "stage 'train': method full, 4 steps of 8 examples" in shown


def test_durations_of_whole_configs():
    config = override(tiny_config("vit_cls"), {"steps": "2epochs", "warmup": "25%", "eval_every": "1epochs"})
    experiment = preflight(config).experiment  # 48 examples, some of them val, 8 a step
    examples = len(preflight(config).data.splits["train"])
    assert experiment.stages[0][1].steps == -(-2 * examples // 8)
    assert experiment.stages[0][1].warmup == -(-experiment.stages[0][1].steps // 4)
    assert experiment.run.eval_every == -(-examples // 8)


@pytest.mark.system
@pytest.mark.parametrize("case", [CASES[0], *(pytest.param(case, marks=pytest.mark.rest) for case in CASES[1:])])
@pytest.mark.parametrize("name", RECIPES.names())
def test_killed_it_ends_bitwise_as_undisturbed(name, case, tmp_path, monkeypatch):
    """Every recipe; it is killed after its second, third or fourth save, the last of a stage or one within."""
    own = {"stage.train.steps": 8} if name == "bit_hyperrule" else {}
    config = override(with_recipe(case, name), {"steps": 8, "save_every": 2, "parallel.devices": 1, **own})
    jaxfer.run(config, tmp_path / "whole", quiet=True)
    calls, save = itertools.count(1), Checkpoints.save

    def stopping(self, *args):
        save(self, *args)
        if next(calls) == 2 + CASES.index(case):
            raise RuntimeError("in place of a kill")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Checkpoints, "save", stopping)
        jaxfer.run(config, tmp_path / "parts", quiet=True)
    jaxfer.run(config, tmp_path / "parts", quiet=True)
    assert not kill.ending(tmp_path / "whole").differences(kill.ending(tmp_path / "parts"))
    stored = json.loads((tmp_path / "whole/config.json").read_text())
    assert stored["filled_by"] == name and "recipe" not in stored
    assert name != "lp_ft" or stored["stages"] == ["probe", "full"]
    assert resolve(stored_config(tmp_path / "whole")).identity() == preflight(config).experiment.identity()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recipe": "lp_tf"}, "unknown recipe 'lp_tf'; nearest: 'lp_ft'"),
        ({"recipe": "lp_ft", "recipe_options.shares": 1}, "recipe 'lp_ft' has no such option; nearest: 'share'"),
        ({"recipe_options.share": 0.5}, "config.recipe names no recipe; set it to one of auto, "),
        (
            {"recipe": "lp_ft", "stage.probes.lr": 1.0},
            "config.stage.probes: recipe 'lp_ft' has no such stage; nearest: 'pr",
        ),
        ({"recipe": "lp_ft", "stages": "a,b"}, r"recipe 'lp_ft' names the stages, found \('a', 'b'\); leave one"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(InputError, match=message):
        preflight(override(tiny_config("vit_cls"), fields))


def test_a_recipe_of_the_users_own(tmp_path, monkeypatch):
    """A file in `recipes/` next to the config."""
    monkeypatch.setattr(jaxfer.recipes, "__path__", [*jaxfer.recipes.__path__])
    monkeypatch.setenv(registry.VARIABLE, "")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/thirds.py").write_text(
        "from jaxfer.recipe import Recipe, parts\n\n\ndef recipe(facts, *, rate: float = 0.5):\n"
        "    one, two = parts(facts.steps, (1, 2))\n"
        "    stages = {'a': {'steps': one}, 'b': {'steps': two, 'lr': rate}}\n"
        "    return Recipe(stages=stages, source='own')\n"
    )
    assert registry.beside(tmp_path / "config.py") == (str(tmp_path),)
    registry.use([str(tmp_path)])
    config = override(with_recipe("vit_cls", "thirds", steps=9), {"recipe_options.rate": "0.25"})
    stages = resolve(filled(config, preflight).config).stages
    assert [(name, stage.steps, stage.lr) for name, stage in stages] == [("a", 3, None), ("b", 6, 0.25)]
    sys.modules.pop("jaxfer.recipes.thirds")
