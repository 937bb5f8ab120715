"""`jaxfer rank` on runs and checkpoints, and what its scores are worth."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file, save_file

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.evals import transferability as scores
from jaxfer.evals.score_skill import skill
from jaxfer.runs.survey import survey
from jaxfer.training import cached
from tests.experiments import TOKENIZER, tiny_config
from tests.full_disk import LINE, full
from tests.models.tiny import TINY
from tests.pretrained.checkpoints import checkpoint

QUICK = ("logme", "leep", "knn")
# Without a channel's mean and std that its files would have to state.
VIT = dict(patch=4, width=8, layers=2, heads=2, mlp_width=8, image=(16, 12, 3))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two runs, a checkpoint of another family, and runs that start from them on few labels."""
    folder = tmp_path_factory.mktemp("rank")
    jaxfer.run(tiny_config("resnet_basic", steps=4, lr=1e-2), folder / "a", quiet=True)
    jaxfer.run(tiny_config("resnet_basic", steps=1, lr=1e-2, seed=1), folder / "b", quiet=True)
    checkpoint(folder / "vit", "vit", VIT)
    for source, (rate, seed) in itertools.product("ab", ((1e-3, 0), (1e-2, 0), (1e-2, 1))):
        config = target(init=f"run:{folder / source}", lr=rate, seed=seed, method="probe", steps=2)
        jaxfer.run(config, folder / "runs" / f"{source}-{rate}-{seed}", quiet=True)
    return folder


def target(**fields):
    config = tiny_config("resnet_basic", **{"head": "reset", **fields})
    config.data.augment = ("flip",)
    return config


@pytest.mark.system
def test_candidates_of_several_families(world, tmp_path):
    """Scores are those of the features that `jaxfer features` gives of the training split; rank.json has them all."""
    candidates = [str(world / name) for name in ("a", "vit")]
    ranking = jaxfer.rank(target(), candidates, scores=QUICK, layers=True, out=tmp_path / "out", quiet=True)
    found = {c.init: c for c in ranking.candidates}
    first, second = (c.scores["logme"].value for c in ranking.candidates)
    assert first > second
    data = {"data.source": "synthetic", "data.image": target().data.image, "data.classes_count": 3, "data.examples": 48}
    for name, given in (("a", {}), ("vit", data)):
        read = jaxfer.features(world / name, split="train", overrides=given, quiet=True).arrays()
        one = found[str(world / name)]
        assert one.scores["knn"].value == scores.nearest_neighbour(read["features"], read["label"])
        assert one.scores["logme"].value == pytest.approx(scores.logme(read["features"], read["label"]), abs=1e-6)
        unit = jaxfer.features(
            world / name, unit="stem", pool="mean", split="train", overrides=given, quiet=True
        ).arrays()
        assert one.layers["stem"].value == pytest.approx(scores.logme(unit["features"], unit["label"]), abs=1e-6)
        assert one.layers["features"].value == one.scores["logme"].value
        assert one.best_layer == max(one.layers, key=lambda unit: one.layers[unit].value)
    # The run's own head, on the data that it was trained on.
    own = jaxfer.features(world / "a", unit="head", split="train", quiet=True).arrays()
    logits = own["features"].astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found[candidates[0]].scores["leep"].value == pytest.approx(scores.leep(chances, own["label"]), abs=1e-6)
    assert found[candidates[0]].heuristics["source_examples"] == len(own["label"])
    stored = json.loads((tmp_path / "out/rank.json").read_text())
    assert stored["by"] == "logme" and [c["init"] for c in stored["candidates"]] == list(found)
    assert stored["candidates"][0]["scores"]["knn"]["seconds"] >= 0
    assert stored["command"] == {}  # of a config that is no file


@pytest.mark.system
def test_the_source_of_nothing_and_stored_features(tmp_path, monkeypatch):
    """A model without a head has no LEEP; the second time features are read, layers for themselves."""
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path))
    given = dict(scores=QUICK, quiet=True)
    jaxfer.rank(target(), ["scratch"], **given)
    ranking = jaxfer.rank(target(), ["scratch"], **given)
    (one,) = ranking.candidates
    assert one.computed == 0 and one.scores["leep"].value is None and one.heuristics["source_accuracy"] is None
    assert "scratch: no leep: it reads the source's head, but it is drawn at random" in ranking.text()
    assert "(stored)" in ranking.text()
    first, second = (jaxfer.rank(target(), ["scratch"], layers=True, **given).candidates[0] for _ in range(2))
    assert (first.computed, second.computed) == (48, 0) and first.layers.keys() == second.layers.keys()
    assert {u: s.value for u, s in first.layers.items()} == {u: s.value for u, s in second.layers.items()}
    assert second.scores["knn"].value == one.scores["knn"].value


