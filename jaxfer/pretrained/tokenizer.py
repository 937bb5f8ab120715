"""The tokenizer travels with the weights: a copy in the run's folder, and in its export."""

from __future__ import annotations

import dataclasses

from etils import epath

from jaxfer.data.text import TOKENIZER_FILES, load_tokenizer
from jaxfer.models.port import Port, TextPreprocessing

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
    """The port with the tokenizer that lies in the run's folder, where there is one."""
    folder = epath.Path(run) / FOLDER
    if not isinstance(port.preprocessing, TextPreprocessing) or not folder.exists():
        return port
    return dataclasses.replace(port, preprocessing=dataclasses.replace(port.preprocessing, tokenizer=str(folder)))
