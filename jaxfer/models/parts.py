"""Parts: heads beside the main one, for the tasks of other streams, on the same backbone.

The parameters of a part lie under the path of the main head, `head/out/NAME/...`, so that whatever speaks of the head
(groups, rates, freezing) speaks of all of them. A part is a port of its own that reads the same parameters with its own
in the place of the main head's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Params = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where a part's parameters lie.

    Attributes:
      name: of its stream.
      head: path of the main head, under which they are stored.
      own: path that they have in the part's own model: of its output layer, or of its whole head unit where the main
        head is of another kind.
    """

    name: str
    head: str
    own: str

    @property
    def path(self) -> str:
        """Path under which they are stored."""
        return f"{self.head}/{self.name}"

    def stored(self, fresh: Params) -> Params:
        """The part's own parameters out of those of its model."""
        return _get(fresh, self.own.split("/"))

    def chosen(self, params: Params) -> Params:
        """All parameters as the part's model reads them."""
        return _put(params, self.own.split("/"), _get(params, self.path.split("/")))


def added(params: Params, part: Part, values: Params) -> Params:
    """The parameters with those of the part."""
    return _put(params, part.path.split("/"), values)


def without(params: Params, parts: Iterable[Part]) -> Params:
    """The parameters without those of these parts."""
    for part in parts:
        params = _drop(params, part.path.split("/"))
    return params


def _get(tree: Params, path: list[str]) -> Any:
    for name in path:
        tree = tree.get(name, {})
    return tree


def _put(tree: Params, path: list[str], value: Any) -> Params:
    name, *rest = path
    return {**tree, name: _put(tree.get(name, {}), rest, value) if rest else value}


def _drop(tree: Params, path: list[str]) -> Params:
    name, *rest = path
    if name not in tree:
        return tree
    inside = _drop(tree[name], rest) if rest else {}
    left = {key: value for key, value in tree.items() if key != name}
    return {**left, name: inside} if inside else left
