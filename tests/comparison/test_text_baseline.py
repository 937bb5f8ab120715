"""Simple baselines of a comparison of texts: the right ones for each task, their scores scikit-learn's own."""

from __future__ import annotations

import json
import os
import statistics

import numpy as np
import pytest
from etils import epath
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

import jaxfer
from jaxfer.comparison.protocol import make_design
from jaxfer.comparison.simple import Scores, tune_baselines
from jaxfer.comparison.simple import test_baselines as on_test  # a name that pytest would collect
from jaxfer.evals.baselines import baselines
from jaxfer.training.robustness import mean, robustness
from tests.experiments import PHRASES, TOKENIZER
from tests.models.tiny import TINY

CONFIG = """
    from __future__ import annotations

    import jaxfer.config
    from jaxfer.sweeps import Cell

    def get_config(arg=""):
        config = jaxfer.config.base()
        config.model = MODEL
        config.data = DATA
        config.task.name = TASK
        config.parallel.devices = 1
        config.update(batch_size=8, steps=2, eval_every=0, save_every=0, head="reset", init="sibling:source")
        config.compare.update(methods=("probe",), seeds=2, trials=2)
        if arg == "source":
            config.init = "scratch"
        return config

    def sweep():
        yield Cell(name="source", arg="source")
"""
WORDS = ("good", "bad", "plain", "film", "plot", "song", "the", "was", "!")
TOKENS = r"\w+|[^\w\s]+"


def write(folder, task: str, **data) -> str:
    """The path of a config of the tiniest BERT on a table of texts."""
    options = {name: value for name, value in TINY["bert_mean"][1].items() if name != "outputs"}
    text = "\n".join(line[4:] for line in CONFIG.splitlines())
    for name, value in (
        ("MODEL", dict(name="bert", tokenizer=TOKENIZER, **options)),
        ("DATA", dict(source="table", **{"labels_per_class": 0, **data})),
        ("TASK", task),
    ):
        text = text.replace(name, repr(value))
    (folder / "mine.py").write_text(text)
    return os.fspath(folder / "mine.py")


def tables(folder, label) -> dict[str, list[tuple[str, str, str]]]:
    """Rows (text, partner, label) of three splits, on disk as well; `label` is of the words drawn."""
    rng, rows = np.random.default_rng(0), {}
    for name, count in (("train", 60), ("dev", 24), ("test", 24)):
        drawn = [(rng.choice(WORDS, 4).tolist(), rng.choice(WORDS, 3).tolist()) for _ in range(count)]
        rows[name] = [(" ".join(a), " ".join(b), label(a, b)) for a, b in drawn]
        lines = ["text\tother\tlabel", *("\t".join(row) for row in rows[name])]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return rows


def tf_idf() -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1, token_pattern=TOKENS)


def tuned_and_tested(spec: str, task: str, classes: int):
    planned = make_design(spec, {})
    kinds, scores = baselines(task, classes, features="TF-IDF"), Scores(planned, epath.Path(spec).parent)
    return on_test(planned, kinds, tune_baselines(planned, kinds, scores), scores)


@pytest.mark.system
def test_a_comparison_of_sets_of_labels(tmp_path):
    """All of `jaxfer compare`; `always` is a label of every training text, so its baseline is a constant."""

    def labels(a, b):
        return ";".join([*(word for word in ("good", "bad", "plain") if word in a), "always"])

    rows = tables(tmp_path, labels)
    spec = write(tmp_path, "multilabel", path=str(tmp_path), target="labels")
    found = jaxfer.compare(spec, tmp_path / "run", quiet=True)
    assert [b.name for b in found.baselines] == ["label prevalence", "logistic regression on TF-IDF"]
    classes = ("always", "bad", "good", "plain")
    x = {name: [text for text, _, _ in rows[name]] for name in rows}
    y = {name: np.array([[c in label.split(";") for c in classes] for _, _, label in rows[name]]) for name in rows}
    prevalence, logistic = found.baselines
    assert prevalence.test == pytest.approx([y["test"].mean(0).mean()] * 2)  # a constant's AUPRC is the share
    model = make_pipeline(tf_idf(), OneVsRestClassifier(LogisticRegression(C=logistic.setting, max_iter=10_000)))
    model.fit(x["train"], y["train"][:, 1:])
    expected = [average_precision_score(y["test"][:, 1:], model.decision_function(x["test"]), average=None)]
    assert logistic.test == pytest.approx([np.mean(np.append(expected, 1.0))] * 2, abs=1e-6)
    assert logistic.setting in (10.0, 100.0) and len(logistic.val) == 2  # as many settings as an arm has trials
    written = json.loads((tmp_path / "run" / "selection.json").read_text())["baselines"]
    assert [b["name"] for b in written] == [b.name for b in found.baselines] and not any(b["test"] for b in written)
    assert "against logistic regression on TF-IDF:" in found.sentences


