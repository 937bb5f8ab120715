"""Prompt tuning: learned tokens in front of every text are all that a frozen model of texts is given to adapt.

Lester et al., 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv:2104.08691. They come in with
what the first block reads, and leave behind the last one; an encoder-decoder's stay, and its decoder sees them. Tokens
keep their places, their mask and whatever is pooled of them: a class token is still the first token of the text. peft
puts prompts before the embeddings are summed, so that tokens move on by as many positions and an encoder pools prompt
0. For attention without relative positions it is of no account where a prompt stands.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError, nearest
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _prompts
from jaxfer.models.heads import SEQ2SEQ
from jaxfer.models.port import Port

STARTS = ("vocab", "uniform")
MOST = 0.5  # of a uniform start


def method(port: Port, *, tokens: int = 20, start: str = "vocab") -> Method:
    """Groups: `prompt_tuning`, `head`.

    Args:
      port: a transformer that reads texts.
      tokens: that are learned; the paper's have 1 to 150.
      start: `vocab`: what the model makes of random tokens of its vocabulary, each as the first of a text; `uniform`:
        on -0.5 to 0.5.
    """
    if tokens < 1:
        raise InputError(f"prompt_tuning: expected tokens >= 1, found {tokens}")
    if start not in STARTS:
        raise InputError(f"prompt_tuning: unknown start {start!r}{nearest(str(start), STARTS)}")

    def init(params, key, given):
        if port.encoding.column != "text":
            raise InputError(f"prompt_tuning: reads texts, and this model reads {port.encoding.noun}; use lora")
        (first, *_), width = _prompts.hosts(port, "prompt_tuning")
        drawn = jax.random.uniform(key, (tokens, width), minval=-MOST, maxval=MOST)
        if start == "vocab":
            drawn = _embedded(port, params, first, jax.random.randint(key, (tokens,), 0, port.encoding.vocab))
        return {**params, "prompt_tuning": {first: {"prompts": drawn}}}, {}

    view = without("prompt_tuning")

    def intercept(params, extra):
        units = _prompts.hosts(port, "prompt_tuning")[0]
        prompts = {unit: leaves["prompts"] for unit, leaves in params["prompt_tuning"].items()}
        after = port.units[port.units.index(units[0]) :]
        decodes = getattr(port.module, "head", "") == SEQ2SEQ
        masked, ends = (after, ()) if decodes else (units, units[-1:])
        return _prompts.among(prompts, dict.fromkeys((*prompts, *ends), (0, 0)), ends, masked)

    return Method(
        rules=(("prompt_tuning/.*", "prompt_tuning"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=view,
        intercept=intercept,
        merge=None,
        hparams={"lr": (1e-2, (3e-3, 1e-2, 3e-2))},
    )


def _embedded(port, params, first, ids):
    """[tokens, width]: what the units before the first block make of each id at the first place of a text."""
    fields = {name: jnp.zeros(like.shape, like.dtype) for name, like in port.example(len(ids)).items()}
    name, mask = port.inputs[0], fields["attention_mask"]
    shape = (len(ids), *(1,) * (mask.ndim - 1))
    fields |= {name: fields[name] + ids.reshape(shape).astype(fields[name].dtype), "attention_mask": mask + 1}
    found = port.apply(params, {}, fields, end=port.units[port.units.index(first) - 1])[0]
    return found.reshape(len(ids), -1, found.shape[-1])[:, 0]
