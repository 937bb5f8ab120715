"""TENT, an add-on: evaluation lowers the entropy of its predictions, batch by batch, by the norms' scales and biases.

Wang et al., 2021, "Tent: Fully Test-time Adaptation by Entropy Minimization", arXiv:2006.10726, section 3. Norms
are normalised by the statistics of the batch, never by running ones. The prediction of a batch is made before the step
of Adam on their affine parameters, which the next batch has the use of; of several steps, before the last one. The
paper has batch norms; layer, group and RMS norms are adapted likewise.

Training, single predictions and exports are unchanged; metrics `raw/...` are those of the network as it was trained. A
finished network is adapted by a run of `probe` that starts from it (`config.init`), of one step at lr=0, which leaves
running statistics as they are too. What is selected on val is selected after adapting to it.
"""

from __future__ import annotations

import dataclasses

import jax
import optax

from jaxfer.errors import InputError
from jaxfer.method import Adapting, Method
from jaxfer.methods import _adapting, _kernels
from jaxfer.models.execution import NORMS
from jaxfer.models.port import Port
from jaxfer.rules import flatten, unflatten


def add(method: Method, port: Port, *, reset: str = "", adapt_rate: float = 1e-3, adapt_steps: int = 1) -> Method:
    """The method, which adapts at evaluation, to batches of `config.eval_batch_size` examples: 200 in the paper.

    Args:
      method: of the task classification.
      port: a model with norms.
      reset: `episodic`: every batch starts from the trained network; `online`: each evaluation does; `continual`: as
        `online`, but `jaxfer.robustness` keeps what was adapted from one corruption to the next. No default: what is
        reported depends on it.
      adapt_rate: of Adam.
      adapt_steps: of each batch.
    """
    _adapting.check("tent", method, reset, adapt_rate=adapt_rate, adapt_steps=adapt_steps)
    norms = [path for path, module in _kernels.modules(port).items() if isinstance(module, NORMS)]

    def affine(params):
        leaves = flatten(params)
        return {path: x for path, x in leaves.items() if path.rsplit("/", 1)[0] in norms}

    def init(params, key, given):
        if not affine(params):
            raise InputError("tent: the model has no norms with scales and biases; leave the add-on out")
        return method.init(params, key, given)

    def start(params):
        leaves = affine(params)
        return {"leaves": leaves, "opt": optax.adam(adapt_rate).init(leaves)}

    def step(kept, params, forward, batch):
        def loss(leaves):
            outputs = forward(unflatten({**flatten(params), **leaves}))
            return _adapting.entropy(outputs), outputs

        leaves, opt = kept["leaves"], kept["opt"]
        for _ in range(adapt_steps):
            gradients, outputs = jax.grad(loss, has_aux=True)(leaves)
            leaves, opt = _adapting.moved(adapt_rate, gradients, opt, leaves)
        return outputs, {"leaves": leaves, "opt": opt}

    return dataclasses.replace(
        method,
        init=init,
        adapt=Adapting(start=start, step=step, reset=reset),
        tasks=("classification",),
    )
