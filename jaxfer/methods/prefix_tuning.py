"""Prefix tuning: learned keys and values that all tokens see in every block; the backbone stays frozen.

Li and Liang, 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", arXiv:2101.00190, section 4. They are
no tokens: nothing is made of them, and positions and masks of the tokens stay. While they are trained they come out of
an MLP, as in section 4.3: kernel tanh(hidden p + c) + bias, p being a learned row for each place. Without it
(`hidden=0`) they are learned themselves, peft's default. The start is not the source model: even a zero key takes a
share of attention. All attentions share p and c; encoder, decoder and the decoder's attention to the memory have their
own in the reference code (`apart`). A block that is run several times has one prefix. peft hands prefixes over as a
cache of earlier tokens (`form="peft"`), so that a text's own move on by as many learned positions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError, nearest
from jaxfer.method import FROZEN, Method, without
from jaxfer.methods import _prompts
from jaxfer.methods._blocks import blocks
from jaxfer.models.attention import DotProductAttention
from jaxfer.models.execution import PLAIN
from jaxfer.models.port import Port

FORMS = ("paper", "peft")
STD = 0.02  # of keys and values that are learned themselves


def method(port: Port, *, tokens: int = 20, hidden: int = 512, form: str = "paper", apart: bool = False) -> Method:
    """Groups: `prefix_tuning`, `head`.

    Args:
      port: a transformer.
      tokens: keys and values of each attention.
      hidden: channels of the MLP, 512 and 800 in the paper; 0: none.
      form: `paper`; `peft`, for models with a table of positions: what peft computes, for its files.
      apart: whether encoders, decoders, towers and attention to a memory have rows and the MLP's first layer each.
    """
    if tokens < 1:
        raise InputError(f"prefix_tuning: expected tokens >= 1, found {tokens}")
    if hidden < 0:
        raise InputError(f"prefix_tuning: expected hidden >= 0, found {hidden}; 0 has no MLP")
    if form not in FORMS:
        raise InputError(f"prefix_tuning: unknown form {form!r}{nearest(str(form), FORMS)}")

    taken_over = form == "peft" and not hidden  # from a file of peft

    def init(params, key, given):
        leaves, sites = rules.flatten(params), attentions(port)
        if not sites:
            raise InputError("prefix_tuning: the model has no transformer blocks whose attention takes keys; use lora")
        if form == "peft":
            if f"{port.units[0]}/position/embedding" not in leaves:
                raise InputError(
                    "prefix_tuning: form='peft' moves tokens on in a table of positions, which this model does not "
                    "have; use form='paper'"
                )
            _prompts.check_places(port, "prefix_tuning", tokens)
        channels, keys = sum(map(math.prod, sites.values())), jax.random.split(key, 3)
        if not hidden:
            parts = _parts(STD * jax.random.normal(keys[0], (2, tokens, channels)), sites)
            learned = rules.unflatten({f"{site}/prefix": parts[site] for site in sites})
            return {**params, "prefix_tuning": _prompts.former(given, learned) if taken_over else learned}, {}
        last = jax.random.uniform(keys[2], (1 + hidden, 2, channels), minval=-1.0) / math.sqrt(hidden)
        learned = {site: {"kernel": part[1:], "bias": part[0]} for site, part in _parts(last, sites).items()}
        # Drawn as torch does: rows from N(0, 1), kernel and bias of a layer (here its first row) uniformly.
        for i, (top, block) in enumerate(_tops(sites, blocks(leaves), apart).items()):
            width = leaves[f"{block}/mlp/fc2/kernel"].shape[-1]
            rows, inner = (jax.random.fold_in(key, i) if i else key for key in keys[:2])
            layer = jax.random.uniform(inner, (1 + width, hidden), minval=-1.0) / math.sqrt(width)
            learned[f"{top}/rows"] = jax.random.normal(rows, (tokens, width))
            learned[f"{top}/hidden"] = {"kernel": layer[1:], "bias": layer[0]}
        return {**params, "prefix_tuning": rules.unflatten(rules.flatten(learned))}, {}

    view = without("prefix_tuning")

    def intercept(params, extra):
        prefixes = made(params["prefix_tuning"], port)
        table = f"{port.units[0]}/position" if form == "peft" else None

        def see(next_fun, args, kwargs, context):
            if context.method_name == "__call__" and (path := "/".join(context.module.path)) in prefixes:
                kwargs = {**kwargs, "prefix": prefixes[path]}
            elif context.method_name == "__call__" and path == table:
                args = (args[0] + tokens, *args[1:])
            return next_fun(*args, **kwargs)

        return see

    return Method(
        rules=(("prefix_tuning/.*", "prefix_tuning"), (f"{port.head}/.*", "head"), (".*", FROZEN)),
        init=init,
        view=view,
        intercept=intercept,
        merge=None,
        former=(lambda params, extra: params["prefix_tuning"]) if taken_over else None,
        hparams={"lr": (1e-3, (3e-4, 1e-3, 3e-3, 1e-2))},
    )


def made(learned, port: Port) -> dict[str, tuple[jax.Array, jax.Array]]:
    """{path of an attention: its keys and values, [tokens, heads, width] each}, from the method's parameters."""
    leaves, sites, inside = rules.flatten(learned), attentions(port), {}
    for top in [path.removesuffix("/rows") for path in leaves if path.endswith("/rows")]:
        kernel, bias = (leaves[f"{top}/hidden/{name}"] for name in ("kernel", "bias"))
        inside[_stack(top)] = jnp.tanh(leaves[f"{top}/rows"] @ kernel + bias)

    def prefix(site):
        if not inside:
            return tuple(leaves[f"{site}/prefix"])
        own = inside[_stack(site)] if len(inside) > 1 else next(iter(inside.values()))
        both = jnp.tensordot(own, leaves[f"{site}/kernel"], 1) + leaves[f"{site}/bias"]
        return both[:, 0], both[:, 1]

    return {site: prefix(site) for site in sites}


