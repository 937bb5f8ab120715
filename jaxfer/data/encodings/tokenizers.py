"""The Hugging Face tokenizer that a model names: found, read from its files alone, and checked to be the model's."""

from __future__ import annotations

import functools
import importlib
import os
from pathlib import Path
from typing import Any, Protocol

from etils import epath

from jaxfer.data.lookup import expanded, fingerprint
from jaxfer.errors import InputError

# Files of a tokenizer's folder; the sha256 covers those present and ignores all others.
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)

# SentencePiece's models. transformers converts them where there is no tokenizer.json, with two packages of its own.
PIECES = ("sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model")
CONVERTS = ("sentencepiece", "google.protobuf")
# Those that hold no tokens of their own, but what is said of tokens.
DESCRIBING = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")

# transformers uses its `model_type` or `tokenizer_class` when the tokenizer's files name no class.
CLASS_FILE = "config.json"


class Named(Protocol):
    """What an encoding says of its tokenizer (`TextEncoding`)."""

    tokenizer: str
    tokenizer_sha256: str
    vocab: int


def read_sha256(folder: str | epath.Path) -> str:
    """sha256 (hex) of every file that affects how a folder's tokenizer reads: its own files and config.json."""
    described = epath.Path(folder) / CLASS_FILE
    content = described.read_bytes() if described.is_file() else b""
    return fingerprint([tokenizer_sha256(folder), content])


def tokenizer_sha256(folder: str | epath.Path) -> str:
    """sha256 (hex) over the tokenizer files in a folder, names and content; `InputError` where there is none."""
    folder = epath.Path(folder)
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        raise InputError(
            f"expected a tokenizer (tokenizer.json or vocab.txt, ...) in {str(folder)!r}, found none; "
            "correct config.model.tokenizer"
        )
    return fingerprint(part for file in files for part in (file.name, file.read_bytes()))


def load_tokenizer(encoding: Named, *, own: bool | None = None) -> tuple[Any, str]:
    """(the Hugging Face tokenizer, sha256 of its files) that a model names.

    Args:
      encoding: of the model.
      own: whether it is known to be the model's, which may then have many more rows; None: if the model has a sha256.

    Raises:
      InputError: none is named, it can't be read, or it is not the model's: other files than the sha256 says, another
        number of tokens, or no padding token.
    """
    if not encoding.tokenizer:
        raise InputError(
            "the model has no tokenizer; set config.model.tokenizer to a folder, or init to a checkpoint with one"
        )
    folder = located(encoding.tokenizer)
    sha256, expected = tokenizer_sha256(folder), encoding.tokenizer_sha256
    if expected and sha256 != expected:
        raise InputError(
            f"the tokenizer in {str(folder)!r} has sha256 {sha256[:12]}, the model was made with {expected[:12]}; "
            "restore it, or set config.model.tokenizer to the model's own"
        )
    tokenizer = read_tokenizer(folder)
    tokens, vocab = len(tokenizer), encoding.vocab
    if tokenizer.model_max_length < 1:
        raise InputError(
            f"the tokenizer in {str(folder)!r} states model_max_length={tokenizer.model_max_length}; expected at least "
            "1: correct its tokenizer_config.json"
        )
    own = bool(expected) if own is None else own
    # Embeddings are often padded slightly beyond the tokenizer; far beyond, the tokenizer is another model's.
    unpadded = tokenizer.pad_token_id is None and not hasattr(encoding, "pad")  # some encodings state their own
    if not tokens <= vocab or not (own or fills(tokens, vocab)) or unpadded:
        actual = f"{tokens} tokens" + (" and no padding token" if unpadded else "")
        raise InputError(
            f"the tokenizer in {str(folder)!r} does not match the model: expected {vocab} tokens, found {actual}; "
            "set config.model.tokenizer to the checkpoint's own (from scratch: set config.model.vocab to its size), or "
            "if it does belong to the model, announce it with config.differs=tokenizer"
        )
    return tokenizer, sha256


def fills(tokens: int, vocab: int) -> bool:
    """Whether an embedding of `vocab` rows plausibly belongs to a tokenizer of `tokens` tokens."""
    return 0.9 * vocab <= tokens


def located(folder: str) -> Path:
    """The folder as written, else under the environment variable JAXFER_DATA; `InputError` if in neither place."""
    path = expanded(folder, "config.model.tokenizer")
    tried = [path, *([Path(os.environ["JAXFER_DATA"]) / folder] if os.environ.get("JAXFER_DATA") else [])]
    for candidate in tried:
        if candidate.is_dir():
            return candidate
    raise InputError(f"config.model.tokenizer: expected a folder, found nothing at {folder!r}; correct it")


def read_tokenizer(folder: str | Path) -> Any:
    """The Hugging Face tokenizer in a folder, of any model; `InputError` if it can't be read.

    One without a padding token, as GPT-2's and Llama's, pads with the token that ends texts: attention leaves padding
    out, so that any token would do.
    """
    return _read(str(folder), read_sha256(folder))


def borrows_padding(tokenizer: Any) -> bool:
    """Whether a read tokenizer pads with the token that ends texts for lack of one of its own."""
    return getattr(tokenizer, _BORROWS, False)


_BORROWS = "jaxfer_borrows_padding"


@functools.lru_cache(maxsize=8)
def _read(folder: str, sha256: str) -> Any:
    """Reads the tokenizer from its files alone; never uses the network or runs code beside them."""
    _check_converts(Path(folder))
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # silences its warning about a missing PyTorch
    from transformers import AutoTokenizer  # imported late: it takes a second, and image runs do not need it

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its many readers raise anything on files in another format
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"expected a tokenizer in {folder!r}, found {type(error).__name__} ({reason}); restore its files"
        ) from None
    # Without them a class makes a tokenizer of its special tokens alone, to which every word is unknown.
    needed = set(getattr(tokenizer, "vocab_files_names", {}).values())
    if needed and not any((Path(folder) / name).is_file() for name in needed | {*TOKENIZER_FILES} - {*DESCRIBING}):
        raise InputError(
            f"expected the tokens of a {type(tokenizer).__name__} ({' or '.join(sorted(needed))}) in {folder!r}, found "
            "none; restore its files"
        )
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
        setattr(tokenizer, _BORROWS, True)
    return tokenizer


def _check_converts(folder: Path) -> None:
    """`InputError` for a SentencePiece model alone where transformers can't convert it."""
    model = next((name for name in PIECES if (folder / name).is_file()), None)
    if model is None or (folder / "tokenizer.json").is_file():
        return
    for package in CONVERTS:
        try:
            importlib.import_module(package)
        except ImportError:
            raise InputError(
                f"the tokenizer in {str(folder)!r} is {model} alone, which is read with the packages sentencepiece and "
                f"protobuf, and {package} is missing; install them, or save it as tokenizer.json where they are"
            ) from None
