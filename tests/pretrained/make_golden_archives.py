"""Writes golden/*.pt with a real torch: `python -m tests.pretrained.make_golden_archives` where torch is installed.

test_archives.py says in NumPy what the tensors hold; bicubic.pt is what position embeddings are resized to.
"""

from __future__ import annotations

from pathlib import Path

import torch

GOLDEN = Path(__file__).parent / "golden"


def content() -> dict:
    base = torch.arange(24, dtype=torch.float32)
    layer = torch.nn.BatchNorm1d(2)
    return {
        "f32": base.reshape(2, 3, 4) / 8,
        "transposed": base.reshape(4, 6).T,
        "window": base[5:17].reshape(3, 4)[:, 1:3],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "f64": torch.tensor([1 / 3], dtype=torch.float64),
        "half": torch.tensor([0.1, -2.0], dtype=torch.float16),
        "bf16": torch.tensor([[0.1], [3e38]], dtype=torch.bfloat16),
        "int64": torch.tensor([-(2**40), 7]),
        "int32": torch.tensor([3], dtype=torch.int32),
        "uint8": torch.tensor([255], dtype=torch.uint8),
        "int8": torch.tensor([-1], dtype=torch.int8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.tensor([1.5, 2.5])),
        **{f"norm.{key}": value for key, value in layer.state_dict().items()},
    }


def main() -> None:
    torch.manual_seed(0)
    GOLDEN.mkdir(exist_ok=True)
    state = content()
    module = torch.nn.DataParallel(torch.nn.BatchNorm1d(2))
    training = {"epoch": 3, "state_dict": module.state_dict(), "best": torch.tensor(0.5), "arch": "norm"}
    for name, new in (("new", True), ("old", False)):
        torch.save(state, GOLDEN / f"{name}.pt", _use_new_zipfile_serialization=new)
        torch.save(training, GOLDEN / f"training_{name}.pt", _use_new_zipfile_serialization=new)
    torch.save(torch.nn.Linear(1, 1), GOLDEN / "whole_module.pt")
    grid = torch.rand(1, 3, 2, 3)
    resized = {
        f"{height}x{width}": torch.nn.functional.interpolate(
            grid, size=(height, width), mode="bicubic", align_corners=False
        )
        for height, width in ((4, 5), (1, 2), (7, 3), (2, 3))
    }
    torch.save({"grid": grid, **resized}, GOLDEN / "bicubic.pt")


if __name__ == "__main__":
    main()
