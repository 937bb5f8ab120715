"""A copy of a tokenizer is the same tokenizer: in a run's folder, in an export, of every kind of folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from etils import epath
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import jaxfer
from jaxfer.data.encodings.text import TextEncoding
from jaxfer.data.encodings.tokenizers import read_tokenizer
from jaxfer.errors import InputError
from jaxfer.pretrained import foreign
from jaxfer.runs import tokenizer
from jaxfer.training.preflight import preflight
from tests.data.encodings.test_text import TOKENIZER
from tests.experiments import PHRASES
from tests.pretrained.checkpoints import text_config

WORDS = (TOKENIZER / "vocab.txt").read_text().split()
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
CASED = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "film", "FILM", "é", "e"]


@dataclass
class Port:
    """All that a copy asks of a port."""

    encodings: tuple[TextEncoding, ...]


def port_of(folder: Path) -> Port:
    options = dict(tokenizer_sha256="", vocab=23, types=2, max_length=20, buckets=(20,))
    return Port((TextEncoding(tokenizer=str(folder), **options),))


def test_an_encoding_of_texts_without_a_tokenizer_has_nothing_to_keep(tmp_path):
    port = Port((SimpleNamespace(column="text"),))
    assert tokenizer.check(port) == ()
    tokenizer.keep(port, epath.Path(tmp_path))
    assert not list(tmp_path.iterdir())


def write(folder: Path, **files: object) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def fast(folder: Path, model, *, lowercase: bool) -> None:
    """tokenizer.json, and nothing that names a class."""
    made = Tokenizer(model)
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.save(str(folder / "tokenizer.json"))


def wordpiece(words):
    return models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")


def vocab_alone(folder):
    """As old checkpoints on the Hub: the class is BERT's because config.json says so."""
    write(folder, vocab__txt="\n".join(WORDS))
    if not (folder / "config.json").exists():
        write(folder, config__json={"model_type": "bert"})


def vocab_and_settings(folder):
    cased = [*CASED, *(f"[unused{i}]" for i in range(len(WORDS) - len(CASED)))]
    write(folder, vocab__txt="\n".join(cased), config__json={"model_type": "bert"})
    write(folder, tokenizer_config__json={"do_lower_case": False, "model_max_length": 512})


def bert_base(folder):
    """google-bert/bert-base-uncased: tokenizer.json, vocab.txt and settings without a class."""
    vocab_alone(folder)
    fast(folder, wordpiece(WORDS), lowercase=True)
    write(folder, tokenizer_config__json={"do_lower_case": True, "model_max_length": 512})


def contradicting(folder):
    """tokenizer.json lowers case, the settings say that nothing does: which holds depends on the class."""
    bert_base(folder)
    write(folder, tokenizer_config__json={"do_lower_case": False}, special_tokens_map__json=SPECIAL)


