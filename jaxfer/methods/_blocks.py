"""The transformer blocks of a model, as methods find them: by the parts that each of them has, not by its name."""

from __future__ import annotations

from collections.abc import Iterable


def blocks(paths: Iterable[str]) -> tuple[str, ...]:
    """Paths of the blocks that have these parameters, in their order.

    A block has attention and an MLP side by side, and the norm of the latter; SigLIP's attention pooling, which has the
    first two, names its norm in another way.
    """
    paths = list(paths)
    has = set(paths)
    found = (path.removesuffix("/attn/out/kernel") for path in paths if path.endswith("/attn/out/kernel"))
    return tuple(block for block in found if {f"{block}/mlp/fc2/kernel", f"{block}/norm_2/scale"} <= has)
