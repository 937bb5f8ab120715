"""`jaxfer report` on every kind of thing, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import statistics

import numpy as np
import pytest
from etils import epath

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.reports import calibration, forgetting, groups, mistakes, settings, weights
from jaxfer.reports.looked import look
from jaxfer.runs.finished import open_run
from tests.full_disk import LINE, full
from tests.reports import comparisons, pages

EVIL = "<script>alert('x')<"


def plain(text):
    return re.sub(r"<[^>]*>", " ", text)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on pictures, one of whose classes is called like a script."""
    return pages.run(tmp_path_factory.mktemp("report"), EVIL, "dog", "fox")


def test_a_run(run, capsys):
    before = {path.name for path in run.iterdir()}
    assert main(["report", str(run), "--nocache"]) == 0
    assert {path.name for path in run.iterdir()} - before == {"report.html"}
    text = (run / "report.html").read_text()
    assert len(text.encode()) < 2_000_000 and "report.html (0." in capsys.readouterr().out
    assert "<script" not in text and "&lt;script&gt;alert(&#x27;x&#x27;)&lt;" in text
    for name in ("scores", "curves", "data", "trained", "errors", "calibration", "lineage"):
        assert f'<section id="{name}"' in text, name
    assert text.count("integrated gradients for ") == text.count("Grad-CAM for ") > 0
    assert "The test split is sealed." in text and text.count("data:image/png;base64,") > 3
    result = json.loads((run / "result.json").read_text())
    assert f"val {result['metrics']['val']['accuracy']:.3f}" in plain(text)


def test_what_is_evaluated_again_is_what_the_run_had(run):
    seen, result = look(run, mistakes.KINDS), open_run(run).result["metrics"]["val"]
    right = seen.collected.argmax(-1) == seen.val.labels
    assert right.mean() == pytest.approx(result["accuracy"])
    assert list(seen.alike) == list(seen.moved)[:-1] and all(0 < value <= 1 + 1e-6 for value in seen.alike.values())
    assert list(seen.moved) == list(seen.finished.stage.spec.port.units) and min(seen.moved.values()) > 0


