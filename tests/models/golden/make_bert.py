"""Makes `bert.npz`: what transformers' PyTorch BERT answers at a tiny size, with the weights it answers with.

    python -m tests.models.golden.make_bert        (needs PyTorch: the extra `parity`)

As the files of `make.py`, but with the three input fields in place of `x`.
"""

from __future__ import annotations

import json

import numpy as np
import torch

from tests.models.golden.make import FOLDER
from tests.parity.test_bert import inputs, reference_model, to_torch

TINY = dict(
    vocab_size=31,
    hidden_size=15,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=22,
    max_position_embeddings=9,
    type_vocab_size=3,
    num_labels=30,
)


def main() -> None:
    model = reference_model(TINY)
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.copy_(leaf.half().float())
        batch = inputs(model.config, length=9)
        answer = model(**to_torch(batch), output_hidden_states=True)
    weights = {name: leaf.numpy() for name, leaf in model.state_dict().items()}
    units = ("stem", "block_0", "block_1")
    expected = dict(zip(units, (hidden.numpy() for hidden in answer.hidden_states), strict=True))
    expected["logits"] = answer.logits.numpy()
    shapes = {
        what: {name: v.shape for name, v in of.items()} for what, of in (("weights", weights), ("expected", expected))
    }
    np.savez_compressed(
        FOLDER / "bert.npz",
        index=np.frombuffer(json.dumps({"config": model.config.to_dict(), **shapes}).encode(), np.uint8),
        **{name: field.astype(np.int8) for name, field in batch.items()},
        weights=np.concatenate([value.ravel() for value in weights.values()]).astype(np.float16),
        expected=np.concatenate([value.ravel() for value in expected.values()]),
    )


if __name__ == "__main__":
    main()
