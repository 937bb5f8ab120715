"""Export a token-pooling text model for `sentence-transformers`: encoder, pooling, dense layer, scaling, head.

transformers has no class for such a classifier. The folder's root is the bare encoder, which `AutoModel` loads;
`SentenceTransformer(folder).encode(texts)` gives the logits; the embeddings, where the task has no output layer.
"""

from __future__ import annotations

from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.exports.tensors import write as write_tensors
from jaxfer.pretrained.layout import Layout, store
from jaxfer.pretrained.sentence import ACTIVATIONS, DENSE, DENSE_KEYS, FLAGS, MODULES, POOLING, PREFIX, WEIGHTS
from jaxfer.runs.finished import FinishedRun

# Names from 2019, which every version of sentence-transformers reads.
KIND = "sentence_transformers.models."
PROJECTION = "2_Projection"
TORCH = "torch.nn.modules."
MODES = {mode: flag for flag, mode in FLAGS.items()}
SINCE_2019 = ("cls", "mean", "max", "mean_sqrt_len_tokens")  # modes listed in files of the first versions


def write(finished: FinishedRun, layout: Layout, folder: epath.Path) -> None:
    """Writes modules.json and the modules it lists, without the tokenizer.

    Raises:
      InputError: the model uses BERT's pooler.
    """
    port = finished.stage.spec.port
    module, outputs = port.options, port.outputs
    pools, width = module.pool.split("+"), module.width * len(module.pool.split("+"))
    if not set(pools) <= set(MODES):
        raise InputError(
            f"--format=sentence-transformers needs a model that pools its tokens ({', '.join(MODES)}), this one has "
            f"pool={module.pool!r}; use --format=hf"
        )
    config, constants = layout.encoder(port)
    tensors, prefix = store(*finished.stage.leave(finished.state), layout, port), layout.prefixes[0]
    head = {key: tensors.pop(name) for key, name in DENSE_KEYS.items()} if outputs else {}
    dense = {key.removeprefix(PREFIX): tensors.pop(key) for key in sorted(tensors) if key.startswith(PREFIX)}
    root = {name.removeprefix(prefix): value for name, value in tensors.items()}
    chain = [("", "Transformer"), ("1_Pooling", "Pooling")]
    chain += [(PROJECTION, "Dense")] * bool(module.projection) + [("2_Normalize", "Normalize")] * module.normalize
    chain += [(epath.Path(DENSE).parent.name, "Dense")] * bool(outputs)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{KIND}{kind}"} for i, (path, kind) in enumerate(chain)
    ]
    pooling = {MODES[mode]: mode in pools for mode in dict.fromkeys((*SINCE_2019, *pools))}
    head_width = module.projection or width
    contents = {
        MODULES: modules,
        "config.json": config,
        "sentence_bert_config.json": {"max_seq_length": port.encoding.max_length, "do_lower_case": False},
        POOLING: {"word_embedding_dimension": module.width, **pooling},
    }
    if outputs:
        layer = _layer(head_width, outputs, True, "identity")
        contents[str(epath.Path(DENSE).parent / "config.json")] = layer
    if module.projection:
        layer = _layer(width, module.projection, module.projection_bias, module.projection_activation)
        contents[f"{PROJECTION}/config.json"] = layer
    for path, _ in chain:
        (folder / path).mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        files.write_json(folder / name, content)
    write_tensors(folder / "model.safetensors", {**root, **constants})
    if outputs:
        write_tensors(folder / DENSE, head)
    if module.projection:
        write_tensors(folder / PROJECTION / WEIGHTS[0], dense)


def _layer(inputs: int, outputs: int, bias: bool, activation: str) -> dict[str, Any]:
    """config.json of a Dense module."""
    names = {
        option: f"{'linear' if option == 'identity' else 'activation'}.{name}" for name, option in ACTIVATIONS.items()
    }
    if activation not in names:
        raise InputError(
            f"--format=sentence-transformers has no projection_activation {activation!r}; it has {', '.join(names)}"
        )
    function = f"{TORCH}{names[activation]}"
    return {"in_features": inputs, "out_features": outputs, "bias": bias, "activation_function": function}
