"""Ordered (path regex, value) rules over a parameter tree: the one selection language.

Freezing, learning rates, weight decay and LoRA targets are all written as rules over parameter paths such as
`block_3/attn/query/kernel`. The first full match wins. Nothing is silent: a leaf that no rule claims and a rule of
the user's that claims no leaf are both errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from flax import traverse_util

from jaxfer.errors import RuleError, nearest

T = TypeVar("T")
Rules = tuple[tuple[str, T], ...]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dict -> {path: leaf}, paths joined by `/`."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf} -> nested dict; the inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(leaves), sep="/")


def resolve(rules: Rules[T], paths: Iterable[str], *, defaults: Rules[T] = (), what: str = "rule") -> dict[str, T]:
    """The value of the first rule that fully matches each path.

    Args:
      rules: what the user wrote, in order; each must claim at least one path.
      paths: the parameter paths, each of which must be claimed.
      defaults: tried after `rules`; a default may stay unused.
      what: how errors name a rule (`freeze rule`).

    Returns:
      {path: value} in the order of `paths`.

    Raises:
      RuleError: a rule is no regular expression, claims nothing, or a path is claimed by none.
    """
    paths = list(paths)
    compiled = [(_compile(pattern, what), value) for pattern, value in (*rules, *defaults)]
    claimed: dict[str, int] = {}
    for path in paths:
        for i, (pattern, _) in enumerate(compiled):
            if pattern.fullmatch(path):
                claimed[path] = i
                break
    used = set(claimed.values())
    for i, (pattern, _) in enumerate(rules):
        if i not in used:
            raise RuleError(_dead(pattern, i, compiled, claimed, paths, what))
    unclaimed = [path for path in paths if path not in claimed]
    if unclaimed:
        shown = ", ".join(repr(path) for path in unclaimed[:5]) + (" ..." if len(unclaimed) > 5 else "")
        raise RuleError(f"{len(unclaimed)} parameters are claimed by no {what}: {shown}; end the rules with '.*'")
    return {path: compiled[claimed[path]][1] for path in paths}


def select(patterns: Iterable[str], paths: Iterable[str], *, what: str = "rule") -> frozenset[str]:
    """The paths that any pattern fully matches; each pattern must match at least one (earlier ones may overlap)."""
    paths, chosen = list(paths), set()
    for pattern in patterns:
        hits = [path for path in paths if _compile(pattern, what).fullmatch(path)]
        if not hits:
            raise RuleError(f"{what} {pattern!r} matches no parameter{_near(pattern, paths)}")
        chosen.update(hits)
    return frozenset(chosen)


def _compile(pattern: str, what: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise RuleError(f"{what} {pattern!r} is not a regular expression: {error}") from None


def _dead(pattern: str, i: int, compiled: list, claimed: Mapping[str, int], paths: list[str], what: str) -> str:
    hits = [path for path in paths if re.fullmatch(pattern, path)]
    if hits:
        winners = ", ".join(dict.fromkeys(repr(compiled[claimed[path]][0].pattern) for path in hits))
        went = f"all it matches ({_leaves(len(hits))}) went to the earlier {winners}"
        return f"{what} {pattern!r} claims nothing: {went}; move it up or remove it"
    return f"{what} {pattern!r} matches no parameter{_near(pattern, paths)}"


def _near(pattern: str, paths: list[str]) -> str:
    """`; nearest: 'block_0/.*' (16 leaves)`: path prefixes similar to the pattern."""
    if not paths:
        return "; this model has none of that kind"
    leaves: dict[str, int] = {}
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            name = path if depth == len(parts) else "/".join(parts[:depth]) + "/.*"
            leaves[name] = leaves.get(name, 0) + 1
    tail = nearest(pattern, leaves)
    if not tail.startswith("; nearest"):
        return "; top-level names: " + ", ".join(sorted({path.split("/")[0] for path in paths}))
    return re.sub(r"'([^']*)'", lambda hit: f"'{hit[1]}' ({_leaves(leaves[hit[1]])})", tail)


def _leaves(count: int) -> str:
    return "1 leaf" if count == 1 else f"{count} leaves"