@pytest.mark.system
def test_neither_val_nor_test_is_read(world, monkeypatch):
    """Whatever val holds, the features computed are those of the training split."""
    read = []
    wanted = cached.Cached._wanted
    monkeypatch.setattr(cached.Cached, "_wanted", lambda *a, **k: read.append(a[2]) or wanted(*a, **k))
    config = target(seed=3)
    ranking = jaxfer.rank(config, [str(world / "b")], scores=("knn",), by="knn", quiet=True)
    train = jaxfer.features(world / "b", split="train", quiet=True)
    assert ranking.examples == len(train.row) and all(set(rows) <= set(train.row) for rows in read)


@pytest.mark.system
def test_what_scores_are_worth(world):
    """The best validated setting of each candidate, a mean over its seeds; a tau of two has no interval."""
    ranking = jaxfer.rank(
        target(), [str(world / "a"), str(world / "b")], scores=QUICK, runs=[world / "runs"], quiet=True
    )
    for c in ranking.candidates:
        runs = [run for run in survey(world / "runs") if run.config["init"] == f"run:{epath.Path(c.init)}"]
        of = {rate: [r.scores["val.accuracy"] for r in runs if r.config["lr"] == rate] for rate in (1e-3, 1e-2)}
        assert c.reached.value == pytest.approx(max(np.mean(of[1e-3]), np.mean(of[1e-2]))) and c.reached.settings == 2
        best = max(of, key=lambda rate: (np.mean(of[rate]), len(of[rate])))
        assert set(c.reached.folders) == {run.folder for run in runs if run.config["lr"] == best}
    assert ranking.skill["logme"].candidates == 2 and ranking.skill["logme"].low is None
    assert set(ranking.skill) == {*QUICK, "parameters", "depth", "source_accuracy", "source_examples"}
    assert "few candidates say little" in ranking.text()
    other = jaxfer.rank(
        target(),
        [str(world / "a")],
        scores=("knn",),
        by="knn",
        runs=[world / "runs"],
        overrides={"data.classes": ("class_0", "class_1")},
        quiet=True,
    )
    assert other.candidates[0].reached is None and other.skill == {}


@pytest.mark.system
def test_a_layer_that_the_checkpoint_lacks(tmp_path):
    """The features are the mean of what it reads, and no score reads the source's head."""
    options = {name: value for name, value in TINY["bert_pooler"][1].items() if name != "outputs"}
    shutil.copytree(TOKENIZER, tmp_path / "bert")
    checkpoint(tmp_path / "bert", "bert", options, labels=())
    file = tmp_path / "bert/model.safetensors"
    tensors = {key: x for key, x in load_file(file).items() if "pooler" not in key and "classifier" not in key}
    save_file(tensors, file, {"format": "pt"})
    overrides = {"model.pool": "pooler", "differs": ("pool",)}
    given = dict(scores=QUICK, layers=True, overrides=overrides, quiet=True)
    ranking = jaxfer.rank(tiny_config("bert_pooler"), [str(tmp_path / "bert")], **given)
    (one,) = ranking.candidates
    assert one.reads == "block_1" and one.scores["logme"].value == one.layers["block_1"].value
    assert "params/head/pooler/bias is not in the checkpoint" in one.scores["leep"].why
    assert "scores are of the mean of block_1" in ranking.text() and "features" not in one.layers


