"""TSDAE: a text that lost most of its tokens becomes one vector, from which a decoder finds the whole text. No labels.

Wang et al., 2021, "TSDAE: Using Transformer-based Sequential Denoising Auto-Encoder for Unsupervised Sentence Embedding
Learning", arXiv:2104.06979, eqs. 1 to 3: the cross-entropy of each token after those before it and the vector, the mean
over the tokens of the batch. Each token is deleted at random, but the first, the last ([CLS] and [SEP] of BERT), and
one of the others; the authors' code deletes words. Their decoder is the network itself (`tied`), in which a token sees
those before it and attends to the vector. Without that it is a small transformer of its own, at a fraction of the cost,
that reads and scores tokens by the network's word embedding. Attention to one vector is a linear map of it, whatever
asks: that is what each layer adds to the tokens, beside their own attention where the decoder is tied (the authors'
code has a norm of its own there).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import InputError
from jaxfer.method import Method, without
from jaxfer.methods import _decoder, _dense, _domains, _embeddings
from jaxfer.methods._blocks import blocks
from jaxfer.methods.prefix_tuning import attentions
from jaxfer.models.layers import like
from jaxfer.models.port import FEATURES, Interceptor, Port
from jaxfer.rules import flatten

STD = 0.02  # of the positions
DELETED = 2  # folded into a step's key


def method(port: Port, *, layers: int = 1, tied: bool = False) -> Method:
    """Groups: `decoder`, `backbone`.

    Args:
      port: a transformer of texts.
      layers: blocks of the decoder, as wide as the word embedding.
      tied: whether the network's own blocks are the decoder.

    Hparam: `delete`, the share of the tokens that is deleted.
    """
    if layers < 1:
        raise InputError(f"options.layers: expected at least 1, found {layers}")
    unit, view, table = port.units[-1], without("decoder"), _embeddings.table(port)

    def init(params, key, given):
        words = flatten(params).get(f"{table}/embedding")
        if words is None or port.encoding.column != "text":
            raise InputError(
                f"tsdae: reads texts by a table of words, and this model reads {port.encoding.noun}; use simclr"
            )
        _domains.check_vectors("tsdae", port)
        (rows, width), keys, found = words.shape, jax.random.split(key, 3), blocks(flatten(params))
        if tied and (not found or flatten(params)[f"{found[-1]}/attn/out/kernel"].shape[-1] != width):
            raise InputError("tsdae: tied is of transformer blocks as wide as their word embedding; leave it out")
        depth = len(found) if tied else layers
        maps = [_dense.drawn(key, [*port.features, width])["layer_0"] for key in jax.random.split(keys[0], depth)]
        decoder = {"vector": jax.tree.map(lambda *leaves: jnp.stack(leaves), *maps), "bias": jnp.zeros(rows)}
        if not tied:
            decoder |= {
                "pos": STD * jax.random.normal(keys[1], (port.encoding.max_length, width)),
                **_decoder.drawn(keys[2], width, layers),
            }
        return {**params, "decoder": {unit: decoder}}, {}

    def loss(ctx, outputs):
        ids, mask = ctx.batch["input_ids"], ctx.batch["attention_mask"]
        key = jax.random.fold_in(ctx.key, DELETED)
        fewer = without_some(key, {name: ctx.batch[name] for name in port.inputs}, ctx.hparams["delete"])
        passed = ctx.forward(view(ctx.params, ctx.extra), other=fewer, train=True, taps=(FEATURES,))
        vector, words = passed.taps[FEATURES].astype(jnp.float32), flatten(ctx.params)[f"{table}/embedding"]
        decoder = ctx.params["decoder"][unit]
        if tied:
            how = {"train": True, "taps": (port.units[-2],), "intercept": reading(port, decoder, vector)}
            tokens = ctx.forward(view(ctx.params, ctx.extra), **how).taps[port.units[-2]][:, :-1]
            logits = tokens.astype(jnp.float32) @ words.T + decoder["bias"]
        else:
            logits = scores(decoder, words, vector, ids[:, :-1])
        return cross_entropy(logits, ids[:, 1:], mask[:, 1:]), {}

    return Method(
        rules=(("decoder/.*", "decoder"), (".*", "backbone")),
        init=init,
        view=view,
        loss=loss,
        merge=view,
        tasks=("unlabelled",),
        whole_batch=True,  # the mean is over tokens, of which texts have more or fewer
        hparams={"lr": (3e-5, (1e-5, 3e-5, 1e-4)), "delete": (0.6, (0.4, 0.6, 0.8))},
        limits={"delete": (0.0, 1.0)},
    )


def without_some(key: jax.Array, fields: dict[str, jax.Array], share: jax.Array | float) -> dict[str, jax.Array]:
    """The fields [batch, length] of a text without some of its tokens, those left moved up and followed by zeros;
    `attention_mask` says how many there are."""
    mask = fields["attention_mask"] > 0
    places = jnp.arange(mask.shape[1])
    ends = (places == 0) | (places == mask.sum(1, keepdims=True) - 1)
    drawn = jnp.where(mask & ~ends, jax.random.uniform(key, mask.shape), -1.0)
    last = (drawn == drawn.max(1, keepdims=True)) & (drawn >= 0)  # where all would go, one at random stays
    kept = mask & (ends | (drawn >= share) | last)
    order = jnp.argsort(~kept, axis=1, stable=True)
    left = places < kept.sum(1, keepdims=True)
    moved = {name: jnp.where(left, jnp.take_along_axis(x, order, axis=1), 0) for name, x in fields.items()}
    return {**moved, "attention_mask": left.astype(fields["attention_mask"].dtype)}


def scores(decoder, words: jax.Array, vector: jax.Array, ids: jax.Array) -> jax.Array:
    """[batch, length, vocabulary]: of the token after each, from those up to it and the vector [batch, features]."""
    added = jnp.einsum("bf,lfw->lbw", vector, decoder["vector"]["kernel"]) + decoder["vector"]["bias"][:, None]
    x = words[ids] + decoder["pos"][: ids.shape[1]]
    return _decoder.through(decoder, x, causal=True, added=added[:, :, None]) @ words.T + decoder["bias"]


def reading(port: Port, decoder: Mapping[str, Any], vector: jax.Array) -> Interceptor:
    """The network as a decoder: tokens see those before them, and what its blocks' attention gives has a linear map of
    the vector [batch, features] added, one of each block."""
    sites = attentions(port)
    order = {f"{block}/attn/out": i for i, block in enumerate(dict.fromkeys(s.rsplit("/", 2)[0] for s in sites))}
    added = jnp.einsum("bf,lfw->lbw", vector, decoder["vector"]["kernel"]) + decoder["vector"]["bias"][:, None]

    def see(next_fun, args, kwargs, context):
        site = "/".join(context.module.path) if context.method_name == "__call__" else ""
        if site in sites:
            kwargs = {**kwargs, "causal": True}
        outputs = next_fun(*args, **kwargs)
        return outputs + like(added[order[site]][:, None], outputs) if site in order else outputs

    return see


def cross_entropy(logits: jax.Array, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """[]: the mean over the tokens that the mask [batch, length] has."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
    return (each * mask).sum() / jnp.maximum(mask.sum(), 1)
