"""What a page or a part of one holds."""

import base64
import csv
import re


def listed(page, name):
    """The lines of the table that a page links as NAME.csv."""
    (link,) = re.findall(rf'href="data:text/csv;base64,([^"]*)" download="{name}.csv"', page)
    return list(csv.DictReader(base64.b64decode(link).decode().splitlines()))


def whole(section):
    """All parts of a section, as text."""
    return "".join(str(part.content) for part in section.parts)
