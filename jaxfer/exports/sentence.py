"""A text model that pools the mean of its tokens, as `sentence-transformers` has it: encoder, pooling, head.

transformers has no class for such a classifier. The folder's root is the bare encoder, which its `AutoModel` loads;
`SentenceTransformer(folder).encode(texts)` gives the logits.
"""

from __future__ import annotations

from etils import epath

from jaxfer.errors import InputError
from jaxfer.exports import hf
from jaxfer.pretrained.hub import DENSE, DENSE_KEYS, POOLING
from jaxfer.pretrained.layout import Layout, store
from jaxfer.runs.finished import FinishedRun

# The names of 2019, which every version of sentence-transformers reads.
MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
POOLINGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")


def write(finished: FinishedRun, layout: Layout, folder: epath.Path) -> None:
    """modules.json and what it names, all but the tokenizer.

    Raises:
      InputError: the model pools in another way.
    """
    port = finished.stage.spec.port
    module = port.module
    if module.pool != "mean":
        raise InputError(
            f"--format=sentence-transformers is of models that pool the mean of their tokens, this one has "
            f"pool={module.pool!r}; use --format=hf"
        )
    config, constants = layout.encoder(port)
    tensors, prefix = store(*finished.stage.leave(finished.state), layout, port), layout.prefixes[0]
    head = {key: tensors.pop(name) for key, name in DENSE_KEYS.items()}
    root = {name.removeprefix(prefix): value for name, value in tensors.items()}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(MODULES)
    ]
    dense = {
        "in_features": module.width,
        "out_features": module.outputs,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    pooling = {f"pooling_mode_{name}": name == "mean_tokens" for name in POOLINGS}
    files = {
        "modules.json": modules,
        "config.json": config,
        "sentence_bert_config.json": {"max_seq_length": port.preprocessing.max_length, "do_lower_case": False},
        POOLING: {"word_embedding_dimension": module.width, **pooling},
        f"{MODULES[2][0]}/config.json": dense,
    }
    for path, _ in MODULES:
        (folder / path).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        files.write_json(folder / name, content)
    hf.write_tensors(folder / "model.safetensors", {**root, **constants})
    hf.write_tensors(folder / DENSE, head)
