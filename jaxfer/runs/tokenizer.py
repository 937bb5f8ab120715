"""The tokenizer travels with the weights: a copy in the run's folder, and in its export, that gives the same tokens."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.data.encodings.target import TargetEncoding
from jaxfer.data.encodings.text import TextEncoding
from jaxfer.data.encodings.tokenizers import (
    CLASS_FILE,
    TOKENIZER_FILES,
    fills,
    load_tokenizer,
    located,
    read_sha256,
    read_tokenizer,
    tokenizer_sha256,
)
from jaxfer.errors import InputError
from jaxfer.models.port import Port

FOLDER, SETTINGS = "tokenizer", "tokenizer_config.json"
SENTENCE_SETTINGS = "sentence_bert_config.json"  # where sentence-transformers states the length it cuts at
UNLIMITED = 10**9  # transformers writes 1e30 for a tokenizer without a longest input

# Scripts, case, accents (composed and not), punctuation, spaces, special tokens, unknown characters.
PROBES = (
    "The quick brown FOX, it's 12.5% o'clock -- (don't) e-mail a_b@c.org #tag http://x.y/z?q=1!",
    "Crème BRÛLÉE naïve Ångström straße İstanbul ﬁne ½ ① e\u0301te\u0301",
    "Привет Мир Γειά Σου 你好，世界。日本語 カタカナ 한국어 नमस्ते مرحبا שלום ไทย",
    "tab\tline\nspaces   no\u00a0break zero\u200bwidth 🙂👩\u200d👧 \ufffd \x07 ∀x∈ℝ",
    "[MASK] [UNK] [SEP] <mask> <s> </s> <unk> <pad>",
    "",
    "supercalifragilisticexpialidocious" * 8,
)
SHORT = 16  # tokens that the probes are truncated at, besides the model's longest input
SAMPLED = 64  # of the vocabulary's own tokens, which are written in lower, upper and title case and with an accent


def check(port: Port, *, own: bool | None = None) -> tuple[str, ...]:
    """Loads the port's tokenizer and a copy of it as `keep` makes them; nothing for a model without one.

    Args:
      port: the model.
      own: as in `load_tokenizer`.

    Returns:
      A note where the embedding has many more rows than its tokenizer has tokens.

    Raises:
      InputError: there is no tokenizer, it is not the model's, or its copy would give other tokens.
    """
    spec = _encoding(port)
    if spec is None:
        return ()
    tokenizer, _ = load_tokenizer(spec, own=own)
    _checked(tokenizer, read_sha256(tokenizer.name_or_path), spec.max_length)
    tokens, vocab = len(tokenizer), spec.vocab
    if fills(tokens, vocab):
        return ()
    return (f"the tokenizer has {tokens} tokens, the model's embedding {vocab} rows: the other rows are never read",)


def _encoding(port: Port) -> TextEncoding | TargetEncoding | None:
    """The first encoding with a tokenizer, if the port has one; all of a port have the same."""
    return next((encoding for encoding in port.encodings if isinstance(encoding, TextEncoding | TargetEncoding)), None)


@functools.lru_cache(maxsize=8)
def _checked(tokenizer: Any, sha256: str, max_length: int) -> None:
    with tempfile.TemporaryDirectory(prefix="jaxfer-tokenizer-") as place:
        _copy(tokenizer, epath.Path(place), write=epath.Path.write_bytes)
        _compare(tokenizer, epath.Path(place), max_length)


def keep(port: Port, folder: epath.Path) -> None:
    """Copies the files of the port's tokenizer into `folder`, made if absent; nothing for a model of images.

    Raises:
      InputError: they are not there, not the model's, or the copy gives other tokens.
    """
    spec = _encoding(port)
    if spec is None:
        return
    check(port)
    tokenizer, _ = load_tokenizer(spec)
    folder.mkdir(parents=True, exist_ok=True)
    _copy(tokenizer, folder)


def carry_out(port: Port, folder: epath.Path) -> None:
    """Writes an export's tokenizer: its files, with its class and the model's longest input in tokenizer_config.json.

    Raises:
      InputError: as `keep`.
    """
    spec = _encoding(port)
    if spec is None:
        return
    tokenizer, _ = load_tokenizer(spec)
    _copy(tokenizer, folder, skip=CLASS_FILE)  # the export's own config.json describes its model
    settings = _json(folder / SETTINGS)
    if not settings.get("tokenizer_class"):
        name = type(tokenizer).__name__
        settings["tokenizer_class"] = "PreTrainedTokenizerFast" if name == "TokenizersBackend" else name
    files.write_json(folder / SETTINGS, {**settings, "model_max_length": spec.max_length})
    _compare(tokenizer, folder, spec.max_length)


def at_home(port: Port, run: epath.Path) -> Port:
    """The port with the tokenizer copy in the run's folder, if whole: the checkpoint may have been moved since."""
    spec, copy = _encoding(port), epath.Path(run) / FOLDER
    if spec is None or not any((copy / name).exists() for name in TOKENIZER_FILES):
        return port
    sha256 = tokenizer_sha256(copy)
    if spec.tokenizer_sha256 and sha256 != spec.tokenizer_sha256:  # of another run, or torn by a kill
        return port
    if not (copy / CLASS_FILE).exists() and _describes(spec.tokenizer, sha256):  # made before copies had the class
        return port
    place = _fetched(copy, read_sha256(copy)).name if files.remote(copy) else str(copy)
    moved = (
        dataclasses.replace(each, tokenizer=place) if isinstance(each, TextEncoding | TargetEncoding) else each
        for each in port.encodings
    )
    return dataclasses.replace(port, encodings=tuple(moved))


