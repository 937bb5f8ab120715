"""Spoken digits by voices never heard: a small network of log-mels from scratch on the Free Spoken Digit Dataset.

jaxfer run configs/spoken_digits.py --config.seed=1

Two speakers are tested who are neither in train nor in val; val is a fifth. Test accuracy of that command with
`--config.test=true`, 3 seeds: 0.833 ± 0.079 (val 0.618 ± 0.191: one speaker is more or less like the others).
"""

import jaxfer.config


def get_config(arg=""):
    """arg: `tiny` for two steps on a handful of tones."""
    words = jaxfer.config.words(arg, ("tiny",))
    config = jaxfer.config.base()
    config.model = dict(name="audio_cnn", widths=(16, 32, 64, 128), rate=8000, seconds=1.0, mels=40)
    config.data = dict(source="sounds", path="audio/fsdd", val_names=("_nicolas_",))
    config.update(batch_size=32, steps=400, warmup=40, eval_every=100, select="best", lr=3e-3, weight_decay=0.05)
    if "tiny" in words:
        config.model = dict(name="audio_cnn", widths=(4, 8), rate=8000, seconds=0.1, mels=20)
        config.data = dict(source="sounds", path="tests/data/sounds")
        config.update(batch_size=4, steps=2, warmup=1, eval_every=0)
    return config
