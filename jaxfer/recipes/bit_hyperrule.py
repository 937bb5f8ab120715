"""BiT-HyperRule: SGD for a number of steps that follows from the number of examples, and nothing to tune."""

from __future__ import annotations

from jaxfer.recipe import Facts, Recipe

SMALL, LARGE = 20_000, 500_000  # examples at which the length changes


def recipe(facts: Facts) -> Recipe:
    """One stage, `train`, of `config.method`: 500, 10,000 or 20,000 steps at 0.003, a tenth after 30, 60 and 90 %."""
    steps = 500 if facts.examples < SMALL else 10_000 if facts.examples < LARGE else 20_000
    reasons = [
        f"{facts.examples:,} examples: {steps:,} steps (500 below {SMALL:,}, 10,000 below {LARGE:,}, else 20,000)",
        f"left out: the paper's batches have 512 examples, these {facts.batch_size}; the rate is not scaled",
    ]
    if facts.examples >= SMALL:
        reasons.append("left out: mixup of 0.1, which the rule has from 20,000 examples on")
    if facts.image:
        small = facts.image[0] * facts.image[1] < 96 * 96
        size = "resized to 160 and cropped to 128" if small else "resized to 512 and cropped to 480"
        reasons.append(
            f"left out: images of {facts.image[0]}x{facts.image[1]} would be {size}; config.model.image, "
            "config.differs and config.data.augment say what they are here"
        )
    return Recipe(
        stages={
            "train": {
                "steps": steps,
                "optimizer": "sgd",
                "lr": 0.003,
                "momentum": 0.9,
                "weight_decay": 0.0,
                "schedule": "step",
                "schedule_options": (("parts", 10 / 3), ("drop", 0.1)),
            }
        },
        source="Kolesnikov et al., 2019, arXiv:1912.11370, section 3.3",
        reasons=tuple(reasons),
    )
