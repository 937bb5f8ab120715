"""Runs the missing cells through an executor; a failed cell does not stop the others.

What is finished or diverged is not run again, what failed is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from etils import epath

from jaxfer.sweeps.attempts import DIVERGED, DONE, FAILED, Group, Outcome, Told
from jaxfer.sweeps.cells import Job
from jaxfer.sweeps.executors import Executor, Here, Watched
from jaxfer.sweeps.queue import Queue, grouped, shared_out
from jaxfer.training.preemption import preemption_notice

__all__ = ["DIVERGED", "DONE", "FAILED", "Outcome", "execute"]


def execute(
    jobs: Sequence[Job],
    folder: epath.Path,
    *,
    executor: Executor | None = None,
    told: Told,
    watched: Watched = lambda group, progress: None,
    trained: bool = False,
    more: Callable[[Mapping[str, Outcome]], Sequence[Job]] | None = None,
    eager: bool = False,
) -> dict[str, Outcome]:
    """Runs every cell that is not finished under `folder`.

    Args:
      jobs: each after the cell it starts from.
      folder: of the sweep.
      executor: where the cells run; by default here, one group after another. After an error its processes have ended.
      told: of every outcome, as it comes.
      watched: of a group's progress, and None once it has ended.
      trained: of every cell a split is to be read, and nothing trained: each process takes its share of them at once.
      more: is asked for the next cells once all have ended; none that has not ended already: these were all.
      eager: `more` is asked whenever a cell has ended, and what it gives is begun first.

    Returns:
      {key: outcome} of every cell.

    Raises:
      Preempted: SIGTERM came; every cell under way is saved.
    """
    executor = executor or Here()
    cells = list({p.key: p for p in jobs}.values())
    groups = shared_out(cells, executor.slots) if trained else grouped(cells)

    def added(outcomes: Mapping[str, Outcome]) -> list[Group]:
        drawn = {p.key: p for p in more(outcomes) if p.key not in outcomes} if more is not None else {}
        return grouped(list(drawn.values()))

    queue = Queue(groups, told, added, eager=eager)
    with preemption_notice() as notice:
        notice.grace = max((cell.config.get("grace", 0.0) for cell in cells), default=0.0)
        executor.run(queue, folder, notice, watched)
    return queue.outcomes
