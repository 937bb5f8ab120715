"""Colours of shares and numbers of tokens by hand, and the page of a run on texts."""

from __future__ import annotations

import base64
import csv
import re

import numpy as np
import pytest

import jaxfer
from jaxfer.data.encodings.tokenizers import load_tokenizer
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.network import of_state
from jaxfer.reports import saliency
from jaxfer.reports.saliency import AGAINST, FOR, _over, _scaled
from jaxfer.runs.finished import open_run
from jaxfer.training.preflight import preflight
from tests.experiments import tiny_config
from tests.reports.test_report import plain


def test_shares_are_of_the_largest_and_keep_their_sign():
    np.testing.assert_allclose(_scaled(np.array([2.0, -4.0, 1.0])), [0.5, -1, 0.25])
    np.testing.assert_array_equal(_scaled(np.zeros(3)), 0)
    many = np.r_[np.arange(1, 101), 1e6].astype(float)  # one place in a hundred does not dim the rest
    assert _scaled(many)[-1] == 1 and _scaled(many)[99] == 1 and _scaled(many)[49] == 0.5


def test_what_has_no_share_is_grey():
    image = np.full((1, 3, 1), 100, np.uint8)
    found = _over(image, np.array([[0.0, 1.0, -1.0]]))
    grey = 100 * 0.5 + 96
    np.testing.assert_array_equal(found[0, 0], [grey] * 3)
    for place, tint in ((1, FOR), (2, AGAINST)):
        np.testing.assert_allclose(found[0, place], [grey * 0.15 + part * 0.85 for part in tint], atol=0.5)


def test_each_token_has_its_number():
    """Of the texts that are explained, by the row of the source."""
    one = saliency.Shown((), None, 0.02, (("good", 1.5), ("##ish", -0.25)))
    (part,) = saliency.shares([one], [7])
    rows = re.findall(r"<tr>(.*?)</tr>", part.content)
    assert [plain(row).split() for row in rows[1:]] == [
        ["7", "good", "+1.500", "2", "%"],
        ["7", "##ish", "−0.250", "2", "%"],
    ]
    assert saliency.shares([saliency.Shown((), None, 0.02)], [7]) == []


@pytest.mark.system
def test_the_page_of_a_run_on_texts(tmp_path):
    """Its mistakes are texts in colours; what their tokens add is the change of the logit from a text of padding."""
    config = tiny_config("bert_pooler", steps=2, eval_every=1, init="scratch")
    jaxfer.run(config, tmp_path, quiet=True)
    page = jaxfer.report(tmp_path).path.read_text()
    (link,) = re.findall(r'href="data:text/csv;base64,([^"]*)" download="tokens.csv"', page)
    rows = list(csv.DictReader(base64.b64decode(link).decode().splitlines()))
    assert "<q>" in page and "or at padding" in page
    finished, split = open_run(tmp_path), preflight(config).data.splits["val"]
    network = of_state(finished.stage, finished.state)
    tokenizer, name = load_tokenizer(network.port.encoding)[0], network.port.inputs[0]
    for number in dict.fromkeys(row["row"] for row in rows):
        own = [row for row in rows if row["row"] == number]
        one = split.take(np.flatnonzero(split.rows == int(number)))
        (batch,) = eval_batches(Feed(split=one, encodings=network.port.encodings), batch_size=1)
        ids = batch[name]
        told = np.asarray(network(batch).outputs)[0]
        change = told - np.asarray(network({**batch, name: np.full_like(ids, tokenizer.pad_token_id)}).outputs)[0]
        words = tokenizer.convert_ids_to_tokens(ids[0].tolist())
        assert [row["token"] for row in own] == words[: len(own)]
        added, missed = sum(float(row["adds to the logit"]) for row in own), float(own[0]["the text's shares miss"])
        assert added == pytest.approx(change[told.argmax()], rel=missed + 1e-3)
