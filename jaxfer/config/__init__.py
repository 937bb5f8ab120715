"""Config files: load one, override its fields, resolve it to a checked Experiment."""

from jaxfer.config.files import base, load, load_module, override, packaged, shipped, words
from jaxfer.config.resolve import comparison, resolve

__all__ = ["base", "comparison", "load", "load_module", "override", "packaged", "resolve", "shipped", "words"]
