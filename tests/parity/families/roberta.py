from transformers import (
    CamembertConfig,
    CamembertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

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
BASE = dict(vocab_size=50265, type_vocab_size=1, layer_norm_eps=1e-5, max_position_embeddings=514)


def case(kind, settings, layers, golden=False, **config):
    return Case(
        layout=("roberta", "hf"),
        make=lambda: kind(settings(**config, **STILL)),
        units={"stem": "roberta.embeddings", **{f"block_{i}": f"roberta.encoder.layer.{i}" for i in range(layers)}},
        outputs=config.get("num_labels", 2),
        rate=0.0 if layers > 2 else 0.1,
        golden=golden,
    )


CASES = {
    "odd": case(RobertaForSequenceClassification, RobertaConfig, 2, True, **ODD, type_vocab_size=1),
    "types": case(RobertaForSequenceClassification, RobertaConfig, 2, **ODD, hidden_act="relu", layer_norm_eps=1e-3),
    "xlm": case(XLMRobertaForSequenceClassification, XLMRobertaConfig, 2, **ODD, type_vocab_size=1),
    "camembert": case(CamembertForSequenceClassification, CamembertConfig, 2, **ODD, type_vocab_size=1),
    "base": case(RobertaForSequenceClassification, RobertaConfig, 12, **BASE),
}
