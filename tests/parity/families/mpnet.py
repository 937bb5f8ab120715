from transformers import MPNetConfig, MPNetForSequenceClassification

from tests.parity.families import Case

ODD = dict(
    vocab_size=53,
    hidden_size=35,
    num_hidden_layers=2,
    num_attention_heads=5,
    intermediate_size=27,
    max_position_embeddings=13,
    num_labels=3,
)
STILL = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def case(layers, golden=False, length=9, **config):
    return Case(
        layout=("mpnet", "hf"),
        make=lambda: MPNetForSequenceClassification(MPNetConfig(**config, **STILL)),
        units={"stem": "mpnet.embeddings", **{f"block_{i}": f"mpnet.encoder.layer.{i}" for i in range(layers)}},
        length=length,
        outputs=config.get("num_labels", 2),
        rate=0.0 if layers > 2 else 0.1,
        golden=golden,
    )


CASES = {
    "odd": case(2, **ODD, golden=True),
    # As long as distances that share a bucket, the last one from 128 on.
    "long": case(2, **{**ODD, "max_position_embeddings": 151}, length=149, hidden_act="relu"),
    "base": case(12, vocab_size=30527, max_position_embeddings=514, layer_norm_eps=1e-5),
}
