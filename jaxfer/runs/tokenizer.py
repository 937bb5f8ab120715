"""The tokenizer travels with the weights: a copy in the run's folder, and in its export."""

from __future__ import annotations

import dataclasses
import functools
import tempfile

from etils import epath

from jaxfer import files
from jaxfer.data.encodings.spec import TextPreprocessing
from jaxfer.data.encodings.text import TOKENIZER_FILES, load_tokenizer, tokenizer_sha256
from jaxfer.models.port import Port

FOLDER = "tokenizer"


def keep(port: Port, folder: epath.Path) -> None:
    """Copies the files of the port's tokenizer into `folder`, made if absent; nothing for a model of images.

    Raises:
      InputError: they are not there, or not the model's.
    """
    spec = port.preprocessing
    if not isinstance(spec, TextPreprocessing):
        return
    tokenizer, _ = load_tokenizer(spec)
    source = epath.Path(tokenizer.name_or_path)
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            (folder / name).write_bytes((source / name).read_bytes())


def at_home(port: Port, run: epath.Path) -> Port:
    """The port with the copy in the run's folder, where that is whole: the checkpoint may have been moved since."""
    spec, copy = port.preprocessing, epath.Path(run) / FOLDER
    if not isinstance(spec, TextPreprocessing) or not any((copy / name).exists() for name in TOKENIZER_FILES):
        return port
    sha256 = tokenizer_sha256(copy)
    if spec.tokenizer_sha256 and sha256 != spec.tokenizer_sha256:  # of another run, or torn by a kill
        return port
    place = _fetched(copy, sha256).name if files.remote(copy) else str(copy)
    return dataclasses.replace(port, preprocessing=dataclasses.replace(spec, tokenizer=place))


@functools.lru_cache(maxsize=8)
def _fetched(folder: epath.Path, sha256: str) -> tempfile.TemporaryDirectory[str]:
    """A copy on this machine, as long as the process lives: tokenizers are read from files."""
    place = tempfile.TemporaryDirectory(prefix="jaxfer-tokenizer-")
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            (epath.Path(place.name) / name).write_bytes((folder / name).read_bytes())
    return place
