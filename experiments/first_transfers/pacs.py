"""Three domains of PACS to train on, the fourth to test: links in the folders that jaxfer's source reads.

python experiments/first_transfers/pacs.py FOLDER [--target=art_painting]    # reads JAXFER_DATA
"""

import os
import sys
from pathlib import Path

data = Path(os.environ["JAXFER_DATA"]).resolve() / "vision/pacs"
folder = Path(sys.argv[1])
target = sys.argv[2].removeprefix("--target=") if sys.argv[2:] else "art_painting"
domains = sorted(path.name for path in data.iterdir() if path.is_dir())
if target not in domains:
    sys.exit(f"--target={target}: expected one of {', '.join(domains)}")
for file in sorted(data.glob("*/*/*.jpg")):
    domain, kind = file.parts[-3:-1]
    link = folder / ("test" if domain == target else "train") / kind / f"{domain}_{file.name}"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(file)