@pytest.mark.system
def test_the_worst_group_and_typos_of_texts_are_columns(tmp_path):
    """Of the group that is right least often, and of misspelt texts: the numbers of each run alone."""
    tables(tmp_path, lambda a, b: "good" if "good" in a else "bad")  # the partner's first word is the group
    for name in ("train", "dev", "test"):
        head, *rows = (tmp_path / f"{name}.tsv").read_text().splitlines()
        cells = [row.split("\t") for row in rows]
        grouped = [f"{a}\t{'low' if b < 'film' else 'high'}\t{label}" for a, b, label in cells]
        (tmp_path / f"{name}.tsv").write_text("\n".join([head.replace("other", "kind"), *grouped]) + "\n")
    spec = write(tmp_path, "classification", path=str(tmp_path), group=("kind",))
    asked = {"compare.metrics": "worst_group_accuracy", "compare.severity": 3, "compare.trials": 1}
    found = jaxfer.compare(spec, tmp_path / "run", overrides=asked, quiet=True)
    cells = json.loads((tmp_path / "run/cells.json").read_text())
    for f in found.findings:
        folders = [tmp_path / "run" / c["folder"] for c in cells if c["name"].startswith(f"{f.arm} ")]
        tests = [json.loads((run / "result.json").read_text())["metrics"]["test"] for run in folders]
        worst, corrupted = f.beside
        assert worst.name == "worst_group_accuracy"
        assert worst.test == tuple(test["worst_group_accuracy"] for test in tests)
        assert all(test["worst_group_accuracy"] <= test["accuracy"] for test in tests)
        tables_of = [robustness(run, split="test", severity=3) for run in folders]
        assert corrupted.test == tuple(mean(each, "accuracy") for each in tables_of)
    assert "worst_group_accuracy against scratch:" in found.sentences


def test_few_labels_of_phrases(tmp_path):
    """Each seed draws its own labels; the majority of equal shares is the first class."""
    spec = write(tmp_path, "classification", path=PHRASES, labels_per_class=6)
    majority, logistic = tuned_and_tested(spec, "classification", 3)
    assert (majority.name, logistic.name) == ("majority class", "logistic regression on TF-IDF")
    assert majority.test == (1 / 3, 1 / 3)
    planned = make_design(spec, {})
    for seed, found in enumerate(logistic.test):
        cell = planned.opened(planned.cells(6, "scratch", 0)[seed])
        splits = jaxfer.training.preflight.preflight(cell.config).data.splits
        (x, y), (fresh, labels) = (
            ([splits[name].example("text", row) for row in range(len(splits[name]))], splits[name].labels)
            for name in ("train", "test")
        )
        model = make_pipeline(tf_idf(), LogisticRegression(C=logistic.setting, max_iter=10_000)).fit(x, y)
        assert len(x) == 18 and found == pytest.approx(model.score(fresh, labels))


def test_a_value_for_each_pair(tmp_path):
    """The least mse on val is chosen; words of both texts count, a bigram across them does not."""
    rows = tables(tmp_path, lambda a, b: str(a.count("good") - b.count("bad")))
    spec = write(tmp_path, "regression", path=str(tmp_path), target="value", text_pair="other")
    mean, ridge = tuned_and_tested(spec, "regression", 0)
    assert (mean.name, ridge.name) == ("training mean", "ridge on TF-IDF")
    x = {name: [f"{a} ||| {b}" for a, b, _ in rows[name]] for name in rows}
    y = {name: np.array([float(label) for *_, label in rows[name]]) for name in rows}
    assert mean.test == pytest.approx([np.square(y["test"] - y["train"].mean()).mean()] * 2, rel=1e-5)
    models = {alpha: make_pipeline(tf_idf(), Ridge(alpha=alpha, tol=1e-8)) for alpha in (1.0, 0.1)}
    val = [np.square(m.fit(x["train"], y["train"]).predict(x["dev"]) - y["dev"]).mean() for m in models.values()]
    assert ridge.val == pytest.approx(val, rel=1e-5) and ridge.setting == (1.0, 0.1)[int(np.argmin(val))]
    expected = np.square(models[ridge.setting].predict(x["test"]) - y["test"]).mean()
    assert ridge.test == pytest.approx([expected] * 2, rel=1e-5)
    assert statistics.fmean(ridge.test) < statistics.fmean(mean.test)
