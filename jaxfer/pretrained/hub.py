"""Where a checkpoint lies: a local folder or file, or a name on the Hugging Face Hub, and which of its files matter."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import huggingface_hub
from etils import epath
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors

from jaxfer.errors import InputError, nearest
from jaxfer.pretrained import reading

# By preference; a pickle only where there is nothing better.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
ARCHIVES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
# What trainers leave beside a model, and adapters, which are no model.
NOT_WEIGHTS = r"(optimizer|scheduler|scaler|rng_state.*|training_args|adapter_model.*)\.\w+|.*-\d+-of-\d+\.\w+"
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
DOWNLOADS = (
    ("config.json", "1_Pooling/config.json", *PREPROCESSORS, *TOKENIZERS, *SAFETENSORS, "model-*-of-*.safetensors"),
    (*ARCHIVES, "pytorch_model-*-of-*.bin"),
)
HUB_NAME = r"[\w][\w.-]*(/[\w][\w.-]*)?"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint's files on this machine.

    Attributes:
      init: what the user called it.
      weights: what `reading.read` takes: a file, or the index of its shards.
      sha256: of the weights; the source's name in ledgers and lineage.
      config: its config.json, None where a bare file has none.
      preprocessor: its preprocessor_config.json (or the image processor in processor_config.json), None likewise.
      tokenizer: its tokenizer files, () where it has none.
      commit: the Hub's commit, None for local files.
    """

    init: str
    weights: epath.Path
    sha256: str
    config: dict[str, Any] | None = None
    preprocessor: dict[str, Any] | None = None
    tokenizer: tuple[epath.Path, ...] = ()
    commit: str | None = None


def find(init: str, *, revision: str | None = None) -> Found:
    """The files behind a folder, a file or a Hub name; an existing path wins over a Hub name.

    Args:
      init: `./folder`, `file.pth`, or `google/vit-base-patch16-224`.
      revision: branch, tag or commit on the Hub; None: main.

    Raises:
      InputError: nothing there, no weights or several, a damaged JSON, or a Hub that can't be reached.
    """
    if "://" in init and not init.startswith(("gs://", "s3://")):
        raise InputError(f"{init}: an address; expected a folder, a file or a Hub name: download it and give the file")
    path = epath.Path(init).expanduser()
    if path.exists():
        if revision is not None:
            raise InputError(f"revision={revision!r} is for the Hub, but {init} is here; remove the revision")
        return _folder(init, path) if path.is_dir() else _file(init, path)
    if _looks_like_path(init):
        parent = path.parent
        known = [str(parent / entry.name) for entry in parent.iterdir()] if parent.is_dir() else []
        tail = nearest(init, known) if known else f"; there is no folder {parent} either"
        raise InputError(f"{init}: no such folder or file{tail}")
    return _hub(init, revision)


def _looks_like_path(init: str) -> bool:
    return init.startswith((".", "/", "~")) or init.endswith((*SUFFIXES, ".json")) or not re.fullmatch(HUB_NAME, init)


def _file(init: str, path: epath.Path) -> Found:
    if re.fullmatch(r".*-\d+-of-\d+\.\w+", path.name):
        raise InputError(f"{init}: one shard of several; give its folder or its .index.json")
    if path.suffix == ".json" and not path.name.endswith(reading.INDEX):
        raise InputError(f"{init}: expected weights, found a JSON file; give its folder")
    # Beside a file of one of the standard names the config is that checkpoint's; beside any other it may be another's.
    return _found(init, path, path.parent if path.name in (*SAFETENSORS, *ARCHIVES) else None)


def _folder(init: str, folder: epath.Path, commit: str | None = None) -> Found:
    for name in (*SAFETENSORS, *ARCHIVES):
        if (folder / name).exists():
            return _found(init, folder / name, folder, commit)
    names = sorted(entry.name for entry in folder.iterdir())
    others = [name for name in names if name.endswith(SUFFIXES) and not re.fullmatch(NOT_WEIGHTS, name)]
    chosen = [name for name in others if name.endswith(".safetensors")] or others
    if len(chosen) > 1:
        raise InputError(f"{init}: {len(chosen)} files of weights ({', '.join(chosen[:4])}); give one of them")
    if not chosen:
        what = "an adapter without its base model" if "adapter_config.json" in names else "no weights that are read"
        found = ", ".join(names[:8]) or "nothing"
        expected = "model.safetensors, pytorch_model.bin or an index of shards"
        raise InputError(f"{init}: {what}; expected {expected}, found {found}")
    return _found(init, folder / chosen[0], folder, commit)


def _found(init: str, weights: epath.Path, folder: epath.Path | None, commit: str | None = None) -> Found:
    def content(name: str) -> dict[str, Any] | None:
        there = folder is not None and (folder / name).exists()
        return reading.read_json(folder / name) if there else None

    preprocessor = content(PREPROCESSORS[0])
    if preprocessor is None and (processor := content(PREPROCESSORS[1])) is not None:
        preprocessor = processor.get("image_processor", processor)
    return Found(
        init=init,
        weights=weights,
        sha256=reading.sha256(weights),
        config=content("config.json"),
        preprocessor=preprocessor,
        tokenizer=tuple(folder / name for name in TOKENIZERS if (folder / name).exists()) if folder else (),
        commit=commit,
    )


def _hub(name: str, revision: str | None) -> Found:
    """Downloads what is needed into the Hub's cache; pickles only of a repository without safetensors."""
    for patterns in DOWNLOADS:
        folder = epath.Path(_download(name, revision, patterns))
        if any((folder / weights).exists() for weights in (*SAFETENSORS, *ARCHIVES)):
            break
    return _folder(name, folder, commit=folder.name)


def _download(name: str, revision: str | None, patterns: tuple[str, ...]) -> str:
    cache = constants.HF_HUB_CACHE
    at = f" at revision {revision!r}" if revision else ""
    here = f"{name}: no such folder or file here, and"
    try:
        return huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), cache_dir=cache
        )
    except hub_errors.GatedRepoError:
        raise InputError(f"{here} gated on the Hub; accept its terms there and run `hf auth login`") from None
    except hub_errors.RepositoryNotFoundError:
        raise InputError(f"{here} not on the Hub; check the name, or run `hf auth login` if it is private") from None
    except hub_errors.RevisionNotFoundError:
        raise InputError(f"{name}: on the Hub, but not{at}; give a branch, tag or commit of it") from None
    except (hub_errors.HTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{here} the Hub can't be reached{at} ({reason}) nor is it whole in the cache {cache}; run "
            f"`hf download {name}` where there is a network and copy the cache, or give its folder"
        ) from None
