"""Augmented texts: tokens left out and masked, by hand and by counts; what is left alone, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import jaxfer
from jaxfer.config import resolve
from jaxfer.config.experiment import ParallelConfig
from jaxfer.data.encoding import Draw
from jaxfer.data.encodings.augment import augmentations
from jaxfer.data.encodings.augment.rewriting import synonyms
from jaxfer.data.encodings.text import Words
from jaxfer.data.loader import Feed
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.parallel.placement import placement
from jaxfer.training.cut import cut
from tests.data.encodings.test_text import CLS, SEP, UNK, encoding, split
from tests.experiments import tiny_config, tiny_stage

MASK = 4
LONG = encoding(max_length=16, buckets=(16,))
TEXT = "it was a very bad film the plot xylophone"  # nine words, the last unknown


def fields(entry, *, count=400, second=None, apart=False):
    """The fields of so many copies of the text, each under its own draw."""
    texts = split((TEXT,), second)
    reader = encoding(max_length=16, buckets=(16,), apart=apart).reader(texts)
    draw = Draw(seed=0, step=3, positions=np.arange(count), augment=(entry,))
    plain = reader(np.zeros(1, np.int64), 16)
    return reader(np.zeros(count, np.int64), 16, draw), {name: x[0] for name, x in plain.items()}


def test_masked_tokens_keep_their_places():
    found, plain = fields("token_mask(rate=0.3)")
    for name in ("attention_mask", "token_type_ids"):
        assert (found[name] == plain[name]).all()
    ids, hit = found["input_ids"], found["input_ids"] == MASK
    assert (ids[~hit] == np.broadcast_to(plain["input_ids"], ids.shape)[~hit]).all()
    free = ~np.isin(plain["input_ids"], (0, CLS, SEP, UNK))
    assert free.sum() == 8 and not hit[:, ~free].any(), "special tokens and padding stay"
    shares = hit[:, free].mean(0)
    assert np.abs(shares - 0.3).max() < 4 * np.sqrt(0.3 * 0.7 / 400)


def test_dropped_tokens_are_left_out_and_the_rest_moves_up():
    found, plain = fields("token_dropout(rate=0.4)")
    whole = plain["input_ids"].tolist()
    counts = []
    for ids, mask, types in zip(*(found[name] for name in found), strict=True):
        left = ids[: mask.sum()].tolist()
        counts.append(len(left))
        assert (ids[mask.sum() :] == 0).all() and not types.any()
        assert left[0] == CLS and left[-1] == SEP and UNK in left
        places = [whole.index(token) for token in left]
        assert places == sorted(places), "in their order"
    assert np.mean(counts) == pytest.approx(3 + 8 * 0.6, abs=4 * np.sqrt(8 * 0.24 / 400))


def test_one_token_is_left_at_least():
    found, _ = fields("token_dropout(rate=1.0)", count=60)
    assert (found["attention_mask"].sum(1) == 4).all()
    assert len(set(found["input_ids"][:, 1])) > 4, "any of them"


def test_the_texts_of_a_pair_have_draws_of_their_own():
    together, _ = fields("token_dropout(rate=0.5)", second=("very good song",))
    assert any(
        (types[: mask.sum()] == 1).any()
        for types, mask in zip(together["token_type_ids"], together["attention_mask"], strict=True)
    )
    apart, _ = fields("token_mask(rate=0.5)", second=(TEXT,), apart=True)
    first, second = (apart["input_ids"][:, i] == MASK for i in (0, 1))
    same = (first == second)[:, 1:9].mean()
    assert same == pytest.approx(0.5, abs=0.05)


def test_entries_follow_each_other_and_evaluation_is_as_it_was():
    reader = LONG.reader(split((TEXT,)))
    draw = Draw(0, 0, np.arange(50), ("token_mask(rate=0.5)", "token_dropout(rate=0.5)"))
    ids = reader(np.zeros(50, np.int64), 16, draw)["input_ids"]
    assert (ids == MASK).any() and ((ids > 0).sum(1) <= 11).all()
    assert (
        reader(np.zeros(50, np.int64), 16, Draw(0, 0, np.arange(50)))["input_ids"]
        == reader(np.zeros(1, np.int64), 16)["input_ids"]
    ).all()
    assert [str(entry) for entry in augmentations(("token_dropout(rate=0.1)",))] == ["token_dropout"]


def test_what_is_refused():
    sentences = Split.whole(text=Words((("it", "was", "bad"),)))
    feed = Feed(split=sentences, encodings=(encoding(words=True),))
    feed.check(("token_mask",))
    with pytest.raises(InputError, match="token_dropout loses words that the task labels; remove it"):
        feed.check(("token_dropout(rate=1.0)",))
    texts = Feed(split=split((TEXT,)), encodings=(LONG,))
    with pytest.raises(InputError, match=r"data.augment=\('flip',\) is of images, the data source has texts"):
        texts.check(("flip",))
    with pytest.raises(InputError, match="expects rate from 0 to 1, found 2"):
        texts.check(("token_mask(rate=2)",))


def test_synonyms_and_paraphrases(tmp_path):
    file = tmp_path / "synonyms.tsv"
    file.write_text("bad\tawful\tpoor\n\nfilm\tmovie\nIt was good.\tI liked it.\n", encoding="utf-8")
    rng = np.random.default_rng(0)
    always = {synonyms(rng, "Bad FILM, a badge: bad!", file=str(file), rate=1.0) for _ in range(60)}
    assert always == {f"{a} Movie, a badge: {b}!" for a in ("Awful", "Poor") for b in ("awful", "poor")}
    assert synonyms(rng, "Bad film", file=str(file), rate=0.0) == "Bad film"
    kept = [synonyms(rng, "It was good.", file=str(file), rate=0.25) for _ in range(400)]
    assert set(kept) == {"It was good.", "I liked it."}
    assert kept.count("I liked it.") == pytest.approx(100, abs=35)


def test_rewritten_texts_are_tokenized_anew_and_cut_at_the_bucket(tmp_path):
    file = tmp_path / "synonyms.tsv"
    file.write_text("bad\tgood\nplot\tvery very very very very very very very song\n", encoding="utf-8")
    entry = f"synonyms(file={str(file)!r}, rate=1.0)"
    found, plain = fields(entry, count=2)
    assert plain["input_ids"][:7].tolist() == [CLS, 17, 13, 12, 14, 6, 8]
    ids = found["input_ids"][0]
    assert ids[:9].tolist() == [CLS, 17, 13, 12, 14, 5, 8, 11, 14]
    assert (ids != 0).all() and ids[-1] == SEP, "all sixteen places are taken, the last by the end"
    both, _ = fields(entry, count=1, second=("a bad song",))
    types = both["token_type_ids"][0]
    assert 5 in both["input_ids"][0][types == 1]
    entries = augmentations((entry, "token_mask"))
    assert [str(one) for one in entries] == [entry, "token_mask"]


@pytest.mark.parametrize(
    ("content", "entry", "message"),
    [
        ("bad\n", "synonyms(file={file!r})", "line 1: expected WORD TAB SYNONYM TAB ..., found 'bad'"),
        ("", "synonyms", "synonyms needs file='PATH'"),
        ("", "synonyms(file='nowhere.tsv')", "nowhere.tsv"),
        ("", "synonyms(file={folder!r})", "is a folder; name the file"),
        ("", "synonyms(file=3)", "synonyms expects a text in quotes as file, found 3"),
    ],
)
def test_synonyms_that_are_none(content, entry, message, tmp_path):
    file = tmp_path / "synonyms.tsv"
    file.write_text(content)
    texts = Feed(split=split((TEXT,)), encodings=(LONG,))
    with pytest.raises(InputError, match=message):
        texts.check((entry.format(file=str(file), folder=str(tmp_path)),))


def test_augmented_texts_are_not_stored_as_views(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path))
    where, config = placement(ParallelConfig(devices=1)), tiny_config("bert_mean", method="probe", cache="views")
    config.data.augment = ("token_mask",)
    found = cut(tiny_stage("bert_mean", method="probe"), where, resolve(config))
    assert found.why == "the examples are augmented (token_mask)"


@pytest.mark.system
def test_a_run_on_augmented_texts(tmp_path):
    losses = {}
    for augment in ((), ("token_dropout(rate=0.3)", "token_mask(rate=0.3)")):
        config = tiny_config("bert_mean", steps=6, eval_every=3)
        config.data.augment = augment
        losses[augment] = jaxfer.run(config, tmp_path / str(len(augment)), quiet=True)["metrics"]["val"]["loss"]
    assert len(set(losses.values())) == 2
