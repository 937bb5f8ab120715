"""A first guess: what to train, for how long and at which rate, from the data, the model and the method."""

from __future__ import annotations

from jaxfer.recipe import Facts, Recipe, chosen, parts

DISTANCES = ("unknown", "near", "far")


def recipe(facts: Facts, *, distance: str = "unknown") -> Recipe:
    """Stages `probe` and one of `config.method`, or one of the two; fine-tuning 10 to 100 times below scratch's rate.

    The rule is our own: a starting point that says its reasons, no substitute for `jaxfer compare`.

    Args:
      facts: of the config.
      distance: between the source's task and this one: `near`, `far` or `unknown`.
    """
    chosen(distance, DISTANCES, "distance")
    each, reasons = facts.examples / max(facts.classes, 1), []
    steps = facts.steps if "steps" in facts.given else _steps(facts)
    given = "config.steps" if "steps" in facts.given else "30 epochs, from 200 to 20,000 steps"
    reasons.append(f"{steps:,} steps: {given}")
    if facts.method not in ("full", "probe"):
        reasons.append(f"method {facts.method!r} has a rate of its own, for what it adds to a backbone that stays")
        return _recipe({facts.method: {"method": facts.method, "steps": steps}}, reasons)
    scratch = _scratch(facts)
    if not facts.pretrained:
        reasons.append(f"from scratch: everything is trained, at {scratch:g}")
        return _recipe({"full": {"method": "full", "steps": steps, "lr": scratch, "warmup": steps // 20}}, reasons)
    if facts.method == "probe" or (each < 10 and distance != "far"):
        why = "config.method" if facts.method == "probe" else f"{each:.3g} examples a class can't move a backbone well"
        reasons.append(f"the head alone is trained: {why}")
        return _recipe({"probe": {"method": "probe", "steps": steps}}, reasons)
    rate, why = _below(scratch, each, distance)
    if "lr" in facts.given:
        rate, why = facts.given["lr"], "config.lr"
    reasons.append(f"rate {rate:.2g}: {why}")
    head, rest = parts(steps, (1, 4))
    tuned = {"method": "full", "steps": rest, "lr": rate, "warmup": rest // 20}
    if len(facts.levels) > 6 and not facts.batch_norms:
        tuned["layer_decay"] = 0.75
        reasons.append(
            f"layer_decay 0.75: a transformer's {len(facts.levels)} levels, of which the lower need to move less"
        )
    if facts.batch_norms and facts.batch_size < 16:
        tuned["norms"] = (*(((".*/neck/norm", "train"),) if facts.neck else ()), (".*", "eval"))
        reasons.append(f"norms keep the source's statistics: batches of {facts.batch_size} have none worth learning")
    reasons.append(
        "the head goes first, a fifth of the steps: a fresh one would distort the features (arXiv:2202.10054)"
    )
    return _recipe({"probe": {"method": "probe", "steps": head}, "full": tuned}, reasons)


def _recipe(stages: dict[str, dict[str, object]], reasons: list[str]) -> Recipe:
    return Recipe(stages=stages, source="jaxfer's own rule, a first guess", reasons=tuple(reasons))


def _below(scratch: float, each: float, distance: str) -> tuple[float, str]:
    """(the rate of fine-tuning, why), by examples a class."""
    below = 100 if each < 100 else 30 if each < 1000 else 10
    if distance != "unknown":
        below = min(100, 3 * below) if distance == "near" else max(10, below // 3)
    of = f"{each:.3g} examples a class" + ("" if distance == "unknown" else f" and a {distance} task")
    return scratch / below, f"{below} times below the {scratch:g} of a run from scratch, for {of}"


def _steps(facts: Facts) -> int:
    return min(20_000, max(200, -(-30 * facts.examples // facts.batch_size)))


def _scratch(facts: Facts) -> float:
    """The usual rate from scratch of the optimizer's kind; `config.lr` where it is set."""
    kind = facts.given.get("optimizer", "adamw")
    usual = 0.1 if kind in ("sgd", "nesterov") else 1e-4 if kind == "lion" else 1e-3
    return facts.given.get("lr") or usual
