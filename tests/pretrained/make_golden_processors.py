"""Makes golden/processors.npz: what transformers' image processors answer, by case [filter, photo, h, w, channel].

python -m tests.pretrained.make_golden_processors
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor

from tests.pretrained.processors import CASES, FILTERS, photos


def main() -> None:
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        for case, (config, preprocessor) in CASES.items():
            found = []
            for number in range(len(FILTERS)):
                stated = json.dumps({**preprocessor, "resample": number})
                (Path(folder) / "config.json").write_text(json.dumps(config))
                (Path(folder) / "preprocessor_config.json").write_text(stated)
                processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
                images = [Image.fromarray(photo) for photo in photos()]
                found.append(np.stack(processor(images)["pixel_values"]).transpose(0, 2, 3, 1))
            answers[case] = np.stack(found).astype(np.float32)
    np.savez_compressed(Path(__file__).parent / "golden" / "processors.npz", **answers)


if __name__ == "__main__":
    main()
