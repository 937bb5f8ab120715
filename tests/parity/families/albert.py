from transformers import AlbertConfig, AlbertForSequenceClassification

from tests.parity.families import Case

ODD = dict(
    vocab_size=53,
    hidden_size=35,
    num_hidden_layers=3,
    num_attention_heads=5,
    intermediate_size=27,
    max_position_embeddings=11,
    num_labels=3,
)
STILL = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0)


def case(golden=False, rate=0.1, **config):
    return Case(
        layout=("albert", "hf"),
        make=lambda: AlbertForSequenceClassification(AlbertConfig(**config, **STILL)),
        units={"stem": "albert.encoder.embedding_hidden_mapping_in", "block_0": "albert.encoder"},
        outputs=config.get("num_labels", 2),
        rate=rate,
        golden=golden,
    )


CASES = {
    "odd": case(**ODD, embedding_size=22, golden=True),
    "equal": case(**ODD, embedding_size=35, type_vocab_size=3, hidden_act="gelu"),
    "base": case(hidden_size=768, num_attention_heads=12, intermediate_size=3072, rate=0.0),
}
