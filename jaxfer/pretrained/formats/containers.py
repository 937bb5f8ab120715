"""Where a training script put the state dict: under which keys of what it saved, and behind which prefix.

A known name or the only candidate is taken, and `Weights.unwrapped` says so; of several unknown ones the user names one
with `config.init_options`: `pick` for the keys, `prefix` for the prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxfer.errors import InputError, nearest
from jaxfer.pretrained.formats import archives

# By preference. DINO and iBOT evaluate their teacher.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "backbone", "encoder", "teacher")
BESIDE = ("optimizer", "optimizer_state_dict", "criterion", "loss", "dino_loss", "scaler", "rng_state")  # never a model
DEEPEST = 4
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every key
COUNTERS = ("n_averaged",)  # what AveragedModel puts beside them
# Attributes in which wrappers keep the network itself: Lightning modules, MoCo and other self-supervised learners.
HOLDERS = ("module", "_orig_mod", "model", "net", "network", "backbone", "encoder", "encoder_q", "base_encoder")
HINT = "set config.init_options"


def unwrapped(content: Any, pick: str = "") -> tuple[Mapping[str, Any], tuple[str, ...], tuple[str, ...]]:
    """(the state dict in what a training script saved, the keys that lead to it, what lies beside those).

    Args:
      content: what the archive holds.
      pick: the keys to follow first, parted by slashes; "" for none.

    Raises:
      InputError: no state dict, a key of `pick` that is not there, or several state dicts and no reason to take one.
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
        raise InputError(f"no tensors there nor under {', '.join(WRAPPERS)}; found {listing}; {fix}")
    return content, path, beside


def _inner(content: Mapping[Any, Any]) -> Any:
    """The key under which the state dict lies, None where this is one."""
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
    """Whether there are tensors within: `model` may as well be the name of a section of settings."""
    level, seen = [value], set()  # a pickle may name one dict a thousand times: each is looked at once
    for _ in range(DEEPEST):
        level = [x for x in level if isinstance(x, Mapping) and not (id(x) in seen or seen.add(id(x)))]
        if any(_tensors(x) for x in level):
            return True
        level = [inner for x in level for inner in x.values()]
    return False


def _tensors(value: Any) -> int:
    return sum(isinstance(x, archives.LazyTensor) for x in value.values()) if isinstance(value, Mapping) else 0


def without_wrappers(keys: Collection[str]) -> tuple[str, ...]:
    """The prefixes, outermost first, that wrappers of a module put before every key."""
    prefixes, keys = (), [key for key in keys if key not in COUNTERS]
    while keys and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in keys)), None)):
        keys, prefixes = [key[len(prefix) :] for key in keys], (*prefixes, prefix)
    return prefixes


def prefix_of(keys: Collection[str], entries: Mapping[str, Sequence[str]]) -> str:
    """What a wrapper put before the network's keys, where only one can be meant; "" else.

    Args:
      keys: of all tensors.
      entries: {a key that every checkpoint of some layout has: that layout's own prefixes}.
    """
    prefixes = _before(keys, entries)
    known = [before for before in prefixes if set(before.split(".")[:-1]) <= set(HOLDERS)]
    if prefixes:
        return known[0] if len(known) == 1 else ""
    return _common(keys)


def hint(keys: Collection[str], entries: Mapping[str, Sequence[str]]) -> str:
    """The tail of an error where the network's keys stand behind a prefix that is not taken off; "" else."""
    prefixes = _before(keys, entries)
    names = ", ".join(map(repr, prefixes[:5]))
    return f"the keys begin with {names}; {HINT}.prefix to the one to read" if prefixes and prefixes != [""] else ""


def _before(keys: Collection[str], entries: Mapping[str, Sequence[str]]) -> list[str]:
    """What stands before the first key of a layout and its own prefix, in every place where there is one."""
    prefixes = set()
    for entry, layout_prefixes in entries.items():
        for key in keys:
            if key == entry or key.endswith(f".{entry}"):
                before = key[: len(key) - len(entry)]
                prefixes.add(
                    next((before[: len(before) - len(p)] for p in layout_prefixes if before.endswith(p)), before)
                )
    # `layer1.0.conv1.weight` ends like `conv1.weight`: the outermost place counts.
    return sorted(b for b in prefixes if not any(b != other and b.startswith(other) for other in prefixes))


def _common(keys: Collection[str]) -> str:
    """What stands before every key, as far as wrappers are known to put it there."""
    before, keys = "", list(keys)
    while keys and (word := keys[0].partition(".")[0]) in HOLDERS and all(key.startswith(f"{word}.") for key in keys):
        before, keys = f"{before}{word}.", [key[len(word) + 1 :] for key in keys]
    return before
