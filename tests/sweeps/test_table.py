"""The table of a sweep on a terminal of 40, 80 or 120 columns."""

from __future__ import annotations

import math

import pytest

from jaxfer.sweeps.table import Row, as_text
from jaxfer.terminal import Page

ROWS = [
    Row(
        group="lr=0.001", scores=(0.5, 0.7), mean=0.6, interval=0.1, seconds=1.25, params_trainable=77429, compiles=1,
        failed=0, diverged=0,
    ),
    Row(
        group="lr=0.3,weight_decay=0.05,warmup=100", scores=(), mean=math.nan, interval=math.nan, seconds=math.nan,
        params_trainable=0, compiles=0, failed=0, diverged=2,
    ),
]  # fmt: skip


WIDE = """
method                               val accuracy  95 % interval  seconds  trainable parameters  compiles  diverged
lr=0.001                                    0.600        ± 0.100      1.2                77,429         1         0
lr=0.3,weight_decay=0.05,warmup=100             -              -        -                     0         0         2
"""
USUAL = """
                          val      95 %            trainable
method               accuracy  interval  seconds  parameters  compiles  diverged
lr=0.001                0.600   ± 0.100      1.2      77,429         1         0
lr=0.3,we…armup=100         -         -        -           0         0         2
"""
NARROW = """
lr=0.001
  val accuracy: 0.600
  95 % interval: ± 0.100  seconds: 1.2
  trainable parameters: 77,429
  compiles: 1  diverged: 0
lr=0.3,weight_decay=0.05,warmup=100
  val accuracy: -  95 % interval: -
  seconds: -  trainable parameters: 0
  compiles: 0  diverged: 2
"""


@pytest.mark.parametrize(("width", "text"), [(None, WIDE), (120, WIDE), (80, USUAL), (40, NARROW)])
def test_the_table_of_a_sweep(width, text):
    assert as_text(ROWS, "val accuracy", Page(width)) == text.strip("\n")
    assert width is None or max(map(len, text.splitlines())) <= width
