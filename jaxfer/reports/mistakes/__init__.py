"""What a run gets wrong on val: a file a task, `sections(result, seen)`.

`result` is the run's result.json, `seen` what was found where it was looked at once more, else None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxfer.reports.looked import Looked
from jaxfer.reports.mistakes import classification, multilabel, regression, segmentation, span, tagging
from jaxfer.reports.page import Section

# {task: its file's sections}
KINDS: Mapping[str, Callable[[Mapping[str, Any], Looked | None], list[Section]]] = {
    "classification": classification.sections,
    "regression": regression.sections,
    "multilabel": multilabel.sections,
    "tagging": tagging.sections,
    "span": span.sections,
    "segmentation": segmentation.sections,
}
