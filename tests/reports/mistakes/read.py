"""What a page or a part of one holds."""

import base64
import csv
import re

import jaxfer
from tests.experiments import tiny_config


def reported(folder, case, task, data, **model):
    """(metrics of val, page) of a run of two steps on a tiny model."""
    config = tiny_config(case, steps=2, eval_every=1, init="scratch", task=task)
    config.data = data
    config.model.update(model)
    result = jaxfer.run(config, folder, quiet=True)
    return result["metrics"]["val"], jaxfer.report(folder).path.read_text()


def listed(page, name):
    """The lines of the table that a page links as NAME.csv."""
    (link,) = re.findall(rf'href="data:text/csv;base64,([^"]*)" download="{name}.csv"', page)
    return list(csv.DictReader(base64.b64decode(link).decode().splitlines()))


def whole(section):
    """All parts of a section, as text."""
    return "".join(str(part.content) for part in section.parts)
