from transformers import DistilBertConfig, DistilBertForSequenceClassification

from tests.parity.families import Case

ODD = dict(vocab_size=53, dim=35, n_layers=2, n_heads=5, hidden_dim=27, max_position_embeddings=11, num_labels=3)
STILL = dict(dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
UNITS = {
    "stem": "distilbert.embeddings",
    "block_0": "distilbert.transformer.layer.0",
    "block_1": "distilbert.transformer.layer.1",
}


def case(units=UNITS, **config):
    return Case(
        layout=("distilbert", "hf"),
        make=lambda: DistilBertForSequenceClassification(DistilBertConfig(**config, **STILL)),
        units=units,
        outputs=config.get("num_labels", 2),
        rate=0.0 if len(units) > 3 else 0.1,
        golden=len(units) <= 3,
    )


CASES = {"odd": case(**ODD), "base": case({f"block_{i}": f"distilbert.transformer.layer.{i}" for i in range(6)})}
