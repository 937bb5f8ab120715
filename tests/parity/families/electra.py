from transformers import ElectraConfig, ElectraForSequenceClassification

from tests.parity.families import Case

ODD = dict(
    vocab_size=53,
    hidden_size=35,
    num_hidden_layers=2,
    num_attention_heads=5,
    intermediate_size=27,
    max_position_embeddings=11,
    num_labels=3,
)
STILL = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def case(layers, project=True, golden=False, **config):
    stem = "electra.embeddings_project" if project else "electra.embeddings"
    return Case(
        layout=("electra", "hf"),
        make=lambda: ElectraForSequenceClassification(ElectraConfig(**config, **STILL)),
        units={"stem": stem, **{f"block_{i}": f"electra.encoder.layer.{i}" for i in range(layers)}},
        outputs=config.get("num_labels", 2),
        rate=0.0 if layers > 2 else 0.1,
        golden=golden,
    )


CASES = {
    "odd": case(2, **ODD, embedding_size=22, golden=True),
    "equal": case(2, **ODD, embedding_size=35, project=False, type_vocab_size=3, hidden_act="gelu_new"),
    "small": case(12),
}
