"""How a run ended, for a terminal: its metrics at the best and the last evaluation and on test, and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer import terminal
from jaxfer.runs import history
from jaxfer.terminal import FILE, NAME, NUMBER, Column, Page


def table(
    result: Mapping[str, Any], lines: Sequence[history.Line], by: history.Monitor | None, page: Page = FILE
) -> str:
    """A row for each metric; a column for each of the best and the last evaluation on val, and for test.

    Args:
      result: contents of result.json.
      lines: of metrics.jsonl; without an evaluation the result's own metrics of val stand alone.
      by: the monitor, which says what is best.
      page: where it is printed.
    """
    at = result["checkpoint_step"]
    columns = {f"{split}, step {at}": metrics for split, metrics in result["metrics"].items()}
    last = next((line for line in reversed(lines) if line["split"] == "val"), None)
    best = history.best(lines, by) if by else None
    if last is not None and best is not None and best["step"] != last["step"]:
        evaluated = {f"val best, step {best['step']}": best, f"val last, step {last['step']}": last}
        del columns[f"val, step {at}"]
        columns = {name: history.metrics(line) for name, line in evaluated.items()} | columns
    names = dict.fromkeys(metric for metrics in columns.values() for metric in metrics)
    rows = [[name, *(_number(metrics.get(name)) for metrics in columns.values())] for name in names]
    heads = [Column("metric", NAME), *(Column(name, NUMBER) for name in columns)]
    return terminal.table(heads, rows, page)


def cost(result: Mapping[str, Any]) -> str:
    """The cost in a sentence: `1,234 of 56,789 parameters trained, 60 steps in 3.2 s (1.1 s compiling), ...`."""
    spent, parts = result["cost"], []
    compiling = spent.get("compile_seconds")
    if compiling:
        parts.append(f"{compiling:.1f} s compiling")
    if spent.get("examples_per_second"):
        parts.append(f"{spent['examples_per_second']:,.0f} examples/s")
    if spent.get("peak_bytes"):
        parts.append(f"{spent['peak_bytes'] / 2**20:,.0f} MiB at the peak")
    more = f" ({', '.join(parts)})" if parts else ""
    trained = f"{spent['params_trainable']:,} of {spent['params_total']:,} parameters trained"
    early = "".join(f" ({name} stopped early, at step {step})" for name, step in result.get("stopped", {}).items())
    return f"{trained}, {result['steps']} steps{early}, {spent['seconds']:.1f} s{more}"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else ""
