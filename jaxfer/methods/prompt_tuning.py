"""Prompt tuning: learned tokens in front of every text are all that a frozen model of texts is given to adapt.

Lester et al., 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv:2104.08691, section 2: [P; X].
They come in with what the first block reads, and leave behind the last one; an encoder-decoder's stay, and its decoder
sees them. Tokens keep their places, their mask and whatever is pooled of them: a class token is still the first token
of the text. For attention without relative positions it is of no account where a prompt stands. peft's form
(`form="peft"`) puts prompts among the tokens' embeddings, before positions and types are added: tokens move on by as
many positions, and an encoder pools prompt 0 in place of its class token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError, nearest
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _prompts
from jaxfer.models.heads import POOLED, SEQ2SEQ
from jaxfer.models.port import Port
from jaxfer.rules import flatten

STARTS = ("vocab", "uniform")
FORMS = ("paper", "peft")
MOST = 0.5  # of a uniform start


def method(port: Port, *, tokens: int = 20, start: str = "vocab", form: str = "paper") -> Method:
    """Groups: `prompt_tuning`, `head`.

    Args:
      port: a transformer that reads texts.
      tokens: that are learned; the paper's have 1 to 150.
      start: `vocab`: what the model makes of random tokens of its vocabulary, each as the first of a text; `uniform`:
        on -0.5 to 0.5.
      form: `paper`; `peft`, for encoders with their own pooler: what peft computes, for its files.
    """
    if tokens < 1:
        raise InputError(f"prompt_tuning: expected tokens >= 1, found {tokens}")
    if start not in STARTS:
        raise InputError(f"prompt_tuning: unknown start {start!r}{nearest(str(start), STARTS)}")
    if form not in FORMS:
        raise InputError(f"prompt_tuning: unknown form {form!r}{nearest(str(form), FORMS)}")

    taken_over = form == "peft"  # from a file of peft

    def init(params, key, given):
        if port.encoding.column != "text":
            raise InputError(f"prompt_tuning: reads texts, and this model reads {port.encoding.noun}; use lora")
        (first, *_), width = _prompts.hosts(port, "prompt_tuning")
        if form == "peft":
            table = _table(port, params, tokens)
            drawn = jax.random.uniform(key, (tokens, table.shape[1]), minval=-MOST, maxval=MOST)
            drawn = table[jax.random.randint(key, (tokens,), 0, len(table))] if start == "vocab" else drawn
            learned = _prompts.former(given, {port.units[0]: {"prompts": drawn}})
            return {**params, "prompt_tuning": learned}, {}
        drawn = jax.random.uniform(key, (tokens, width), minval=-MOST, maxval=MOST)
        if start == "vocab":
            drawn = _embedded(port, params, first, jax.random.randint(key, (tokens,), 0, port.encoding.vocab))
        return {**params, "prompt_tuning": {first: {"prompts": drawn}}}, {}

    view = without("prompt_tuning")

    def intercept(params, extra):
        units = _prompts.hosts(port, "prompt_tuning")[0]
        if form == "peft":
            return _embedding(params["prompt_tuning"][port.units[0]]["prompts"], port.units[0], units)
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
        former=(lambda params, extra: params["prompt_tuning"]) if taken_over else None,
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


def _table(port, params, tokens):
    """The embeddings of words, [vocab, width]; `InputError` for a model that peft's form is not of."""
    stem, leaves = port.units[0], flatten(params)
    if getattr(port.module, "head", "") != POOLED or getattr(port.options, "pool", "") != "pooler":
        raise InputError(
            "prompt_tuning: form='peft' is of encoders whose own pooler reads the first token, which is a prompt then; "
            "use form='paper'"
        )
    if f"{stem}/position/embedding" in leaves:
        _prompts.check_places(port, "prompt_tuning", tokens)
    return leaves[f"{stem}/word/embedding"]


def _embedding(prompts, stem, blocks):
    """Interceptor: the stem reads as many tokens more, in front, whose embeddings are the prompts."""
    count = len(prompts)

    def intercept(next_fun, args, kwargs, context):
        unit = "/".join(context.module.path)
        if context.method_name != "__call__" or unit not in (stem, f"{stem}/word", *blocks):
            return next_fun(*args, **kwargs)
        if unit == f"{stem}/word":
            y = next_fun(*args, **kwargs)
            tokens = jnp.broadcast_to(prompts.astype(y.dtype), (len(y), *prompts.shape))
            return jnp.concatenate([tokens, y[:, count:]], 1)
        more = {"token_type_ids": 0} if unit == stem else {"attention_mask": 1}
        for field, value in more.items():
            if (given := kwargs.get(field)) is not None:
                kwargs = {**kwargs, field: jnp.pad(given, ((0, 0), (count, 0)), constant_values=value)}
        x = jnp.pad(args[0], ((0, 0), (count, 0))) if unit == stem else args[0]
        return next_fun(x, *args[1:], **kwargs)

    return intercept
