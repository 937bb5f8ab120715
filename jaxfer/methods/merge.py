"""Merging: finished networks of this model become one, without a step: soups, WiSE-FT, task vectors, Fisher, RegMean.

`jaxfer/merging` has the rules and their papers. What a rule can choose (how many networks, how strong a change) is
chosen on val. `jaxfer merge` writes the config. WiSE-FT's code can weigh the two ends by Fisher information, which the
paper does not: `fisher` is the rule for that, with the start among the `networks`.
"""

from __future__ import annotations

from jaxfer.merging import merging
from jaxfer.method import Method
from jaxfer.models.port import Port


def method(
    port: Port,
    *,
    rule: str = "uniform",
    networks: tuple[str, ...] = (),
    strengths: tuple[float, ...] | None = None,
    density: float | None = None,
    shrink: float | None = None,
    expected: bool | None = None,
) -> Method:
    """Groups: `head`, `backbone`. Networks: those of `config.networks` that `networks` names.

    Args:
      port: the model.
      rule: `uniform`, `greedy`, `wise_ft`, `arithmetic`, `ties`, `dare`, `fisher` or `regmean`.
      networks: names of the networks.
      strengths: of the change, for `wise_ft`, `arithmetic`, `ties` and `dare`; the best on val is kept.
      density: share of a task vector that `ties` and `dare` keep.
      shrink: factor of a Gram matrix's entries off the diagonal, for `regmean`.
      expected: for `fisher`, whether its information is over the classes that a network expects, as in the paper: a
        gradient of each example for each class, of classification alone. False: of the labels, one gradient.
    """
    given = {"strengths": strengths, "density": density, "shrink": shrink, "expected": expected}
    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        others=networks,
        merging=merging(rule, networks, given, "merge"),
        hparams={},
    )
