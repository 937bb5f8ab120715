"""An export's tensors are those of the authors' network: every key, no other, the same logits."""

from __future__ import annotations

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: the extra `parity`")

import torch

from jaxfer.conformance import tiny
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import store
from tests.parity.families.ft_transformer import FTTransformer, theirs
from tests.parity.reference import compare


def test_an_export_is_read_by_the_reference():
    port = tiny.make("ft_transformer")
    params, state = tiny.draw(port)
    batch = jax.tree.map(np.asarray, tiny.batch(port))
    model = FTTransformer(2, [4, 2], 3, width=6, heads=2, mlp_width=8, blocks=2)
    tensors = store(params, state, by_family("ft_transformer", "rtdl"), port)
    model.load_state_dict({key: torch.from_numpy(x.copy()) for key, x in tensors.items()}, strict=True)
    with torch.no_grad():
        expected = model.eval()(**theirs(batch)).numpy()
    compare({"logits": np.asarray(port.apply(params, state, batch)[0])}, {"logits": expected}, scaled=False)
