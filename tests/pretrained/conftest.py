"""Checkpoints that several files start from: a folder, and what was put there."""

from __future__ import annotations

import pytest

from tests.pretrained.checkpoints import RESNET, VIT, checkpoint


@pytest.fixture
def resnet(tmp_path):
    return tmp_path / "resnet", checkpoint(tmp_path / "resnet", "resnet", RESNET)


@pytest.fixture
def vit(tmp_path):
    return tmp_path / "vit", checkpoint(tmp_path / "vit", "vit", VIT)
