"""What torch.save writes of training scripts' dictionaries, read back without it."""

from __future__ import annotations

import argparse
import collections
import pathlib

import numpy as np
import pytest
import torch

from jaxfer.pretrained.formats.reading import read

NEW, OLD = True, False


class Meter:
    """A class of a script's own."""

    def __init__(self):
        self.total, self.last = 3.0, torch.ones(2)


def tagged(model: torch.nn.Module) -> torch.nn.Module:
    """With an attribute on a parameter, which torch stores in another way."""
    model.weight.tag = "kept"
    return model


CASES = {
    "args": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, path=pathlib.Path("a/b"))},
    "scalars": lambda state: {"state_dict": state, "best": np.float64(0.9), "history": np.arange(3)},
    "facts of torch": lambda state: {
        "net": state,
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "size": torch.Size([2, 3]),
        "rng": torch.get_rng_state(),
        "meters": [Meter()],
    },
    "Lightning": lambda state: {
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "callbacks": {Meter: {"best_model_score": torch.tensor(0.5)}},
        "lr_schedulers": [{"milestones": collections.Counter([30, 60])}],
        "hyper_parameters": collections.defaultdict(list, {"a": [1]}),
    },
    "optimizer": lambda state: {"model": state, "optimizer": torch.optim.Adam([torch.ones(2)]).state_dict()},
    "parameters": lambda state: {"state_dict": dict(tagged(torch.nn.Linear(3, 2)).named_parameters())},
    "averaged": lambda state: torch.optim.swa_utils.AveragedModel(torch.nn.Linear(3, 2)).state_dict(),
}


@pytest.mark.parametrize("zipped", [NEW, OLD])
@pytest.mark.parametrize("case", CASES)
def test_training_scripts_files(case, zipped, tmp_path):
    content = CASES[case](torch.nn.Linear(3, 2).state_dict())
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "x.pt")
    expected = next((content[key] for key in ("model", "state_dict", "net") if key in content), content)
    expected = {key: value for key, value in expected.items() if key != "n_averaged"}
    assert len(found) == len(expected) == 2
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key.removeprefix("module.")], value.detach().numpy(), strict=True)
