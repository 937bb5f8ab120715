"""Weights made to fit where that is announced, heads kept or made anew, everything else refused."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from jaxfer.errors import InputError
from jaxfer.pretrained import surgery
from jaxfer.rules import flatten
from jaxfer.training import lineage
from jaxfer.training.preflight import preflight
from tests.pretrained.checkpoints import (
    CIFAR,
    CLASSES,
    RESNET,
    VIT,
    begin,
    checkpoint,
    config_of,
    edit,
    weights,
)


def test_another_resolution_resizes_position_embeddings_if_announced(vit):
    folder, (_, params, _) = vit
    with pytest.raises(InputError, match=r"image is \(8, 12, 3\) there, \(16, 8, 3\) here"):
        begin(config_of(folder, (8, 8, 3), model=dict(image=(16, 8, 3))))
    start = begin(config_of(folder, (8, 8, 3), model=dict(image=(16, 8, 3)), differs=("image",)))
    expected = surgery.resize_positions(np.asarray(params["stem"]["pos"]), (2, 3), (4, 2), extra=1)
    assert expected.shape == (1, 9, 12)
    np.testing.assert_array_equal(start.params["stem"]["pos"], expected)
    assert start.ledger["params/stem/pos"]["what"] == "resized"
    assert start.ledger["params/stem/patch/kernel"]["what"] == "transposed"
    assert "  resized: stem/pos 1x9x12" in start.table()


def test_a_head_that_reads_more_of_a_transformer_is_made_anew_and_the_rest_loaded(vit):
    folder, (_, params, _) = vit
    more = dict(last=2, pool="cls+mean")
    start = begin(config_of(folder, (8, 12, 3), head="reset", model=more))
    ours, theirs = flatten(start.params), flatten(params)
    assert ours.keys() == theirs.keys() and ours["head/out/kernel"].shape == (36, 3)
    for path in ours.keys() - {"head/out/kernel", "head/out/bias"}:
        np.testing.assert_array_equal(ours[path], theirs[path])


@pytest.mark.parametrize("channels", [1, 13])
@pytest.mark.parametrize("family, leaf", [("resnet", "stem/conv/kernel"), ("vit", "stem/patch/kernel")])
def test_other_channels_inflate_the_first_convolution_if_announced(tmp_path, channels, family, leaf):
    options = RESNET if family == "resnet" else VIT
    image = (*options["image"][:2], channels)
    _, params, _ = checkpoint(tmp_path / "source", family, options)
    config = config_of(tmp_path / "source", image, model=dict(image=image), differs=("image",))
    plan = preflight(config)
    start = lineage.begin(plan, tmp_path)
    expected = surgery.inflate_input(np.asarray(flatten(params)[leaf]), channels)
    np.testing.assert_array_equal(flatten(start.params)[leaf], expected)
    assert start.ledger[f"params/{leaf}"]["what"] == "inflated"
    if family == "resnet":
        mean = dict(plan.experiment.model.options)["mean"]
        in_turn = (0.5, 0.25, 0.125) * 4 + (0.5,)
        assert mean == in_turn if channels == 13 else mean == pytest.approx((0.875 / 3,))


def test_other_channels_stop_the_run_unannounced(tmp_path):
    """Also where the files leave the image open: nothing tells a CIFAR network its size."""
    checkpoint(tmp_path / "cifar", "resnet", CIFAR, layout="torchvision")
    edit(tmp_path / "cifar" / "config.json", input=None, id2label=None)
    (tmp_path / "cifar" / "preprocessor_config.json").unlink()
    assert dict(preflight(config_of(tmp_path / "cifar", model=dict(image=(9, 9, 3)))).experiment.model.options)[
        "image"
    ] == (9, 9, 3)
    with pytest.raises(InputError, match=r"conv1.weight \(4, 3, 3, 3\) for .* \(3, 3, 1, 4\); announce what differs"):
        begin(config_of(tmp_path / "cifar", model=dict(image=(9, 9, 1))))


def test_the_head_stays_for_the_same_classes_and_goes_for_others(resnet):
    folder, (_, params, _) = resnet
    kept = begin(config_of(folder))
    np.testing.assert_array_equal(kept.params["head"]["out"]["kernel"], params["head"]["out"]["kernel"])
    reset = begin(config_of(folder, head="reset"))
    assert reset.ledger["params/head/out/kernel"]["why"] == "config.head=reset"
    assert not np.array_equal(reset.params["head"]["out"]["kernel"], params["head"]["out"]["kernel"])
    edit(folder / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    unnamed = begin(config_of(folder))
    assert unnamed.ledger["params/head/out/kernel"]["why"] == "the source's classes have no names"
    kept = begin(config_of(folder, head="keep"))
    np.testing.assert_array_equal(kept.params["head"]["out"]["kernel"], params["head"]["out"]["kernel"])
    edit(folder / "config.json", id2label={"0": CLASSES[2], "1": CLASSES[0], "2": CLASSES[1]})
    with pytest.raises(InputError, match="classes in another order .class_2, class_0, class_1.; set config.data.class"):
        begin(config_of(folder))


def test_a_head_of_other_width_stops_the_run_where_it_is_to_be_kept(tmp_path):
    checkpoint(tmp_path / "five", "resnet", RESNET, labels=tuple("abcde"))
    assert begin(config_of(tmp_path / "five")).params["head"]["out"]["kernel"].shape == (8, 3)
    with pytest.raises(InputError, match=r"classifier.1.weight \(5, 8\) for params/head/out/kernel \(8, 3\)"):
        begin(config_of(tmp_path / "five", head="keep"))


def test_a_bare_backbone_gets_a_head(vit):
    folder, (_, params, _) = vit
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    backbone = {key.removeprefix("vit."): x for key, x in tensors.items() if not key.startswith("classifier")}
    safetensors.numpy.save_file(backbone, folder / "model.safetensors", {"format": "pt"})
    start = begin(config_of(folder, (8, 12, 3), head="auto"))
    head = {leaf: entry for leaf, entry in start.ledger.items() if leaf.startswith("params/head/out")}
    assert {entry["what"] for entry in head.values()} == {"missing"} and start.params["head"]["out"]["bias"].shape == (
        3,
    )
    np.testing.assert_array_equal(start.params["stem"]["pos"], params["stem"]["pos"])
    with pytest.raises(InputError, match="config.head=keep: .* has no head"):
        begin(config_of(folder, (8, 12, 3), head="keep"))
    with pytest.raises(InputError, match="has no params/head/pooler/.*config.differs=pool"):
        begin(config_of(folder, (8, 12, 3), model=dict(pool="pooler")))
    begin(config_of(folder, (8, 12, 3), model=dict(pool="pooler"), differs=("pool",)))


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("resnet.embedder.embedder.convolution.weight", np.nan, "(params/stem/conv/kernel) are NaN or infinite"),
        ("classifier.1.bias", -np.inf, "(params/head/out/bias) are NaN or infinite"),
        ("resnet.embedder.embedder.normalization.running_var", -1, "(batch_stats/stem/norm/var) are negative, which a"),
    ],
)
def test_values_that_no_network_computes_with_are_refused_by_name(resnet, key, value, said):
    file = resnet[0] / "model.safetensors"
    tensors = {name: np.array(x) for name, x in weights(resnet[0]).items()}
    tensors[key].flat[1] = value
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(InputError) as error:
        begin(config_of(resnet[0], head="keep"))
    assert f"1 of {tensors[key].size} values of {key} {said}" in str(error.value)
    if key.startswith("classifier"):  # a head that is not loaded may hold anything
        begin(config_of(resnet[0], head="reset"))