def _describes(folder: str, sha256: str) -> bool:
    """Whether the tokenizer in a folder, if it is still there, lies beside a file that tells its class."""
    try:
        source = located(folder)
        return (source / CLASS_FILE).is_file() and tokenizer_sha256(source) == sha256
    except InputError:
        return False


def stated_length(folder: str | epath.Path) -> int | None:
    """The longest input that the files beside a tokenizer state, in tokens with special ones; None where none does.

    Raises:
      InputError: a length that is none.
    """
    lengths = []
    for name, field in ((SENTENCE_SETTINGS, "max_seq_length"), (SETTINGS, "model_max_length")):
        value = _json(epath.Path(folder) / name).get(field)
        if value is None or (isinstance(value, (int, float)) and value > UNLIMITED):
            continue
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or value < 1:
            raise InputError(f"{epath.Path(folder) / name}: expected {field} to be a positive integer, found {value!r}")
        lengths.append(int(value))
    return min(lengths, default=None)


def probe(tokenizer: Any, max_length: int) -> list[Any]:
    """A tokenizer's size, padding, and answers on `PROBES` and words of its vocabulary: alone, in pairs, truncated.

    Two tokenizers with equal answers read texts alike, as far as `PROBES` tell.
    """
    words = [token.strip("#▁Ġ@ ") for token in sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)]
    words = [word for word in words if word]
    line = " ".join(words[:: max(1, len(words) // SAMPLED)])
    accented = " ".join(f"{word[0]}\u0301{word[1:]}" for word in line.split())
    texts = [*PROBES, line, line.upper(), line.title(), accented]
    answers = [len(tokenizer), tokenizer.pad_token_id]
    for length in (None, SHORT, max(max_length, SHORT)):
        cut = {} if length is None else {"truncation": True, "max_length": length}
        for inputs in ((texts,), (texts, texts[::-1])):
            encoded = tokenizer(*inputs, **cut, padding=False, return_token_type_ids=True, verbose=False)
            answers += [encoded["input_ids"], encoded["token_type_ids"]]
    return answers


def _compare(tokenizer: Any, folder: epath.Path, max_length: int) -> None:
    """Raises `InputError` where the copy in `folder` tokenizes the probes differently from `tokenizer`."""
    source, why = tokenizer.name_or_path, "it tokenizes the same text differently"
    with _local(folder) as place:
        try:
            if probe(read_tokenizer(place), max_length) == probe(tokenizer, max_length):
                return
        except InputError as error:
            why = str(error).replace(place, "the copy")
    raise InputError(
        f"a copy of the tokenizer in {source!r} is not the same tokenizer ({why}); save it again with transformers' "
        "`AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)` and set config.model.tokenizer=FOLDER"
    )


def _copy(tokenizer: Any, folder: epath.Path, *, skip: str = "", write: Callable[..., Any] = files.write_bytes) -> None:
    """The files that a tokenizer was read from, the usual ones and those that its class names besides."""
    source = epath.Path(tokenizer.name_or_path)
    # The class first: the sha256 by which a copy is known to be whole does not cover it.
    names = dict.fromkeys((CLASS_FILE, *tokenizer.vocab_files_names.values(), *TOKENIZER_FILES))
    for name in names:
        if name != skip and (source / name).is_file() and source / name != folder / name:
            write(folder / name, (source / name).read_bytes())


@contextlib.contextmanager
def _local(folder: epath.Path) -> Iterator[str]:
    """The folder on this machine: tokenizers are read from files."""
    if not files.remote(folder):
        yield str(folder)
        return
    with tempfile.TemporaryDirectory(prefix="jaxfer-tokenizer-") as place:
        _fetch(folder, place)
        yield place


@functools.lru_cache(maxsize=8)
def _fetched(folder: epath.Path, sha256: str) -> tempfile.TemporaryDirectory[str]:
    """A copy on this machine, as long as the process lives."""
    place = tempfile.TemporaryDirectory(prefix="jaxfer-tokenizer-")
    _fetch(folder, place.name)
    return place


def _fetch(folder: epath.Path, place: str) -> None:
    for file in folder.iterdir():
        if file.is_file():
            Path(place, file.name).write_bytes(file.read_bytes())


def _json(path: epath.Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON object ({error}); restore the tokenizer's files") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {content!r:.40}; restore the tokenizer's files")
    return content
