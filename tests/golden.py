"""Ten runs of 20 steps and what they gave before the data and the tasks were rebuilt: tests/golden.json.

python tests/golden.py             # compares: fed arrays exactly, losses within BOUNDS; says if every bit is the same
python tests/golden.py --exact     # on the machine that recorded them, every bit must be the same
python tests/golden.py --record    # writes tests/golden.json

An entry holds the sha256 of every batch as the run was fed it (names, shapes, bytes, so the example order too), the
loss of every step, the metrics at the end, the sha256 of the parameters, and the FLOPs and peak bytes of each
compiled training step.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAXFER_CACHE"] = "off"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
sys.path.insert(0, str(Path(__file__).parents[1]))

import jaxfer
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import TIMES, read_metrics
from jaxfer.training import programs, stepping
from tests.experiments import tiny_config

FILE = Path(__file__).with_suffix(".json")
STEPS = 20
# Of losses on other machines, relative. One sum that bfloat16's 8 bits round the other way is seen in every later loss:
# the same code gave the same bits for ten steps on two kinds of CPU, and losses up to 5e-3 apart after them.
BOUNDS = {"float32": 1e-5, "bfloat16": 2**-6}
LP_FT = dict(stages=("probe", "full"))


def digits(arg, **fields):
    return jaxfer.load(f"configs/digits.py:{arg}", {"steps": STEPS, "log_every": 1, "warmup": 0, **fields})


def tiny(case, **fields):
    return tiny_config(case, steps=STEPS, log_every=1, seed=3, **fields)


def stages(config):
    config.stages = ("probe", "full")
    config.stage = dict(probe=dict(method="probe", steps=8), full=dict(method="full", steps=12))
    return config


def configs():
    """{name: config}: images with and without augmentation, bucketed texts, LoRA, stages, accumulation."""
    scratch = {"init": "scratch", "head": "auto"}
    bert = tiny("bert_pooler", batch_size=8)
    bert.model.buckets = (4, 7)
    pairs = tiny("bert_mean", method="lora", batch_size=6)
    pairs.model.buckets = (5, 7)
    return {
        "augmented images": digits("pretrain"),
        "images, LoRA": digits("lora", **scratch),
        "images, weight decay": digits("full", **scratch, weight_decay=0.01),
        "images, two stages": stages(digits("full", **scratch)),
        "images, accumulated": digits("full", **scratch, accumulate=5),
        "images, a regression": jaxfer.load("configs/regression.py:tiny", dict(steps=STEPS, log_every=1, warmup=0)),
        "a transformer of images, bfloat16": tiny("vit_cls", compute_dtype="bfloat16", batch_size=8),
        "bucketed texts": bert,
        "bucketed texts, LoRA": pairs,
        "bucketed texts, two stages, accumulated": stages(tiny("bert_mean", batch_size=8, accumulate=2)),
    }


def measured(config):
    """The entry of one run."""
    digest, compiled = hashlib.sha256(), []
    batches, compile_step = stepping.train_batches, programs._compile

    def fed(*args, **kwargs):
        for batch in batches(*args, **kwargs):
            for name in sorted(batch):
                digest.update(f"{name}{batch[name].dtype}{batch[name].shape}".encode())
                digest.update(batch[name].tobytes())
            yield batch

    def counted(*args, **kwargs):
        program = compile_step(*args, **kwargs)
        if program.alias_bytes:  # a training step
            compiled.append([program.flops, program.peak_bytes])
        return program

    stepping.train_batches, programs._compile = fed, counted
    programs._train_program.cache_clear()
    try:
        with tempfile.TemporaryDirectory() as folder:
            jaxfer.run(config, folder, quiet=True)
            lines = read_metrics(Path(folder, "metrics.jsonl"))
            state = open_run(folder)
            result = json.loads(Path(folder, "result.json").read_text())
    finally:
        stepping.train_batches, programs._compile = batches, compile_step
    ends = [{k: v for k, v in line.items() if k not in TIMES} for line in lines if line["split"] != "train"]
    return {
        "fed": digest.hexdigest(),
        "losses": [line["loss"] for line in lines if line["split"] == "train"],
        "evaluated": ends,
        "sha256": result["sha256"] if "sha256" in result else jaxfer_sha256(state),
        "steps": compiled,
    }


def jaxfer_sha256(finished):
    from jaxfer.runs.finished import fingerprint

    return fingerprint(finished.state.params, finished.state.model_state)


def compare(name, new, old, bound):
    """Prints what differs and says whether it may not, a bound of 0 asking for every bit.

    Metrics that are newer than the record are not compared.
    """
    wrong, pairs = [], zip(new["evaluated"], old["evaluated"], strict=True)
    new["evaluated"] = [{name: line[name] for name in recorded if name in line} for line, recorded in pairs]
    if new["fed"] != old["fed"]:
        wrong.append("the batches differ")
    worst = max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(new["losses"], old["losses"], strict=True))
    if worst > bound:
        wrong.append(f"a loss differs by {worst:.1e}")
    if bound == 0 and (new["sha256"] != old["sha256"] or new["evaluated"] != old["evaluated"]):
        wrong.append("parameters or metrics differ in some bit")
    for (flops, peak), (old_flops, old_peak) in zip(new["steps"], old["steps"], strict=True):
        if flops > 1.01 * old_flops or (bound == 0 and peak > 1.01 * old_peak):
            wrong.append(f"a step has {flops:.0f} FLOPs and {peak} bytes, it had {old_flops:.0f} and {old_peak}")
    same = new["sha256"] == old["sha256"] and new["losses"] == old["losses"] and new["evaluated"] == old["evaluated"]
    print(f"{name}: {'; '.join(wrong) or ('the same in every bit' if same else f'losses within {worst:.1e}')}")
    return bool(wrong)


def entry(name):
    """The entry of this name."""
    return measured(configs()[name])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--exact", action="store_true")
    args = parser.parse_args()
    names = list(configs())
    with multiprocessing.get_context("spawn").Pool(2) as pool:  # a process each for half of them
        entries = dict(zip(names, pool.map(entry, names, chunksize=1), strict=True))
    if args.record:
        FILE.write_text(json.dumps(entries, indent=1) + "\n")
        return 0
    golden = json.loads(FILE.read_text())
    bounds = {name: 0 if args.exact else BOUNDS[config.compute_dtype] for name, config in configs().items()}
    differ = [compare(name, entries[name], golden[name], bounds[name]) for name in golden]  # every one is printed
    return int(any(differ))


if __name__ == "__main__":
    sys.exit(main())
