"""Images per second and core: JPEG files to augmented, normalised 224 px batches, compared with PyTorch's DataLoader.

    JAXFER_DATA=... taskset -c 0 python experiments/speed/input.py

The script makes the files: mosaics of the photographs in the data folder's `vision/flowers5`, 256 to 512 px a side,
JPEG quality 90. Both sides decode with Pillow, cut out a random rectangle (35-100 % of the area, 3:4 to 4:3), resize it
to 224 px, flip half of them and normalise. Seconds are processor time over all threads, so other load on the
machine matters little; on one core (`taskset`) neither side's threads wait for each other. The two alternate in one
process; the table has medians, and the median of the per-repeat ratios. Without PyTorch only our side is printed.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.loader import Feed, train_batches
from jaxfer.data.lookup import locate
from jaxfer.data.sources import folder
from jaxfer.errors import InputError
from jaxfer.task import labels

SIZE, MEAN, STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AREA, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)


def photographs(place: Path, count: int) -> None:
    """`count` files in two class folders."""
    rng = random.Random(0)
    tiles = [
        Image.open(file).convert("RGB") for file in sorted(locate("vision/flowers5/train", "folder").rglob("*.jpg"))
    ]
    for i in range(count):
        mosaic = Image.new("RGB", (512, 512))
        for corner in range(16):
            mosaic.paste(rng.choice(tiles).resize((128, 128)), (corner % 4 * 128, corner // 4 * 128))
        file = place / f"class_{i % 2}" / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        mosaic.crop((0, 0, rng.randint(256, 512), rng.randint(256, 512))).save(file, quality=90)


def ours(place: Path, batch_size: int) -> Callable[[int], Iterator[np.ndarray]]:
    """steps -> batches of jaxfer's threaded loader."""
    train = folder.source(path=str(place)).splits["train"]
    feed = Feed(split=train, encodings=(ImageEncoding(size=(SIZE, SIZE, 3), mean=MEAN, std=STD),), targets=labels)

    def batches(steps: int) -> Iterator[np.ndarray]:
        options = {"seed": 0, "batch_size": batch_size, "augment": ("crop", "flip")}
        for batch in train_batches(feed, start=0, stop=steps, **options):
            yield batch["image"]

    return batches


def theirs(place: Path, batch_size: int) -> Callable[[int], Iterator[np.ndarray]] | None:
    """The same from torch.utils.data.DataLoader, with a transcription of torchvision's transforms for Pillow images."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)  # as its worker processes do
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    files = sorted(place.rglob("*.jpg"))

    class Photographs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            with open(files[i], "rb") as file:
                image = Image.open(file).convert("RGB")
            left, top, width, height = self._rectangle(*image.size)
            image = image.crop((left, top, left + width, top + height))
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            if torch.rand(1) < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            tensor = torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1).contiguous()
            return tensor.to(torch.float32).div(255).sub_(mean).div_(std), i % 2

        @staticmethod
        def _rectangle(width: int, height: int) -> tuple[int, int, int, int]:
            for _ in range(10):
                area = width * height * torch.empty(1).uniform_(*AREA).item()
                ratio = math.exp(torch.empty(1).uniform_(*map(math.log, RATIO)).item())
                w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
                if 0 < w <= width and 0 < h <= height:
                    top = torch.randint(0, height - h + 1, (1,)).item()
                    return torch.randint(0, width - w + 1, (1,)).item(), top, w, h
            return 0, 0, width, height

    def batches(steps: int) -> Iterator[np.ndarray]:
        loader = torch.utils.data.DataLoader(Photographs(), batch_size, shuffle=True, drop_last=True)
        for done, (images, _) in enumerate(loader, start=1):
            yield images.numpy()
            if done == steps:
                return

    return batches


def rate(batches: Callable[[int], Iterator[np.ndarray]], steps: int) -> float:
    """Images per second of processor time."""
    begun, count = time.process_time(), 0
    for images in batches(steps):
        assert (images[0].size, images.dtype) == (SIZE * SIZE * 3, np.float32)
        count += len(images)
    return count / (time.process_time() - begun)


def main(argv: list[str] | None = None) -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        photographs(Path(name), options.images)
        sides = {"jaxfer": ours(Path(name), options.batch_size), "PyTorch": theirs(Path(name), options.batch_size)}
        sides = {side: batches for side, batches in sides.items() if batches is not None}
        steps = options.images // options.batch_size
        for batches in sides.values():
            rate(batches, steps)  # warm-up: files are cached, threads and tables created
        rates = {side: [] for side in sides}
        for _ in range(options.repeats):
            for side, batches in sides.items():
                rates[side].append(rate(batches, steps))
    for side, found in rates.items():
        print(f"{side:8} {statistics.median(found):7.1f} images/s a core ({min(found):.1f} to {max(found):.1f})")
    if "PyTorch" in rates:
        ratios = [one / other for one, other in zip(rates["jaxfer"], rates["PyTorch"], strict=True)]
        print(f"jaxfer / PyTorch: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(
        f"{options.images} images, batches of {options.batch_size}, {options.repeats} repeats, Pillow {PIL.__version__}"
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
