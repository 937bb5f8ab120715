"""Options of a family: one dataclass is the schema of a config, and its fields say how they are checked."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from jaxfer.errors import InputError
from jaxfer.models.options import ImageOptions, Options, TextOptions, choice, option, positive, rate, size, sizes
from jaxfer.registry import MODELS


@dataclass(frozen=True, kw_only=True)
class Shown(Options):
    width: int = size(4)
    widths: tuple[int, ...] = sizes((1, 2), of="block")
    kind: str = choice("a", ("a", "b"))
    dropout: float = rate(0.0)
    epsilon: float = positive(1e-3, most=1)
    rate_like: float | None = rate(None)
    side: int = size(7, inputs=True)

    def check(self):
        if self.kind == "b" and self.width < 8:
            raise InputError(f"kind='b' needs a width from 8, found {self.width}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(width=0), "width must be a positive integer, found 0; give e.g. width=8"),
        (dict(width=True), "width must be a positive integer, found True; give e.g. width=8"),
        (dict(widths=()), "widths must be a tuple of at least one block, found (); give e.g. (1, 2)"),
        (dict(widths=(1, 0)), "widths[1] must be a positive integer, found 0; give e.g. widths[1]=8"),
        (dict(kind="c"), "kind must be one of 'a', 'b', found 'c'"),
        (dict(dropout=1.0), "dropout must be a drop rate in [0, 1), found 1.0; 0.0 turns it off"),
        (dict(epsilon=0), "epsilon must be a positive number, found 0"),
        (dict(epsilon=2.0), "epsilon must be at most 1, found 2.0"),
        (dict(kind="b"), "kind='b' needs a width from 8, found 4"),
    ],
)
def test_values_that_a_field_does_not_allow(given, message):
    with pytest.raises(InputError) as error:
        Shown(**given)
    assert str(error.value) == message


def test_what_prepares_examples_is_no_part_of_the_network():
    assert Shown(side=3) == Shown(side=9) and hash(Shown(side=3)) == hash(Shown(side=9))
    assert "side" not in repr(Shown()) and "side" not in Shown().network
    assert Shown().network == dict(
        width=4, widths=(1, 2), kind="a", dropout=0.0, epsilon=1e-3, rate_like=None
    )  # a rate may be None: another option's value is taken
    assert Shown(width=5) != Shown()


def test_pictures_and_texts_are_checked_with_the_options():
    with pytest.raises(InputError, match=r"mean must be a tuple of 1 or 3 value\(s\)"):
        ImageOptions(mean=(1.0, 2.0))
    with pytest.raises(InputError, match="max_length must be at most the 4 positions of the model, found 5"):
        TextOptions(positions=4, max_length=5)
    assert TextOptions(max_length=100).encoding.buckets == (32, 64, 100)


def test_the_registry_reads_the_dataclass():
    schema = MODELS.schema("distilbert")
    assert schema["layers"] == (int, 6) and schema["attention_dropout"] == (float | None, None)
    assert "outputs" not in schema and "head" not in schema and "form" not in schema
    wanted = {"dropout", "attention_dropout", "classifier_dropout", "max_length", "buckets", "neck_dropout"}
    assert MODELS.training("distilbert") == wanted
    small = dict(outputs=2, vocab=9, width=4, layers=1, heads=2, mlp_width=4, positions=8, max_length=8)
    port = MODELS.make("distilbert", **small)
    assert port is MODELS.make("distilbert", **small) and port == MODELS.anew("distilbert", **small)
    assert port.options.layers == 1 and port.outputs == 2


def test_a_signature_is_a_schema_too(tmp_path, monkeypatch):
    import jaxfer.models

    monkeypatch.setattr(jaxfer.models, "__path__", [*jaxfer.models.__path__, str(tmp_path)])
    (tmp_path / "planted_signature.py").write_text(
        "def port(*, outputs: int, width: int = 3):\n    return outputs * width\n"
    )
    of_every_model = {
        "neck": (int, 0),
        "neck_relu": (bool, True),
        "neck_hidden": (int, 0),
        "neck_dropout": (float, 0.0),
    }
    assert MODELS.schema("planted_signature") == {"width": (int, 3), **of_every_model}
    assert MODELS.training("planted_signature") == {"neck_dropout"}
    assert MODELS.make("planted_signature", outputs=2, width=4) == 8


def test_a_field_has_a_default_and_marks():
    marks = option(3, training=True).metadata
    assert (marks["training"], marks["inputs"], marks["check"]) == (True, False, None)
