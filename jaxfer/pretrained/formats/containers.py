"""Locate the state dict in a file that a training script saved: the keys that lead to it, and the prefix of its keys.

A known name or the only candidate is taken and recorded in `Weights.unwrapped`. If there are several unknown ones, the
user picks one with `config.init_options`: `pick` for the keys, `prefix` for the prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxfer.errors import InputError, nearest
from jaxfer.pretrained.formats import archives

# In order of preference. DINO and iBOT evaluate their teacher.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "backbone", "encoder", "teacher")
BESIDE = ("optimizer", "optimizer_state_dict", "criterion", "loss", "dino_loss", "scaler", "rng_state")  # never a model
DEEPEST = 4
PREFIXES = ("module.", "_orig_mod.")  # prefixes that DataParallel and torch.compile add to every key
COUNTERS = ("n_averaged",)  # entries that AveragedModel adds
# Attributes in which wrappers hold the network: Lightning modules, MoCo and other self-supervised learners, and
# sentence-transformers, whose encoder is `0.auto_model`.
HOLDERS = (
    *("module", "_orig_mod", "model", "net", "network", "backbone", "encoder", "encoder_q", "base_encoder"),
    *("0", "auto_model"),
)
HINT = "set config.init_options"


def unwrapped(content: Any, pick: str = "") -> tuple[Mapping[str, Any], tuple[str, ...], tuple[str, ...]]:
    """(the state dict, the keys that lead to it, the other entries passed on the way).

    Args:
      content: the content of the archive.
      pick: the keys to follow first, separated by slashes; "" for none.

    Raises:
      InputError: no state dict, an unknown key in `pick`, or several candidate state dicts.
    """
    path, beside = (), ()
    for name in filter(None, pick.split("/")):
        known = {str(key): key for key in content} if isinstance(content, Mapping) else {}
        if name not in known:
            raise InputError(f"config.init_options.pick={pick!r}: there is no {name!r}{nearest(name, known)}")
        content, path, beside = content[known[name]], (*path, name), (*beside, *(key for key in known if key != name))
    while isinstance(content, Mapping) and len(path) < DEEPEST and (inner := _inner(content)) is not None:
        beside = (*beside, *(str(key) for key in content if key != inner))
        content, path = content[inner], (*path, str(inner))
    if isinstance(content, archives.Skipped):
        raise archives.Refused(f"a pickle with code in it, refused: global {content.name}; {archives.SAVE_AGAIN}")
    if not isinstance(content, Mapping):
        raise InputError(f"expected a dict of tensors, found a {type(content).__name__}; {archives.SAVE_AGAIN}")
    if not _tensors(content):
        skipped = next((value for value in content.values() if isinstance(value, archives.Skipped)), None)
        listing = ", ".join(map(str, list(content)[:5])) or "nothing"
        listing += "" if skipped is None else f" (of class {skipped.name})"
        fix = f"{HINT}.pick to their keys" if _holds_tensors(content) else archives.SAVE_AGAIN
        raise InputError(f"expected tensors, directly or under {', '.join(WRAPPERS)}; found {listing}; {fix}")
    return content, path, beside


def _inner(content: Mapping[Any, Any]) -> Any:
    """The key of the state dict within `content`; None if `content` is one itself."""
    named = next((key for key in WRAPPERS if _holds_tensors(content.get(key))), None)
    if named is not None:
        return named
    count = _tensors(content)
    candidates = [key for key, value in content.items() if key not in BESIDE and _tensors(value) > count]
    if len(candidates) > 1:
        names = ", ".join(map(str, candidates))
        raise InputError(f"{len(candidates)} state dicts ({names}); {HINT}.pick to the one to read")
    return candidates[0] if candidates else None


def _holds_tensors(value: Any) -> bool:
    """Whether a value contains tensors; `model` may also name a section of settings."""
    level, seen = [value], set()  # a pickle may refer to one dict many times: visit each once
    for _ in range(DEEPEST):
        level = [x for x in level if isinstance(x, Mapping) and not (id(x) in seen or seen.add(id(x)))]
        if any(_tensors(x) for x in level):
            return True
        level = [inner for x in level for inner in x.values()]
    return False


def _tensors(value: Any) -> int:
    return sum(isinstance(x, archives.LazyTensor) for x in value.values()) if isinstance(value, Mapping) else 0


def without_wrappers(keys: Collection[str]) -> tuple[str, ...]:
    """The prefixes that module wrappers add to every key, outermost first."""
    prefixes, keys = (), [key for key in keys if key not in COUNTERS]
    while keys and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in keys)), None)):
        keys, prefixes = [key[len(prefix) :] for key in keys], (*prefixes, prefix)
    return prefixes


def prefix_of(keys: Collection[str], entries: Mapping[str, Sequence[str]]) -> str:
    """The wrapper's prefix of the network's keys; "" if there is none or it is ambiguous.

    Args:
      keys: the keys of all tensors.
      entries: {a key that every checkpoint of a layout has: that layout's prefixes}.
    """
    prefixes = _before(keys, entries)
    known = [before for before in prefixes if set(before.split(".")[:-1]) <= set(HOLDERS)]
    if prefixes:
        return known[0] if len(known) == 1 else ""
    return _common(keys)


def hint(keys: Collection[str], entries: Mapping[str, Sequence[str]]) -> str:
    """The end of an error message if the network's keys still carry a prefix; else ""."""
    prefixes = _before(keys, entries)
    names = ", ".join(map(repr, prefixes[:5]))
    return f"the keys begin with {names}; {HINT}.prefix to the one to read" if prefixes and prefixes != [""] else ""


def _before(keys: Collection[str], entries: Mapping[str, Sequence[str]]) -> list[str]:
    """Every string that precedes an occurrence of a layout's first key and that layout's prefix."""
    prefixes = set()
    for entry, layout_prefixes in entries.items():
        for key in keys:
            if key == entry or key.endswith(f".{entry}"):
                before = key[: len(key) - len(entry)]
                prefixes.add(
                    next((before[: len(before) - len(p)] for p in layout_prefixes if before.endswith(p)), before)
                )
    # `layer1.0.conv1.weight` ends like `conv1.weight`: keep the outermost occurrence.
    return sorted(b for b in prefixes if not any(b != other and b.startswith(other) for other in prefixes))


def _common(keys: Collection[str]) -> str:
    """The common prefix of all keys, as far as it consists of known wrappers' names."""
    before, keys = "", list(keys)
    while keys and (word := keys[0].partition(".")[0]) in HOLDERS and all(key.startswith(f"{word}.") for key in keys):
        before, keys = f"{before}{word}.", [key[len(word) + 1 :] for key in keys]
    return before
