"""Assigns the files of a folder to splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxfer.data.lookup import SHARD, STATE, parts
from jaxfer.data.order import Stream, draw
from jaxfer.data.sources.rows import FORMATS, Dialect
from jaxfer.data.split import Split
from jaxfer.errors import InputError, nearest

SPLITS = {"train": ("train",), "val": ("val", "dev", "valid", "validation"), "test": ("test",)}
NAMED = {name: split for split, names in SPLITS.items() for name in names}
DICT = "dataset_dict.json"  # of a folder with several splits, as `datasets` saves them
HUB = "data"  # the folder of parquet files in a data set's repository
NONE = "none"
SHOWN = 3  # file names in a note


def split_files(
    root: Path, chosen: Mapping[str, str], dialect: Dialect, formats: tuple[str, ...] = ()
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """({split: file}, a note on the files that belong to no split).

    Args:
      root: the data's folder, or one file that is all `train`.
      chosen: {split: file name in the folder}; empty to go by the stems in `SPLITS`, `none` for no such split.
      dialect: which files can be read.
      formats: suffixes of files to read instead of those of tables.

    Raises:
      InputError: no training file, a name that is no file, one file for two splits, or two for one.
    """
    if root.is_file():
        if chosen["train"]:
            raise InputError(f"data.train={chosen['train']!r} has no effect: data.path names a file; name its folder")
        dialect.separates(root)
        candidates, files, folder = [], {"train": root}, root.parent
    elif (root / STATE).is_file():  # one data set as `datasets` saves it
        candidates, files, folder = [], {"train": root}, root
    elif (root / DICT).is_file():  # several, one folder each
        candidates = sorted(file.parent for file in root.glob(f"*/{STATE}"))
        files, folder = _by_name(candidates, root, chosen, formats or FORMATS), root
    else:
        formats = formats or ((*FORMATS, ".txt") if dialect.delimiter else FORMATS)
        candidates = [file for file in root.iterdir() if file.suffix.lower() in formats and file.is_file()]
        if not candidates and formats == FORMATS and (root / HUB).is_dir():
            root = root / HUB
            candidates = [file for file in root.iterdir() if file.suffix.lower() == ".parquet"]
        candidates = sorted(file for file in candidates if parts(file)[0] == file)  # a split by the first of its shards
        files, folder = _by_name(candidates, root, chosen, formats), root
    for split, name in chosen.items():
        if name == NONE and split == "train":
            raise InputError(f"data.train={NONE!r}: a run needs training rows; name a file")
        if name == NONE:
            files.pop(split, None)
        elif name:
            files[split] = folder / name
            if not files[split].is_file() and not (files[split] / STATE).is_file():
                known = [file.name for file in folder.iterdir() if file.is_file() or (file / STATE).is_file()]
                raise InputError(f"data.{split}={name!r} is not a file in {str(folder)!r}{nearest(name, known)}")
            dialect.separates(files[split])
    for split, file in files.items():
        other = next(name for name in files if files[name].resolve() == file.resolve())
        if other != split:
            raise InputError(
                f"data.{split} and data.{other} name the same file, {str(file)!r}; name two, or set one to 'none'"
            )
    left = [file.name for file in candidates if file not in files.values()]
    shown = ", ".join(left[:SHOWN]) + (", ..." if len(left) > SHOWN else "")
    fix = "data.train, data.val and data.test choose the files to read"
    notes = (f"{len(left)} {'file' if len(left) == 1 else 'files'} not read ({shown}); {fix}",) if left else ()
    return {split: files[split] for split in SPLITS if split in files}, notes


def _by_name(
    candidates: list[Path], root: Path, chosen: Mapping[str, str], formats: tuple[str, ...]
) -> dict[str, Path]:
    """{split: file} for the splits whose file is not named by the config."""
    named = {}
    for split, stems in SPLITS.items():
        files = [file for file in candidates if SHARD.sub("", file.stem).lower() in stems]
        if chosen[split]:
            continue
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise InputError(
                f"expected one {split} file in {str(root)!r}, found {names}; remove one, or set data.{split}"
            )
        if files:
            named[split] = files[0]
    if "train" not in named and not chosen["train"]:
        others = [] if candidates else sorted(file for file in root.iterdir() if file.stem.lower() in SPLITS["train"])
        names = ", ".join(file.name for file in candidates[:5] or others[:5]) or "none"
        fix = "set data.path to one of the files, or data.train" if candidates else "correct data.path"
        fix = "rename or convert it, or set data.delimiter" if others else fix
        wanted = "train.csv, .tsv, .jsonl or .parquet" if formats[0] == FORMATS[0] else f"train{' or '.join(formats)}"
        raise InputError(f"expected {wanted} in {str(root)!r}, found {names}; {fix}")
    return named


def with_test(splits: Mapping[str, Split], fraction: float) -> dict[str, Split]:
    """`train` without a fixed share of each class, and that share as `test`; `InputError` if there is a test file."""
    if "test" in splits:
        raise InputError(f"data.test_fraction={fraction} has no effect where a test file exists; set it to 0")
    labels = splits["train"].labels
    strata = np.zeros(len(splits["train"]), np.int32) if labels is None else labels
    test, train = draw(strata, seed=0, stream=Stream.TEST, fraction=fraction)
    return {"test": splits["train"].take(test), "train": splits["train"].take(train)}
