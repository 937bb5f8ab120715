from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from tests.parity.families import Case

ODD = dict(
    vocab_size=53,
    hidden_size=35,
    num_hidden_layers=2,
    num_attention_heads=5,
    intermediate_size=27,
    max_position_embeddings=13,
    num_labels=3,
    relative_attention=True,
    pos_att_type=["p2c", "c2p"],
)
STILL = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
V3 = dict(position_buckets=6, share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False)
BASE = dict(
    **dict(vocab_size=128100, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    **dict(relative_attention=True, pos_att_type="p2c|c2p"),
)


def case(layers=2, golden=False, length=9, **config):
    blocks = {f"block_{i}": f"deberta.encoder.layer.{i}" for i in range(layers)}
    if config.get("conv_kernel_size"):
        blocks["block_0"] = "deberta.encoder.conv"
    return Case(
        layout=("deberta", "hf"),
        make=lambda: DebertaV2ForSequenceClassification(DebertaV2Config(**config, **STILL)),
        units={"stem": "deberta.embeddings", **blocks},
        length=length,
        outputs=config.get("num_labels", 2),
        rate=0.0 if layers > 2 else 0.1,
        golden=golden,
    )


CASES = {
    "odd": case(**ODD, **V3, golden=True),
    # Longer than distances that are told apart, whose rows have layers of their own.
    "apart": case(**ODD, type_vocab_size=2, max_relative_positions=5, hidden_act="relu"),
    # Far distances share rows.
    "long": case(**{**ODD, **V3, "max_position_embeddings": 151}, length=149, layer_norm_eps=1e-3),
    "conv": case(**{**ODD, "pos_att_type": "p2c"}, **V3, conv_kernel_size=3, conv_act="gelu", pooler_hidden_act="tanh"),
    "base": case(12, **BASE, **{**V3, "position_buckets": 256}),
}
