from transformers import ModernBertConfig, ModernBertForSequenceClassification

from tests.parity.families import Case

ODD = dict(
    vocab_size=53,
    hidden_size=30,
    num_hidden_layers=4,
    num_attention_heads=5,
    intermediate_size=27,
    max_position_embeddings=13,
    num_labels=3,
    pad_token_id=0,
    bos_token_id=None,
    eos_token_id=None,
    cls_token_id=None,
    sep_token_id=None,
    local_attention=5,
)


def case(golden=False, layers=4, rate=0.1, **config):
    return Case(
        layout=("modernbert", "hf"),
        make=lambda: ModernBertForSequenceClassification(ModernBertConfig(**config)),
        units={"stem": "model.embeddings", **{f"block_{i}": f"model.layers.{i}" for i in range(layers)}},
        last=r".*\.(attn|mlp)\.Wo",
        gain=0.5 if layers < 8 else 0.3,
        outputs=config.get("num_labels", 2),
        rate=rate,
        golden=golden,
    )


ROPE = {"full_attention": {"rope_theta": 300.0}, "sliding_attention": {"rope_theta": 20.0}}
BIASES = ("attention_bias", "mlp_bias", "classifier_bias", "norm_bias")

CASES = {
    "odd": case(True, **ODD, rope_parameters=ROPE),
    "mean": case(
        **{**ODD, **dict.fromkeys(BIASES, True)},
        **dict(layer_types=["full_attention", "sliding_attention"] * 2, classifier_pooling="mean"),
        **dict(hidden_activation="silu", classifier_activation="relu", norm_eps=1e-3),
    ),
    "base": case(layers=22, rate=0.0, num_labels=3),
}
