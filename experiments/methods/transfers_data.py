"""What the networks of transfers.py knew before, for texts: both columns of STS-B's test, one below the other.

python experiments/methods/transfers_data.py     # reads JAXFER_DATA, writes runs/methods/data/stsb.tsv
"""

import csv
import os
from pathlib import Path

OUT, DATA = Path("runs/methods/data"), Path(os.environ["JAXFER_DATA"])

if __name__ == "__main__":
    with open(DATA / "text/stsb/test.tsv", newline="", encoding="utf-8") as read:
        pairs = list(csv.DictReader(read, delimiter="\t", quoting=csv.QUOTE_NONE))
    OUT.mkdir(parents=True, exist_ok=True)
    rows = [("text", "label"), *((row[column], column) for column in ("text", "text_pair") for row in pairs)]
    (OUT / "stsb.tsv").write_text("\n".join(map("\t".join, rows)) + "\n", encoding="utf-8")
