"""Sequence to sequence: the text that follows from an input. Translation, summaries, speech recognition."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.data.encoding import Draw, Encoding, Fields
from jaxfer.data.encodings.target import NONE, TARGET, TargetEncoding
from jaxfer.data.split import Split
from jaxfer.errors import InputError, nearest
from jaxfer.models.generation import Sampling
from jaxfer.models.written import written
from jaxfer.task import Answer, Batch, Hparams, Mean, Task
from jaxfer.tasks import _texts as texts

LARGEST = 700.0  # loss whose perplexity is a float


def task(
    *,
    metrics: tuple[str, ...] = (),
    plain: bool = False,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Task:
    """Softmax over the vocabulary for each token of the target, given the input and the target's tokens before it
    (Sutskever et al., 2014, arXiv:1409.3215). Hparam: `label_smoothing` in [0, 1) (arXiv:1512.00567, sec. 7).

    Losses, `token_accuracy` and `perplexity` are of the true tokens before each (teacher forcing), over all tokens of
    the targets, the one that ends them included; padding has no part. `metrics` are of texts that the model writes.

    Args:
      metrics: of written texts: `rouge` (`rouge1`, `rouge2`, `rougeL`), `bleu`, `wer`; evaluation writes texts for
        them alone, which takes a pass of the decoder for each token.
      plain: whether these compare texts in lower case without punctuation.
      temperature: of the tokens that are drawn in writing; 0: the likeliest (greedy).
      top_k: of how many likeliest tokens one is drawn; 0: of all.
      top_p: of the likeliest tokens, of this probability together (arXiv:1904.09751); 1: all.
    """
    for name in metrics:
        if name not in texts.METRICS:
            raise InputError(f"config.task.metrics: unknown metric {name!r}{nearest(str(name), texts.METRICS)}")
    texts.check(metrics)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    of_texts = {metric: more for name in metrics for metric, more in texts.METRICS[name].items()}
    return Task(
        outputs=lambda classes: 0,
        head="seq2seq",
        target=TARGET,
        shapes=lambda n, outputs, fields: {"labels": fields["decoder_input_ids"]},
        targets=_targets,
        loss=_smoothed,
        scores=_scores,
        collect=lambda outputs, batch: _cross_entropy(outputs, batch)._asdict(),
        decode=_decode(sampling),
        decodes=bool(metrics),
        spell=_spell,
        gathered=_gathered(metrics, texts.plain if plain else str),
        answer=lambda row, classes, example: Answer(text=str(row["text"])),
        monitor="loss",
        metrics={"token_accuracy": True, "perplexity": False, **of_texts},
        hparams={"label_smoothing": 0.0},
        limits={"label_smoothing": (0.0, 1.0)},
    )


def _targets(split: Split, rows: np.ndarray, encoded: Fields, draw: Draw | None) -> Fields:
    """int32 [b, target]: `labels`, the token that follows each of the decoder's, else `NONE`."""
    if draw is not None and TARGET not in split.columns:
        kinds = ", ".join(column.kind for column in split.columns.values())
        raise InputError(
            f"task 'seq2seq' needs inputs with target texts, the data has {kinds}; use data.source=text_to_text or "
            "transcripts"
        )
    return {"labels": encoded["target_ids"]}


def _logp(outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(log-probabilities, the true token of each place or 0, where there is one)."""
    kept = batch["labels"] != NONE
    return jax.nn.log_softmax(outputs.astype(jnp.float32)), jnp.where(kept, batch["labels"], 0), kept


def _smoothed(outputs: jax.Array, batch: Batch, hparams: Hparams) -> Mean:
    """The smoothed loss: of the true token, and of the mean token."""
    logp, true, kept = _logp(outputs, batch)
    nll, smoothing = -jnp.take_along_axis(logp, true[..., None], -1)[..., 0], hparams["label_smoothing"]
    return Mean.over((1 - smoothing) * nll - smoothing * logp.mean(-1), kept)


def _cross_entropy(outputs: jax.Array, batch: Batch) -> Mean:
    kept = batch["labels"] != NONE
    true = jnp.where(kept, batch["labels"], 0)
    return Mean.over(optax.softmax_cross_entropy_with_integer_labels(outputs.astype(jnp.float32), true), kept)


def _scores(outputs: jax.Array, batch: Batch) -> dict[str, Mean]:
    hit = (outputs.argmax(-1) == batch["labels"]).astype(jnp.float32)
    return {"loss": _cross_entropy(outputs, batch), "token_accuracy": Mean.over(hit, batch["labels"] != NONE)}


def _decode(sampling: Sampling) -> Callable[..., dict[str, jax.Array]]:
    def decode(port: Any, params: Any, model_state: Any, intercept: Any, batch: Batch) -> dict[str, jax.Array]:
        """int32 [b, tokens]: `tokens`, those of the texts that are written; drawn alike in every evaluation."""
        how = {"key": jax.random.key(0), "sampling": sampling, "intercept": intercept}
        return {"tokens": written(port, params, model_state, batch, **how)}

    return decode


def _spell(collected: Mapping[str, np.ndarray], encodings: Sequence[Encoding]) -> dict[str, np.ndarray]:
    """`text`, an array of str, in place of `tokens`."""
    if "tokens" not in collected:
        return dict(collected)
    encoding = next(encoding for encoding in encodings if isinstance(encoding, TargetEncoding))
    rest = {name: values for name, values in collected.items() if name != "tokens"}
    return {**rest, "text": np.array(encoding.spelled(np.asarray(collected["tokens"])), object)}


def _gathered(metrics: Sequence[str], change: Callable[[str], str]) -> Callable[..., dict[str, float]]:
    def gathered(collected: Mapping[str, np.ndarray], split: Split) -> dict[str, float]:
        """Perplexity, e to the mean loss of all tokens of the split's targets, and what is asked of written texts."""
        loss = Mean.of([Mean(total=collected["total"], count=collected["count"])])
        found = {"perplexity": math.exp(min(loss, LARGEST))}
        if not metrics:
            return found
        references = [change(split.example(TARGET, row)) for row in range(len(split))]
        return found | texts.scored(metrics, [change(text) for text in collected["text"]], references)

    return gathered
