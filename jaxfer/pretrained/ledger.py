"""The load ledger: the origin and treatment of every leaf of a model."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from jaxfer.pretrained.trained_heads import TrainedHead

# In table order: copied, transposed, merged with an adapter, resized, initialised.
KINDS = ("loaded", "renamed", "transposed", "merged", "resized", "inflated", "re-initialised", "missing", "initialised")
DRAWN = ("re-initialised", "missing", "initialised")
TOLD = ("resized", "inflated", "re-initialised", "missing")  # kinds whose leaves the table names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """The starting point of a run.

    Attributes:
      params: nested params, head included; arrays, or `Stored` ones where a file has another precision.
      model_state: running statistics, likewise.
      ledger: {leaf: {`what`: one of KINDS, `from`: its key in the source or None, `shape`, `why` it is re-initialised,
        and the module of the `adapter` that is merged into it}}.
      lineage: ancestry of the weights: the source, its sha256 and lineage, and the data's sha256.
      unused: keys of the source without a leaf in the model.
      unwrapped: keys and prefixes that a training script put around the weights, outermost first.
      dropped: other entries of its file.
      trained_heads: output layers that the source, a run, leaves, its own first, kept or not; () for none.
      head: {path: leaf} of the source's own output layer, kept for a method that asks for it; None otherwise.
      former: what the source's run hands on to one of the same method; None for nothing.
    """

    params: Any
    model_state: Any
    ledger: dict[str, dict[str, Any]]
    lineage: dict[str, Any]
    unused: tuple[str, ...] = ()
    unwrapped: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    trained_heads: tuple[TrainedHead, ...] = ()
    head: Mapping[str, Any] | None = None
    former: Any = None

    def to_dict(self) -> dict[str, Any]:
        """The content of ledger.json."""
        sha256 = self.lineage.get("source_sha256")
        return {
            "lineage": self.lineage,
            "source_sha256": sha256,
            "leaves": self.ledger,
            "unused": list(self.unused),
            **({"unwrapped": list(self.unwrapped)} if self.unwrapped else {}),
            **({"dropped": list(self.dropped)} if self.dropped else {}),
        }

    def table(self) -> str:
        """The ledger in a few lines: how many leaves of each kind, and the names of those that changed."""
        counts = collections.Counter(entry["what"] for entry in self.ledger.values())
        summary = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
        lines = [f"{self.lineage['init']}: {len(self.ledger)} leaves: {summary}"]
        if self.unwrapped:
            lines.append(f"  read from {' '.join(self.unwrapped)} (config.init_options takes another)")
        if self.dropped:
            lines.append(f"  {len(self.dropped)} entries of the file beside the weights: {_some(list(self.dropped))}")
        for kind in TOLD:
            group = {leaf: entry for leaf, entry in self.ledger.items() if entry["what"] == kind}
            reasons = dict.fromkeys(entry["why"] for entry in group.values() if entry.get("why"))
            why = f" ({'; '.join(reasons)})" if reasons else ""
            lines += [f"  {kind}{why}: {_some([_shown(leaf, entry) for leaf, entry in group.items()])}"] * bool(group)
        if (former := self.lineage.get("former")) is not None:
            kept = "goes on from what the source kept for it" if former["sha256"] else "the source kept nothing for it"
            lines.append(f"  {former['method']}: {kept}{'' if former['sha256'] else ', it starts from zero'}")
        if self.unused:
            lines.append(f"  {len(self.unused)} unused keys of the source: {_some(list(self.unused))}")
        return "\n".join(lines)

    def drawn_and_frozen(self, trained: Collection[str]) -> str:
        """A warning of parameters that the source does not have and no stage trains; '' for none.

        Args:
          trained: leaves that some stage trains.
        """
        drawn = [leaf for leaf, entry in self.ledger.items() if entry["what"] in DRAWN and leaf.startswith("params/")]
        never = [leaf for leaf in drawn if leaf not in trained]
        if not never:
            return ""
        return f"  warning: drawn at random and trained by no stage: {_some(never)}; choose a method that trains them"


def _shown(leaf: str, entry: Mapping[str, Any]) -> str:
    return f"{leaf.removeprefix('params/')} {'x'.join(map(str, entry['shape'])) or 'scalar'}"


def _some(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
