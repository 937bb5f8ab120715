"""Config files: load one, override its fields, resolve it to a checked Experiment."""

from jaxfer.config.files import (
    base,
    called,
    check_overrides,
    load,
    load_module,
    override,
    packaged,
    shipped,
    spelled,
    stored,
    words,
)
from jaxfer.config.resolve import check_config, comparison, init_options, resolve

__all__ = [
    "base",
    "called",
    "check_config",
    "check_overrides",
    "comparison",
    "init_options",
    "load",
    "load_module",
    "override",
    "packaged",
    "resolve",
    "shipped",
    "spelled",
    "stored",
    "words",
]
