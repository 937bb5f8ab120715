"""FiLM: the channels behind each norm of a convolutional network are scaled and shifted; the backbone stays frozen.

Perez et al., 2017, "FiLM: Visual Reasoning with a General Conditioning Layer", arXiv:1709.07871, eq. 2:
gamma_c * x_c + beta_c. There a network gives gamma and beta for each question. Here they are parameters of the task, as
in FLUTE (Triantafillou et al., 2021, arXiv:2105.07029), and begin at 1 and 0, the source model. Norms take them up.
Norms of batch statistics are frozen with the backbone, and use their running ones.
"""

from __future__ import annotations

from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _modulation
from jaxfer.methods._blocks import blocks
from jaxfer.models.port import Port
from jaxfer.rules import flatten


def method(port: Port) -> Method:
    """Groups: `film`, `head`.

    Args:
      port: a convolutional network with norms.
    """
    sites = {path: layer for path, layer in _modulation.layers(port).items() if layer.leaf == "scale"}

    def init(params, key, given):
        leaves = flatten(params)
        if blocks(leaves) or not any(leaf.ndim == 4 for leaf in leaves.values()):  # kernel [kh, kw, in, out]
            raise InputError("film: scales the channels of a convolutional network, and this model is none; use ssf")
        if not sites:
            raise InputError("film: the convolutional network has no norms to put it behind; use ssf")
        return {**params, "film": _modulation.drawn(sites, key, 0.0)}, {}

    view = without("film")

    return Method(
        rules=(("film/.*", "film"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=view,
        intercept=lambda params, extra: _modulation.modulated(params["film"]),
        merge=lambda params, extra: _modulation.merged(view(params, extra), params["film"], sites),
        hparams={"lr": (3e-3, (1e-3, 3e-3, 1e-2))},
    )
