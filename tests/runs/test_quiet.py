"""What silences orbax's threads is there for as long as they run."""

from __future__ import annotations

import gc
import sys
import weakref

from jaxfer.runs.quiet import hushed


def test_late_threads_find_the_hook_alive():
    """CPython borrows the hook it calls; one that is freed in the meantime was a segmentation fault in 3.12."""
    before = sys.unraisablehook
    with hushed():
        inside = weakref.ref(sys.unraisablehook)
        assert inside() is not before
    gc.collect()
    assert sys.unraisablehook is before
    assert inside() is not None