def test_reports_of_the_same_are_the_same(run, tmp_path):
    for name in ("a.html", "b.html"):
        jaxfer.report(run, out=tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_without_evaluation_files_alone_are_read(run, tmp_path):
    written = jaxfer.report(run, out=tmp_path / "x.html", evaluate=False)
    text = written.path.read_text()
    assert 'id="confusion"' in text and 'id="calibration"' not in text and "<img" not in text


def test_data_that_are_gone(run, tmp_path):
    photos = run.parent / "photos"
    photos.rename(run.parent / "elsewhere")
    try:
        text = jaxfer.report(run, out=tmp_path / "x.html").path.read_text()
    finally:
        (run.parent / "elsewhere").rename(photos)
    assert "Mistakes, calibration and movements are missing: " in text and 'id="confusion"' in text


def test_a_comparison(tmp_path):
    folder = comparisons.write(tmp_path / "c", arm=EVIL, baseline=EVIL)
    written = jaxfer.report(folder)
    text = written.path.read_text()
    assert written.title.endswith("helps: test accuracy +0.200 over scratch at 5 labels a class")
    assert "<script" not in text and "1 of 1 transfer helps at 5 labels a class" in text
    assert "0.750 ± 0.635" in text  # 0.05 x 12.706: Student's t of one degree of freedom
    assert "The test split was opened once on 2026-11-30 13:05 UTC" in text
    (folder / "opened.json").write_text('{"time": "noon"}')
    with pytest.raises(InputError, match="opened.json: expected a time, found 'noon'"):
        jaxfer.report(folder)
    (folder / "opened.json").unlink()  # of a comparison that is older: no date is made up
    assert "The test split was opened once, after" in jaxfer.report(folder).path.read_text()


def test_a_finding_that_does_not_stand_counts_as_none(tmp_path):
    """Holm's correction for all arms is the page's too: its title, its first line, its colours and its tables."""
    written = jaxfer.report(comparisons.write(tmp_path / "c", p_holm=0.0501))
    text = written.path.read_text()
    assert written.title.endswith(
        "full helps: test accuracy +0.200 over scratch at 5 labels a class, which does not stand"
    )
    assert "0 of 1 transfer helps at 5 labels a class" in text and "p = 0.050 by Holm" in text
    assert text.count('class="badge even">does not stand</span>') == 2 and 'badge good">' not in text


def test_a_diagnosis_and_a_ranking(tmp_path, capsys):
    finding = dict(severity="severe", kind=EVIL, message=EVIL, fix="x", value=1.0, threshold=None, examples=[])
    diagnosis = dict(findings=[finding], examples={"train": 3}, seconds=1.0, counts={})
    (tmp_path / "d.json").write_text(json.dumps(diagnosis))
    text = jaxfer.report(tmp_path / "d.json", out=tmp_path / "d.html").path.read_text()
    assert "<script" not in text and "1 severe" in text
    score = {"value": 0.5, "seconds": 0.0, "why": ""}
    one = dict(
        init=EVIL, model="m", seconds=1.0, scores={"logme": score}, heuristics={"depth": 3}, layers={}, sha256="a"
    )
    ranking = dict(config="c", by="logme", examples=3, classes=2, candidates=[one], skill={}, versions={})
    (tmp_path / "r.json").write_text(json.dumps(ranking))
    assert "ranks first by logme" in jaxfer.report(tmp_path / "r.json", out=tmp_path / "r.html").title
    text = plain(jaxfer.report(pages.ranking(tmp_path / "r.json"), out=tmp_path / "r.html").path.read_text())
    assert "logme against what runs reached" in text and "Ranking 3 candidates took 4.5 s" in text  # 3 x (1 + 2 x 0.25)
    assert "b 0.700 at 0.4" in text
    (tmp_path / "r.json").write_text('{"candidates": 3}')
    assert main(["report", str(tmp_path / "r.json")]) == 2
    assert "config: expected str, found nothing" in capsys.readouterr().err


def test_a_folder_with_either_and_a_ranking_beside_a_comparison(run, tmp_path):
    (tmp_path / "ranked").mkdir()
    pages.ranking(tmp_path / "ranked" / "rank.json")
    written = jaxfer.report(tmp_path / "ranked")
    assert written.kind == "ranking" and written.path == epath.Path(tmp_path / "ranked" / "report.html")
    pages.diagnosis(tmp_path / "ranked" / "doctor.json")
    with pytest.raises(InputError, match="holds rank.json and doctor.json; name one of the two files"):
        jaxfer.report(tmp_path / "ranked")
    for folder in (comparisons.write(tmp_path / "c"), pages.sweep(tmp_path / "s", run)):
        assert 'id="skill"' not in jaxfer.report(folder, evaluate=False).path.read_text()
        pages.ranking(folder / "rank.json")
        text = jaxfer.report(folder, evaluate=False).path.read_text()
        assert 'id="skill"' in text and "logme against what runs reached" in plain(text)
        (folder / "rank.json").write_text('{"candidates": 3}')
        with pytest.raises(InputError, match="rank.json.*jaxfer rank CONFIG --out=FOLDER"):
            jaxfer.report(folder, evaluate=False)


def test_no_page_holds_an_id_twice(run, tmp_path):
    made = [run, pages.sweep(tmp_path / "s", run), comparisons.write(tmp_path / "c")]
    made += [pages.diagnosis(tmp_path / "d.json"), pages.ranking(tmp_path / "r.json")]
    for number, path in enumerate(made):
        text = jaxfer.report(path, out=tmp_path / f"{number}.html", evaluate=number == 0).path.read_text()
        ids = re.findall(r'\bid="([^"]*)"', text)
        assert ids and sorted(ids) == sorted(set(ids)), path


def test_what_is_refused(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "protocol.json").write_text("{}")
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "cells.json").write_text('[{"name": "a", "folder": "../../x"}]')
    broken = comparisons.write(tmp_path / "broken")
    (broken / "comparison.json").write_text('{"metric": 3}')
    cases = {
        ("none",): "expected a folder of a run, a sweep or a comparison, found nothing",
        ("empty",): "nothing to report on",
        ("half",): "is not finished; run the same `jaxfer compare` command again",
        ("torn.json",): "not readable as JSON",
        ("sweep",): "cells.json",
        ("broken",): "metric: expected str, found 3",
        (str(run), "--out=no/such/x.html"): "expected a file in a folder that exists",
        (str(run), f"--out={run}/result.json"): "expected a file named .html",
        (str(run), "--out="): "expected a file, found ''",
        (str(run), "--limit=0"): "--limit: expected 0.05 to 100 MB",
        (str(run), "--config.lr=1"): "a finished run's config is fixed",
    }
    for (path, *more), message in cases.items():
        assert main(["report", str(tmp_path / path), "--quick", *more]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, (path, more, err)
    assert not list(tmp_path.rglob("*.html"))


def test_a_full_disk(run, tmp_path, capsys):
    """Nothing is left of what didn't fit."""
    with full(8_192):
        assert main(["report", str(run), "--quick", f"--out={tmp_path / 'r.html'}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(LINE) and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_command_that_repeats_it(run, tmp_path):
    """Quoted as a shell takes it."""
    folder = pages.sweep(tmp_path / "s", run)
    text = plain(jaxfer.report(folder, evaluate=False).path.read_text())
    assert "jaxfer sweep &#x27;a b.py&#x27; --config.data.size=8,8 --sampler=random --trials=3" in text
    (folder / "command.json").unlink()
    text = plain(jaxfer.report(folder, evaluate=False).path.read_text())
    assert "NEW_FOLDER" not in text and "CONFIG" not in text
    asked = dict(config="c.py", overrides={"lr": "1"}, candidates=["a", "b"], layers=True, runs=[], seed=0)
    path = pages.ranking(tmp_path / "r.json", command=asked)
    text = plain(jaxfer.report(path).path.read_text())
    assert "jaxfer rank c.py --config.lr=1 --candidates=a,b --layers --seed=0 --out=NEW_FOLDER" in text
    path = pages.diagnosis(tmp_path / "d.json", command=dict(config="c.py", overrides={}, examples=20))
    assert "jaxfer doctor c.py --examples=20 --json" in plain(jaxfer.report(path).path.read_text())
    path = pages.diagnosis(tmp_path / "d.json", command=None)
    assert "jaxfer doctor" not in plain(jaxfer.report(path).path.read_text())


def test_importance_of_a_sweep(run, tmp_path):
    """Optuna's where it is there, else by permutation; each is called what it is."""
    folder = pages.sweep(tmp_path / "s", run)
    text = plain(jaxfer.report(folder, evaluate=False).path.read_text())
    assert (
        "Importance by permutation" in text and "matters most for val accuracy: without it, R² on unseen runs" in text
    )
    (folder / "importance.csv").write_text("field,importance\nlr,0.750000\nwarmup,0.250000\n")
    text = plain(jaxfer.report(folder, evaluate=False).path.read_text())
    assert (
        "Importance by fANOVA" in text and "lr matters most for val accuracy: 75 % of its variance, by fANOVA" in text
    )
    assert "permutation" not in text


def test_what_mattered_among_the_trials_of_a_comparison(run, tmp_path):
    """Whether a run opened the test split is no setting, and a source's run, here that of momentum 0.5, no trial."""
    folder = comparisons.write(tmp_path / "c")
    assert "Importance" not in jaxfer.report(folder).path.read_text()
    shutil.copytree(pages.sweep(tmp_path / "s", run) / "cells", folder / "cells")
    cells = json.loads((tmp_path / "s/cells.json").read_text())
    trials = [cell | {"name": f"full 5 labels trial {i} seed 0"} for i, cell in enumerate(cells)]
    (folder / "cells.json").write_text(json.dumps([*trials[:-1], cells[-1] | {"name": "source"}]))
    for i, place in enumerate((folder / "cells").iterdir()):
        config = json.loads((place / "config.json").read_text())
        more = {"test": i % 2 == 0, "momentum": 0.5 if place.name == cells[-1]["folder"][6:] else 0.9}
        (place / "config.json").write_text(json.dumps(config | more))
    text = plain(jaxfer.report(folder).path.read_text())
    assert "Importance by permutation" in text and re.search(r"[12] fields? differ|matters? most for val", text)
    assert not re.search(r"\b(test|momentum) +[-−]?\d", text.partition("Importance by permutation")[2])


def test_a_sweep_holds_its_best_against_the_default(run, tmp_path):
    """The setting without a field of its own: 0.8 - seed / 100, the best 0.899 - seed / 100."""
    folder = pages.sweep(tmp_path / "s", run)
    index = json.loads((folder / "cells.json").read_text())
    text = plain(jaxfer.report(folder, evaluate=False).path.read_text())
    assert "there is no default to hold the best against" in text
    for cell in index:
        cell["overrides"] |= {"freeze": ["stem/.*"], "seed": 1}
        if cell["group"] == "lr=0.1":
            del cell["overrides"]["lr"]
    (folder / "cells.json").write_text(json.dumps(index))
    pages.diagnosis(folder / "doctor.json")
    found = jaxfer.report(folder, evaluate=False).path.read_text()
    assert "+0.099 [+0.099, +0.099]" in plain(found)
    assert "jaxfer doctor found 1 severe, 1 warning, 1 note in 30 examples of train" in plain(found)
    order = re.findall(r'<section id="([\w-]+)"', found)
    assert order == ["settings", "cost", "curves", "data", "trained", "errors", "what-mattered", "lineage"]


def test_a_sweep_against_its_cost(run, tmp_path):
    """0.89 in 3 seconds, 0.88 in 5, 0.79 in 1: the second is neither better nor faster than the first."""
    folder, took = pages.sweep(tmp_path / "s", run), {0.001: 3, 0.01: 5, 0.1: 1}
    for cell in json.loads((folder / "cells.json").read_text()):
        place = folder / cell["folder"] / "result.json"
        result = json.loads(place.read_text())
        result["cost"] |= {"seconds": 2 + took[cell["overrides"]["lr"]], "compile_seconds": 2}
        place.write_text(json.dumps(result))
    found = jaxfer.report(folder, evaluate=False).path.read_text()
    assert "Nothing is both faster and better than lr=0.1 and lr=0.001" in plain(found)
    assert 'id="cost-seconds"' in found and 'id="cost-parameters"' not in found  # all train as many
    rows = found[found.index('id="cost-seconds"') :].partition("</table>")[0]
    assert re.findall(r">(yes|no)</td>", rows) == ["yes", "no", "yes"]


def test_what_a_run_left_of_an_earlier_task(run, tmp_path):
    """Forgetting is what the run that was started from had reached, minus what is left."""
    later = tmp_path / "later"
    shutil.copytree(run, later)
    for name, change in (("config", {"init": f"run:{run}"}), ("result", {})):
        content = json.loads((later / f"{name}.json").read_text()) | change
        if name == "result":
            before = content["metrics"]["val"]["accuracy"]
            content["metrics"]["val"]["memory/accuracy"] = 0.125
        (later / f"{name}.json").write_text(json.dumps(content))
    assert forgetting.measured([content], [epath.Path(later)], "accuracy") == (0.125, before - 0.125)
    assert forgetting.measured([content], [epath.Path(later)], "loss") == (None, None)
    # Of several memories the one with the source's data and classes is that of the task before, whatever its name.
    val, data = content["metrics"]["val"], content["lineage"]["data_sha256"]
    val |= {"memory_a/accuracy": 0.5, "memory_b/accuracy": 0.25}
    of = {"memory_a": ["other"], "memory_b": content["classes"]}
    content["streams"] = {name: {"classes": classes} for name, classes in of.items()}
    content["lineage"]["streams"] = dict.fromkeys(of, data)
    assert forgetting.measured([content], [epath.Path(later)], "accuracy") == (0.25, before - 0.25)


def test_the_line_of_wise_ft(run, tmp_path):
    result = json.loads((run / "result.json").read_text())
    path = [dict(strength=a, loss=1.0, accuracy=v) for a, v in ((0.0, 0.5), (0.5, 0.75), (1.0, 0.625))]
    merged = result | {"fits": {"merge": dict(rule="wise_ft", strength=0.5, path=path)}}
    (section,) = weights.section({"merge": [merged], "full": [result]}, "accuracy", True)
    assert section.title == "merge is best at strength 0.5: val accuracy 0.750"
    assert weights.section({"full": [result]}, "accuracy", True) == []


def test_groups_side_by_side(run):
    result = json.loads((run / "result.json").read_text())
    result["report"]["val"]["groups"] = {g: dict(accuracy=a, support=8) for g, a in (("day", 0.75), ("night", 0.5))}
    (part,) = groups.side_by_side({"full": [result, result]}, "")
    shown = plain(part.content)
    assert shown.index("night") < shown.index("day") and "0.750" in shown
    assert groups.side_by_side({"full": [{**result, "report": {}}]}, "") == []


def test_groups_are_among_the_errors(run, tmp_path):
    """Of a run, and side by side of a sweep's settings; the confusion may be missing."""
    own = shutil.copytree(run, tmp_path / "run")
    result = json.loads((own / "result.json").read_text())
    result["report"]["val"]["groups"] = {g: dict(accuracy=a, support=8) for g, a in (("day", 0.75), ("night", 0.5))}
    (own / "result.json").write_text(json.dumps(result))
    errors = errors_of(jaxfer.report(own, evaluate=False))
    assert "Groups of val" in errors and 'id="confusion"' in errors
    errors = errors_of(jaxfer.report(pages.sweep(tmp_path / "s", own), evaluate=False))
    assert "Val accuracy of each group, means over the runs" in errors and "lr=0.001" in errors
    del result["report"]["val"]["confusion"]
    (own / "result.json").write_text(json.dumps(result))
    errors = errors_of(jaxfer.report(own, evaluate=False))
    assert "Groups of val" in errors and 'id="confusion"' not in errors


def errors_of(written):
    return written.path.read_text().partition('<section id="errors"')[2].partition("</section>")[0]


def test_a_run_of_a_comparison_says_when_test_was_opened(run, tmp_path):
    """And the comparison names the runs at the default setting, where another one was selected."""
    folder = comparisons.write(tmp_path / "c")
    index = []
    for trial, seed in ((0, 0), (0, 1), (1, 0)):
        place = shutil.copytree(run, folder / "cells" / f"k{trial}{seed}")
        name = f"full 5 labels trial {trial} seed {seed}"
        index.append(dict(name=name, group="", folder=f"cells/{place.name}", overrides={}, status="ok"))
    (folder / "cells.json").write_text(json.dumps(index))
    text = plain(jaxfer.report(folder, evaluate=False).path.read_text())
    assert "cells/k00 cells/k01" in text and "full, default" not in text and "; 2 runs in all" in text
    selection = json.loads((folder / "selection.json").read_text())
    selection["selected"][1]["trial"] = 1
    (folder / "selection.json").write_text(json.dumps(selection))
    text = " ".join(plain(jaxfer.report(folder, evaluate=False).path.read_text()).split())
    assert "full, default at 5 labels a class cells/k00 cells/k01" in text and "; 3 runs in all" in text
    result = json.loads((place / "result.json").read_text())
    result["metrics"]["test"] = result["metrics"]["val"]
    (place / "result.json").write_text(json.dumps(result))
    text = jaxfer.report(place, evaluate=False).path.read_text()
    assert "Its comparison opened the test split on 2026-11-30 13:05 UTC, once" in text
    (folder / "opened.json").unlink()
    assert "The test split was read once the run was done." in jaxfer.report(place, evaluate=False).path.read_text()


def test_labels_saved_and_other_measures_of_a_comparison(tmp_path):
    """In the sentence of the arm that helps, and as columns beside its score."""
    ece = dict(name="ece", maximize=False, before=None)
    alone = ece | dict(test=[0.2, 0.2], outcome=None, effect=None, interval95=None, p_holm=None)
    judged = ece | dict(test=[0.1, 0.1], outcome="helps", effect=0.1, interval95=[0.05, 0.15], p_holm=0.01)
    saved = dict(labels_to_match=12.5, labels_to_match_interval95=[8.0, None])
    more = dict(of_scratch=dict(beside=[alone]), beside=[judged], **saved)
    text = plain(jaxfer.report(comparisons.write(tmp_path / "a", counts=(5, 10), **more)).path.read_text())
    assert text.count("To match it, scratch needs about 12.5 labels a class, 95 % interval from 8 up.") == 2
    assert "−0.100 [−0.150, −0.050]*" in text and "ece over scratch, 95 %" in text
    assert "2 stand (*) by Holm" in text
    text = plain(jaxfer.report(comparisons.write(tmp_path / "b", counts=(5, 10))).path.read_text())
    assert "scratch needs more than 10 labels a class." in text and "ece over scratch" not in text
    text = plain(jaxfer.report(comparisons.write(tmp_path / "c")).path.read_text())
    assert "scratch needs" not in text, "of one label count it is not known"


def test_the_ece_of_equal_widths_is_the_metric(run):
    """A page says both, each with its bins."""
    seen, result = look(run, mistakes.KINDS), open_run(run).result["metrics"]["val"]
    chances = mistakes.classification.softmax(seen.collected.astype(np.float64))
    found = calibration.equal_width(chances.max(-1), chances.argmax(-1) == seen.val.labels)
    assert calibration.error(found) == pytest.approx(result["ece"], abs=1e-6)


def test_many_findings_fit(tmp_path):
    """A page of 12,000 findings, and one of long ones, say what is not on them."""
    written = jaxfer.report(pages.diagnosis(tmp_path / "d.json", findings=12_000), out=tmp_path / "d.html")
    text = plain(written.path.read_text())
    assert written.size < 500_000 and "11,500 more findings are in the file alone." in text
    assert "4,000 severe, 4,000 warnings, 4,000 notes" in text and "30 examples were looked at" in text
    found = json.loads((tmp_path / "d.json").read_text())
    found["findings"] = [one | {"message": "x" * 10_000} for one in found["findings"][:500]]
    (tmp_path / "d.json").write_text(json.dumps(found))
    written = jaxfer.report(tmp_path / "d.json", out=tmp_path / "d.html")
    assert written.size <= 2_000_000 and written.left_out[-1] == "findings 481 to 500"


def test_a_pair_is_of_one_seed_and_one_set_of_data():
    """Two sets of data and two seeds: gains 0.1 and 0.3 on one, 0.2 and 0.4 on the other."""
    results = [{"seed": s, "lineage": {"data_sha256": d}} for d in "ab" for s in (0, 1)]
    one = settings.Group("one", (), tuple(results), (0.6, 0.8, 0.7, 0.9))
    other = settings.Group("other", (), tuple(results), (0.5, 0.5, 0.5, 0.5))
    gain = statistics.fmean((0.1, 0.3, 0.2, 0.4))
    assert f"+{gain:.3f} [" in settings.against_default(one, other, "accuracy").content
    twice = settings.Group("one", (), tuple(results[:1] * 4), one.scores)
    assert "[" not in plain(settings.against_default(twice, other, "accuracy").content).split("csv")[0]