def _tops(sites: Mapping[str, tuple[int, int]], found: tuple[str, ...], apart: bool) -> dict[str, str]:
    """{where rows and the MLP's first layer are: the first block that they are for}."""
    if not apart:
        return {found[0].split("/")[0]: found[0]}
    firsts: dict[tuple[str, bool], str] = {}
    for site in sites:
        firsts.setdefault(_stack(site), site)
    tops = {}
    for (_, crossed), site in firsts.items():
        block = next(block for block in found if site.startswith(f"{block}/"))
        tops[block.split("/")[0] + ("/cross" if crossed else "")] = block
    return tops


def _stack(path: str) -> tuple[str, bool]:
    """(`encoder`, `text`, `block`, ...: what blocks of a stack are called, whether it is attention to a memory)."""
    return re.match("[a-z]*", path)[0], "cross" in path.split("/")


@functools.lru_cache(maxsize=64)
def attentions(port: Port) -> Mapping[str, tuple[int, int]]:
    """{path of an attention in a transformer block: (heads of its keys, channels of one)}."""
    port, found = dataclasses.replace(port, execution=PLAIN), {}

    def watch(next_fun, args, kwargs, context):
        if isinstance(context.module, DotProductAttention) and context.method_name == "__call__":
            found["/".join(context.module.path)] = args[1].shape[2:]
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(watch):
        params, _ = jax.eval_shape(lambda *given: port.init(*given), jax.random.key(0), port.example(2))
    inside = tuple(f"{block}/" for block in blocks(rules.flatten(params)))
    return {path: shape for path, shape in found.items() if path.startswith(inside)}


def _parts(drawn: jax.Array, sites: Mapping[str, tuple[int, int]]) -> dict[str, jax.Array]:
    """{site: its channels [..., heads, width]} of the last axis."""
    parts, taken = {}, 0
    for site, shape in sites.items():
        size = math.prod(shape)
        parts[site] = drawn[..., taken : taken + size].reshape(*drawn.shape[:-1], *shape)
        taken += size
    return parts
