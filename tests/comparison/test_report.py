"""The table of a comparison on a terminal of 40, 80 or 120 columns, and in a pipe."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jaxfer.comparison import tables
from jaxfer.comparison.findings import Finding
from jaxfer.comparison.simple import BaselineScores
from jaxfer.evals.intervals import Interval
from jaxfer.evals.verdicts import Verdict
from jaxfer.terminal import FILE, Page

STAGE = SimpleNamespace(spec=SimpleNamespace(task=SimpleNamespace(monitor="accuracy")))
PLAN = SimpleNamespace(ready=SimpleNamespace(stages=[STAGE]), labels=(5,))
COMMON = dict(labels=5, val=0.5, seconds=1.25, params_trainable=77429, steps=80, curves=())
COMMON |= {"curve_label": "val accuracy"}
EFFECT = Interval(mean=0.05, low=-0.01, high=0.11, name="t")
FOUND = [
    Finding(arm="scratch", setting={"lr": 0.001}, test=(0.5,), default=(0.5,), **COMMON),
    Finding(
        arm="lora",
        setting={"lr": 0.003, "rank": 8},
        test=(0.55,),
        default=(0.5,),
        verdict=Verdict("lora", "no evidence", EFFECT, "lora: no evidence.", p=0.08),
        p_holm=0.08,
        **COMMON,
    ),
]
BASELINES = [BaselineScores(labels=5, name="logistic regression", setting=0.1, val=(0.5,), best=0.5, test=(0.6,))]
WIDE = """
                     test accuracy,                                                           trainable
method                        tuned  default  over scratch, 95 %       verdict      seconds  parameters  setting
scratch                       0.500    0.500                                            1.2      77,429  lr=0.001
lora                          0.550    0.500  +0.050 [-0.010, +0.110]  no evidence      1.2      77,429  lr=0.003 rank=8
logistic regression           0.600                                                                      0.1
"""
MEDIUM = """
                          test
                     accuracy,                                                   trainable
method                   tuned  default  over scratch, 95 %  verdict   seconds  parameters  setting
scratch                  0.500    0.500                                    1.2      77,429  lr=0.001
lora                     0.550    0.500  +0.050              no            1.2      77,429  lr=0.003
                                         [-0.010, +0.110]    evidence                       rank=8
logistic regression      0.600                                                              0.1
"""
USUAL = """
scratch
  test accuracy, tuned: 0.500  default: 0.500  seconds: 1.2
  trainable parameters: 77,429  setting: lr=0.001
lora
  test accuracy, tuned: 0.550  default: 0.500
  over scratch, 95 %: +0.050 [-0.010, +0.110]  verdict: no evidence
  seconds: 1.2  trainable parameters: 77,429  setting: lr=0.003 rank=8
logistic regression
  test accuracy, tuned: 0.600  setting: 0.1
"""
NARROW = """
scratch
  test accuracy, tuned: 0.500
  default: 0.500  seconds: 1.2
  trainable parameters: 77,429
  setting: lr=0.001
lora
  test accuracy, tuned: 0.550
  default: 0.500
  over scratch, 95 %: +0.050
    [-0.010, +0.110]
  verdict: no evidence  seconds: 1.2
  trainable parameters: 77,429
  setting: lr=0.003 rank=8
logistic regression
  test accuracy, tuned: 0.600
  setting: 0.1
"""


@pytest.mark.parametrize(("width", "text"), [(120, WIDE), (100, MEDIUM), (80, USUAL), (40, NARROW)])
def test_the_table_of_a_comparison(width, text):
    assert tables.as_text(PLAN, FOUND, BASELINES, Page(width)) == text.strip("\n")
    assert max(map(len, text.splitlines())) <= width


def test_a_pipe_gets_a_line_for_each_arm():
    assert tables.as_text(PLAN, FOUND, BASELINES, FILE).splitlines()[2] == (
        "lora                                0.550    0.500  +0.050 [-0.010, +0.110]  no evidence      1.2"
        "                77,429  lr=0.003 rank=8"
    )


@pytest.mark.parametrize(
    ("outcome", "p_holm", "arms", "said"),
    [
        ("helps", 0.0123, 3, "lora helps. It stands among 3 arms: p = 0.012 by Holm."),
        ("helps", 0.0002, 2, "lora helps. It stands among 2 arms: p < 0.001 by Holm."),
        ("negative transfer", 0.09, 3, "lora helps. It does not stand among 3 arms: p = 0.090 by Holm."),
        ("no evidence", 0.3, 3, "lora helps."),
        ("helps", 0.01, 1, "lora helps."),
    ],
)
def test_a_finding_among_several_says_whether_it_stands(outcome, p_holm, arms, said):
    verdict = Verdict("lora", outcome, EFFECT, "lora helps.", p=0.01)
    finding = Finding(arm="lora", setting={}, test=(), default=(), verdict=verdict, p_holm=p_holm, **COMMON)
    assert tables._line(finding, first=False, arms=arms) == said
