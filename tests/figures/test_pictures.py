"""The picture of `jaxfer show --pictures`."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxfer.commands import main
from jaxfer.data.loader import Feed, train_batches
from jaxfer.errors import InputError
from jaxfer.figures.pictures import FAR, NEAR, pictures
from jaxfer.training.preflight import preflight
from tests.experiments import tiny_config


def config(**data):
    made = tiny_config("resnet_basic", batch_size=7, seed=3)
    made.data.update(data)
    return made


def test_it_has_the_images_that_the_run_reads(tmp_path):
    made = config(augment=("flip", "random_erasing(p=0.5, low=0.2)"))
    line = pictures(made, str(tmp_path / "p.png"))
    assert line.startswith(f"pictures: {tmp_path / 'p.png'} has 16 training examples") and "low=0.2" in line
    page = np.asarray(Image.open(tmp_path / "p.png"))
    ready = preflight(made)
    encoding, split = ready.stages[0].spec.port.encoding, ready.data.splits["train"]
    feed = Feed(split=split, encodings=(encoding,))
    augment = ready.experiment.data.augment
    both = [
        [
            image
            for batch in train_batches(feed, seed=3, batch_size=7, start=0, stop=3, augment=names)
            for image in batch["image"]
        ]
        for names in ((), augment)
    ]
    height, width, _ = encoding.size
    scale = -(-96 // min(height, width))
    tall, wide, changed = height * scale, width * scale, 0
    for number in range(16):
        top, left = FAR + number // 4 * (tall + FAR), FAR + number % 4 * (2 * wide + NEAR + FAR)
        for images in both:
            shown = page[top : top + tall : scale, left : left + wide : scale].astype(np.float32) / 255
            expected = images[number] * np.float32(encoding.std) + np.float32(encoding.mean)
            np.testing.assert_allclose(shown, np.broadcast_to(expected.clip(0, 1), shown.shape), atol=0.5 / 255 + 1e-6)
            left += wide + NEAR
        changed += not np.array_equal(both[0][number], both[1][number])
    assert 8 < changed < 16


def test_without_images_it_is_one_line(tmp_path):
    with pytest.raises(InputError, match="^--pictures draws images, the model reads texts; omit it$"):
        pictures(tiny_config("bert_mean"), str(tmp_path / "p.png"))
    assert not list(tmp_path.iterdir())


def test_the_command_names_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import jaxfer.config\n\n\ndef get_config(arg=''):\n    config = jaxfer.config.base()\n"
        "    config.model = dict(name='resnet', stage_sizes=(1,), width=4, stem='cifar', image=(8, 8, 3))\n"
        "    config.data = dict(source='synthetic', image=(8, 8, 3), examples=40, augment=tuple(arg.split()))\n"
        "    return config\n"
    )
    assert main(["show", "mine.py:flip", "--pictures"]) == 0
    assert "pictures: mine-flip-augmented.png has 16" in capsys.readouterr().out
    assert Image.open(tmp_path / "mine-flip-augmented.png").size == (
        4 * (2 * 96 + NEAR + FAR) + FAR,
        4 * (96 + FAR) + FAR,
    )