def json_and_class(folder):
    fast(folder, wordpiece(WORDS), lowercase=True)
    write(folder, tokenizer_config__json={"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL})


def byte_pairs(folder):
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmno", "fi", "il", "fil"]
    model = models.BPE(
        {word: i for i, word in enumerate(letters)}, [("f", "i"), ("i", "l"), ("fi", "l")], unk_token="[UNK]"
    )
    fast(folder, model, lowercase=False)
    write(folder, tokenizer_config__json={"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL})


KINDS = [vocab_alone, vocab_and_settings, bert_base, contradicting, json_and_class, byte_pairs]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_copy_gives_the_same_tokens(kind, tmp_path):
    source, copy, out = (tmp_path / name for name in ("source", "copy", "out"))
    source.mkdir(), out.mkdir()
    kind(source)
    expected = tokenizer.probe(read_tokenizer(source), 20)
    tokenizer.keep(port_of(source), epath.Path(copy))
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == {
        file.name: file.read_bytes() for file in source.iterdir()
    }
    assert tokenizer.probe(read_tokenizer(copy), 20) == expected
    tokenizer.carry_out(port_of(source), epath.Path(out))
    found = read_tokenizer(out)
    assert tokenizer.probe(found, 20) == expected and found.model_max_length == 20
    assert not (out / "config.json").exists()  # the export writes its model's own


def test_the_probes_tell_case_accents_and_pairs(tmp_path):
    """By hand: six of the words above, of which one folder lowers the case and the other does not."""
    found = {}
    for kind in (vocab_alone, vocab_and_settings):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        kind(folder)
        found[kind] = read_tokenizer(folder)
    assert found[vocab_and_settings]("The FILM film")["input_ids"] == [2, 6, 8, 7, 3]
    assert found[vocab_alone]("The FILM é")["input_ids"] == [2, 11, 8, 1, 3]
    assert tokenizer.probe(found[vocab_alone], 20) != tokenizer.probe(found[vocab_and_settings], 20)


def test_a_copy_that_reads_otherwise_is_refused_before_a_run_starts(tmp_path, monkeypatch):
    """What decides the tokens lies in a file that is not copied: nothing shows it but the tokens themselves."""
    config = text_config(tmp_path / "source")
    contradicting(tmp_path / "source")
    monkeypatch.setattr(tokenizer, "CLASS_FILE", "elsewhere.json")
    port, copy = port_of(tmp_path / "source"), epath.Path(tmp_path / "copy")
    for refused in (lambda: preflight(config), lambda: tokenizer.check(port), lambda: tokenizer.keep(port, copy)):
        with pytest.raises(
            InputError, match="not the same tokenizer .it tokenizes the same text differently.*save_pretrained"
        ) as error:
            refused()
        assert "\n" not in str(error.value)
    assert not copy.exists()


def test_a_copy_without_its_class_yields_to_the_source(tmp_path):
    """Copies made before the class was copied too."""
    source, run = tmp_path / "source", tmp_path / "run"
    source.mkdir()
    contradicting(source)
    tokenizer.keep(port_of(source), epath.Path(run / "tokenizer"))
    assert tokenizer.at_home(port_of(source), run).encodings[0].tokenizer == str(run / "tokenizer")
    (run / "tokenizer" / "config.json").unlink()
    assert tokenizer.at_home(port_of(source), run).encodings[0].tokenizer == str(source)


@pytest.mark.parametrize(
    ("settings", "sentence", "expected"),
    [
        ({"model_max_length": 512}, None, 512),
        ({"model_max_length": 512}, {"max_seq_length": 256}, 256),
        ({"model_max_length": int(1e30)}, None, None),
        ({"model_max_length": None}, {}, None),
        ({"model_max_length": 512.0}, {"max_seq_length": None}, 512),
        (None, None, None),
    ],
)
def test_the_longest_input_that_files_state(settings, sentence, expected, tmp_path):
    for name, content in (("tokenizer_config", settings), ("sentence_bert_config", sentence)):
        if content is not None:
            write(tmp_path, **{f"{name}__json": content})
    assert tokenizer.stated_length(tmp_path) == expected


@pytest.mark.parametrize("value", [-5, 0, "512", 12.5, True])
def test_a_longest_input_that_is_none(value, tmp_path):
    write(tmp_path, tokenizer_config__json={"model_max_length": value})
    with pytest.raises(InputError, match="expected model_max_length to be a positive integer, found"):
        tokenizer.stated_length(tmp_path)


@pytest.mark.system
def test_a_run_and_its_export_read_as_training_did(tmp_path):
    """Run, evaluate, predict, extend, export, predict, with the checkpoint gone after the run."""
    config = text_config(tmp_path / "source")
    contradicting(tmp_path / "source")
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    assert jaxfer.evaluate(tmp_path / "run") == pytest.approx(result["metrics"]["val"], rel=1e-6)
    phrases = ["Very FILM a Good.", "was bad Films and more than seven words of it"]
    answers = jaxfer.predict(tmp_path / "run", phrases, text=True)
    out = jaxfer.export(tmp_path / "run")
    assert jaxfer.predict(out, phrases, text=True) == answers
    assert jaxfer.predict(tmp_path / "run", [phrase.lower() for phrase in phrases], text=True) != answers
    evaluated = jaxfer.evaluate(out, overrides={"data.source": "table", "data.path": PHRASES})
    assert evaluated == pytest.approx(result["metrics"]["val"], rel=1e-6)
    assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 7
    (out / "jaxfer.json").unlink()  # as a folder of somebody else's, it still states how long an input may be
    assert foreign.opened(str(out), "auto", {}).options["max_length"] == 7
    config.steps = 2
    assert jaxfer.run(config, tmp_path / "run", quiet=True)["steps"] == 2
