"""The kinds of `peft` adapters that are read: what each stores of a layer, and what it makes of the layer's weight.

Every kind here acts on single layers, so the merged model computes what the adapted one does. Formulas are those of
peft's layers, whose papers the methods of the same names in `jaxfer/methods` cite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxfer.pretrained import peft_products, peft_sums
from jaxfer.pretrained.peft_layer import Layer, Merged
from jaxfer.pretrained.peft_products import NORM, STATISTICS
from jaxfer.pretrained.peft_sums import HADA, TOKENS, TOKENS_OF_LORA, VERA

MERGE = "merge it with peft (`merge_and_unload`) and give the merged model"


class Kind(NamedTuple):
    """A kind of adapter.

    Attributes:
      merge: a layer -> what it becomes.
      tensors: what may stand behind a layer's name.
      needs: of these, those that every layer has: all of one of these sets.
      reads: fields of adapter_config.json that `merge` uses.
      leaves: fields that only affect training.
      fixed: {field: the values under which `merge` is right}.
      shared: names of tensors of all layers.
      drawn: (adapter, its config, its tensors of one layer, shapes of all) -> these tensors, where a file has none.
      adds: whether it adds to the weight what does not depend on it, so that several of them have a sum.
    """

    merge: Callable[[Layer], Merged]
    tensors: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]
    reads: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    fixed: Mapping[str, tuple[Any, ...]] = {}
    shared: tuple[str, ...] = ()
    drawn: Callable[..., dict[str, np.ndarray]] | None = None
    adds: bool = False


LOW_RANK, EMBEDDED = ("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")
DROPPED = ("module_dropout", "rank_dropout", "init_weights")
# Starts that leave the base's weights as they are, and two that take out of them what can be found again. The others
# (LoftQ, CorDA, PiSSA by random projections, ...) depend on data, draws or a quantisation.
STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "pissa", "olora")
OF_LORA = ("lora_dropout", "eva_config", "loftq_config", "corda_config", "lora_ga_config", "qalora_group_size")
SCHEDULE = ("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step", "rank_pattern")
KINDS = {
    "LORA": Kind(
        peft_sums.lora,
        tensors=(
            *(*LOW_RANK, "lora_B.bias", "lora_magnitude_vector", "lora_magnitude_vector.weight"),
            *(*EMBEDDED, TOKENS_OF_LORA),
        ),
        needs=(LOW_RANK, EMBEDDED, (TOKENS_OF_LORA,)),
        reads=(
            *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias"),
            "trainable_token_indices",
        ),
        leaves=OF_LORA,
        fixed={"init_lora_weights": STARTS},
        adds=True,
    ),
    "ADALORA": Kind(
        peft_sums.adalora,
        tensors=("lora_A", "lora_B", "lora_E"),
        needs=(("lora_A", "lora_B", "lora_E"),),
        reads=("init_r", "lora_alpha"),
        leaves=(*OF_LORA, *SCHEDULE, "r", "alpha_pattern", "init_lora_weights"),
        adds=True,
    ),
    "VERA": Kind(
        peft_sums.vera,
        tensors=("vera_lambda_d", "vera_lambda_b"),
        needs=(("vera_lambda_d", "vera_lambda_b"),),
        reads=("r", "projection_prng_key", "save_projection"),
        leaves=("vera_dropout", "d_initial", "init_weights"),
        shared=VERA,
        drawn=peft_sums.projections,
        adds=True,
    ),
    "LOHA": Kind(
        peft_sums.loha,
        tensors=(*HADA, "hada_t1", "hada_t2"),
        needs=(HADA,),
        reads=("r", "alpha", "rank_pattern", "alpha_pattern"),
        leaves=(*DROPPED, "use_effective_conv2d"),
        adds=True,
    ),
    "LOKR": Kind(
        peft_sums.lokr,
        tensors=("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        needs=((),),
        reads=("r", "alpha", "rank_pattern", "alpha_pattern"),
        leaves=(*DROPPED, "decompose_both", "decompose_factor", "rank_dropout_scale", "use_effective_conv2d"),
        adds=True,
    ),
    "FOURIERFT": Kind(
        peft_sums.fourier,
        tensors=("fourierft_spectrum",),
        needs=(("fourierft_spectrum",),),
        reads=("scaling", "random_loc_seed"),
        leaves=("n_frequency", "n_frequency_pattern", "init_weights"),
        adds=True,
    ),
    "MISS": Kind(
        peft_sums.miss,
        tensors=("miss_block",),
        needs=(("miss_block",),),
        reads=("init_weights",),
        leaves=("r", "mini_r", "miss_dropout"),
    ),
    "TRAINABLE_TOKENS": Kind(peft_sums.tokens, (TOKENS,), ((TOKENS,),), ("token_indices",), ("init_weights",)),
    "IA3": Kind(peft_products.ia3, ("ia3_l",), (("ia3_l",),), ("feedforward_modules",), ("init_ia3_weights",)),
    "OFT": Kind(
        peft_products.oft,
        tensors=("oft_R.weight",),
        needs=(("oft_R.weight",),),
        reads=(
            *("r", "oft_block_size", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms", "coft", "eps"),
        ),
        leaves=("module_dropout", "init_weights"),
    ),
    "BOFT": Kind(
        peft_products.boft,
        tensors=("boft_R", "boft_s"),
        needs=(("boft_R", "boft_s"),),
        leaves=("boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout", "init_weights"),
    ),
    "HRA": Kind(peft_products.hra, ("hra_u",), (("hra_u",),), ("apply_GS",), ("r", "init_weights")),
    "LN_TUNING": Kind(
        peft_products.norm,
        tensors=tuple(f"{NORM}{name}" for name in ("weight", "bias", *STATISTICS, "num_batches_tracked")),
        needs=((f"{NORM}weight",),),
    ),
}
