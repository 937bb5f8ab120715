"""SSF: what each layer gives is scaled and shifted, channel by channel; the backbone stays frozen.

Lian et al., 2022, "Scaling and Shifting Your Features", arXiv:2210.08823, section 3.2: y = gamma * x + beta, after
every layer and norm below the output layer, gamma drawn from N(1, 0.02), beta from N(0, 0.02): near the source model,
and not the same. Kernels, norms and biases take both up. A layer without a bias has no beta, which nothing could take
up; such convolutions have a norm behind them, which has one. Standardised kernels (BiT) have neither. Norms of batch
statistics are frozen with the backbone, and use their running ones.
"""

from __future__ import annotations

from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _modulation
from jaxfer.models.port import Port


def method(port: Port, *, std: float = 0.02) -> Method:
    """Groups: `ssf`, `head`.

    Args:
      port: the model.
      std: of the draws; 0 begins at the source model.
    """
    if not 0 <= std < 1:
        raise InputError(f"ssf: expected std in [0, 1), found {std}")
    sites = _modulation.layers(port)

    def init(params, key, given):
        return {**params, "ssf": _modulation.drawn(sites, key, std)}, {}

    view = without("ssf")

    return Method(
        rules=(("ssf/.*", "ssf"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=view,
        intercept=lambda params, extra: _modulation.modulated(params["ssf"]),
        merge=lambda params, extra: _modulation.merged(view(params, extra), params["ssf"], sites),
        hparams={"lr": (5e-3, (1e-3, 5e-3, 1e-2))},
    )