def test_skill():
    """By hand: with ranks r the pair (i, j) weighs 1 / (r_i + 1) + 1 / (r_j + 1), both orders averaged."""
    assert skill([1, 2, 3], [1, 2, 3]).tau == pytest.approx(1) and skill([1, 2, 3], [1, 2, 3]).chance == 1 / 6
    assert skill([1, 2], [1, 2]).chance == 1 / 2 and skill([1, 2], [1, 2]).low is None
    weights = {(0, 1): 1 + 1 / 2, (0, 2): 1 + 1 / 3, (1, 2): 1 / 2 + 1 / 3}
    x, y = [3, 2, 1], [2, 3, 1]  # the best two change places, which costs the pair (0, 1) in either order
    assert skill(x, y).tau == pytest.approx(1 - 2 * weights[0, 1] / sum(weights.values()))
    assert skill([1, None, 2], [1, 5, 2]).candidates == 2 and skill([1, 1], [1, 2]).tau is None
    found = skill(np.arange(10), np.arange(10) + np.array([0, 3, 0, -3, 0, 0, 2, 0, 0, 0]))
    assert -1 <= found.low < found.tau < found.high <= 1


@pytest.mark.parametrize(
    ("candidates", "given", "message"),
    [
        ([], {}, "--candidates: expected checkpoints, as config.init names them, found none"),
        ("scratch", {}, "--candidates: expected checkpoints"),
        (["scratch", "scratch"], {}, "expected each once, found scratch twice; leave one out"),
        (["nothing/here"], {}, "nothing/here"),
        (["run:nothing"], {}, "--candidates=run:nothing: no run at nothing"),
        (["scratch"], dict(by="logm"), "--by: expected some of logme.*, found 'logm'; nearest: 'logme'"),
        (["scratch"], dict(scores=("kn",)), "--scores: .*found 'kn'; nearest: 'knn'"),
        (["scratch"], dict(scores=()), "--scores: .*found none"),
        (["scratch"], dict(by="leep", layers=True), "--layers: leep reads what the source's head says"),
        (["scratch"], dict(overrides={"task.name": "multilabel"}), "expected classification, found 'multilabel'"),
        (["scratch"], dict(overrides={"data.classes": ("class_0",)}), "scratch: .*at least 2 classes"),
        (["scratch"], dict(runs=["nothing"]), "expected a folder with runs, found nothing at nothing"),
    ],
)
def test_nonsense(candidates, given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        jaxfer.rank(tiny_config("resnet_basic"), candidates, **given)


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = "import jaxfer.config\ndef get_config(arg=''):\n    config = jaxfer.config.base()\n"
    config += "    config.model = dict(name='resnet', stage_sizes=(1, 1), width=4, stem='cifar', image=(8, 8, 1))\n"
    (tmp_path / "c.py").write_text(
        config + "    config.data = dict(source='digits', labels_per_class=3)\n    return config\n"
    )
    (tmp_path / "file").write_text("")
    assert main(["rank", "c.py", "--candidates=scratch", "--out=file"]) == 2
    assert "--out: expected a folder, found the file file" in capsys.readouterr().err
    (tmp_path / "own.py").write_text(config.replace("width=4", "width=8") + "    return config\n")
    assert main(["rank", "c.py", "--candidates=own.py,own.py", "--scores=knn"]) == 2
    assert "--candidates: expected each once, found own.py twice; leave one out" in capsys.readouterr().err
    assert main(["rank", "c.py", "--candidates=scratch,own.py", "--scores=knn", "--by=knn", "--out=own"]) == 0
    widths = {c["init"]: c["width"] for c in json.loads((tmp_path / "own/rank.json").read_text())["candidates"]}
    assert widths == {"scratch": 8, "own.py": 16}
    capsys.readouterr()
    assert main(["rank", "c.py", "--candidates=scratch", "--scores=knn,gbc", "--by=knn", "--out=out"]) == 0
    out = capsys.readouterr().out
    assert (
        out.startswith("30 training examples of 10 classes, best knn first") and (tmp_path / "out/rank.json").exists()
    )
    asked = dict(config="c.py", overrides={}, candidates=["scratch"], scores=["knn", "gbc"], by="knn")
    assert json.loads((tmp_path / "out/rank.json").read_text())["command"] == asked | dict(
        layers=False, runs=[], seed=0
    )
    with full(200):  # features are kept already
        assert main(["rank", "c.py", "--candidates=scratch", "--scores=knn", "--by=knn", "--out=no"]) == 2
    err = capsys.readouterr().err
    assert LINE in err and err.count("\n") <= 2 and not list((tmp_path / "no").glob("*"))
