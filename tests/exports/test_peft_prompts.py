"""Prompts and prefixes carried out as `peft` files, and back in: to predict, and to train on from them."""

from __future__ import annotations

import jax
import pytest
from safetensors.numpy import load_file, save_file

import jaxfer
from jaxfer.errors import InputError
from jaxfer.exports.predict import load_model
from jaxfer.method import Given
from jaxfer.runs.finished import open_run
from tests.pretrained.checkpoints import assert_same, begin, edit, text_config

TOKENS = 2


def config_of(base, method, **fields):
    options = {"tokens": TOKENS, "form": "peft", **({"hidden": 3} if method == "prefix_tuning" else {})}
    return text_config(base, method=method, options={**options, **fields.pop("options", {})}, lr=0.1, **fields)


@pytest.mark.system
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_out_and_in(method, tmp_path):
    jaxfer.run(config_of(tmp_path / "base", method, steps=2), tmp_path / "run", quiet=True)
    out = jaxfer.export(tmp_path / "run", format="peft")
    tensors = load_file(out / "adapter_model.safetensors")
    width = {"prompt_tuning": 12, "prefix_tuning": 2 * 2 * 12}[method]
    assert {name: x.shape for name, x in tensors.items()} == {
        "prompt_embeddings": (TOKENS, width),
        "base_model.classifier.weight": (3, 12),
        "base_model.classifier.bias": (3,),
    }
    texts = ["a b c", "very good"]
    wanted = jaxfer.predict(tmp_path / "run", texts, text=True)
    for answer, expected in zip(jaxfer.predict(out, texts, text=True), wanted, strict=True):
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    # A run that starts from the file has its prompts and its head; another method is refused.
    options = {"tokens": TOKENS, "form": "peft", **({"hidden": 0} if method == "prefix_tuning" else {})}
    again = text_config(tmp_path / "other", method=method, options=options, head="keep")
    again.init = str(out)
    start, trained = begin(again), open_run(tmp_path / "run")
    assert_same(start.params["head"], trained.state.params["head"])
    assert_same(start.former, load_model(out).network.params[method])
    jaxfer.run(again, tmp_path / "again", quiet=True)
    begun = open_run(tmp_path / "again")
    key, given = jax.random.key(0), Given(former=start.former)
    assert_same(begun.stage.spec.method.init(start.params, key, given)[0][method], start.former)
    second = jaxfer.export(tmp_path / "again", format="peft")  # of the same base
    assert f"{str(tmp_path / 'base')!r}" in (second / "README.md").read_text()
    (answer, _), (expected, _) = (jaxfer.predict(each, texts, text=True) for each in (second, tmp_path / "again"))
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    again.method, again.options = "probe", {}
    with pytest.raises(InputError, match=f"no part of the model's weights; .* set config.method={method}"):
        begin(again)
    tensors["prompt_embeddings"] = tensors["prompt_embeddings"][:, 1:].copy()
    save_file(tensors, out / "adapter_model.safetensors")
    with pytest.raises(InputError, match=rf"prompt_embeddings is \[2, {width - 1}\], expected \[2, {width}\]"):
        load_model(out)
    edit(out / "adapter_config.json", task_type="CAUSAL_LM")
    with pytest.raises(InputError, match="is read for task_type 'SEQ_CLS' of one encoder, found 'CAUSAL_LM'"):
        load_model(out)


@pytest.mark.system
def test_the_papers_form_is_not_what_peft_computes(tmp_path):
    run = config_of(tmp_path / "base", "prompt_tuning", options={"form": "paper"})
    jaxfer.run(run, tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="form='paper' of prompt_tuning is not what peft computes; train with"):
        jaxfer.export(tmp_path / "run", format="peft")
