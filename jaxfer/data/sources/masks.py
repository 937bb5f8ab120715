"""Images with a mask each, in two trees of folders: the class of every pixel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxfer.data import index
from jaxfer.data.encodings.image import OUTSIDE
from jaxfer.data.index import Look
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.sources import classfolders
from jaxfer.data.sources.folder import FORMATS, Files, checked
from jaxfer.data.sources.rows import allowed, judged
from jaxfer.data.sources.splitfiles import NAMED, SPLITS
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError

IMAGES, MASKS, NAMES = "images", "masks", "classes.txt"
SAMPLE = 2_000  # masks that are read whole before a run: about 5 s at 500 x 375 pixels
MODES = ("1", "L", "P")  # of a PNG with one number a pixel; those of a palette are its indices

Pair = tuple[str, str]  # an image and its mask, relative to the root


class Masks(Files):
    """A column of mask files: uint8 [h, w], the class of each pixel, 255 for none."""

    kind: ClassVar[str] = "mask"

    def __getitem__(self, row: int) -> np.ndarray:
        return _decoded(self.root / self.names[row])


def source(*, path: str = "", bad_rows: int | str | None = None) -> Dataset:
    """PATH/images/{train,val,test}/NAME.jpg with PATH/masks/{train,val,test}/NAME.png; PATH/classes.txt.

    `val` may be called `dev`, `valid` or `validation`, in both. An image's EXIF orientation is not applied: a mask fits
    the pixels as they are stored.

    A mask has one number a pixel: that of its class, from 0, or 255 for a pixel that is in no class, neither learned
    nor scored. The file classes.txt has the name of a class on each line; without it they are `class_0`, ... up to the
    largest number in the masks of train.

    Before a run the header of every file is read, and every mask whole; of more than `SAMPLE` in a split, that many at
    equal distances, which a note says. The fingerprint is made as that of the source `folder`, and covers the masks.

    Args:
      path: the folder; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      bad_rows: number of pairs that may be left out, with a note, since a file can't be read, the sizes differ, or a
        number is in no line of classes.txt; `skip`: any number.

    Raises:
      InputError: no such folders, an image without its mask or the reverse, or more bad pairs than allowed.
    """
    limit, root = allowed(bad_rows), locate(path, "masks")
    for part in (IMAGES, MASKS):
        if not (root / part / "train").is_dir():
            raise InputError(
                f"expected the folders {IMAGES}/train and {MASKS}/train in {str(root)!r}, found no {part}/train; "
                "correct data.path or move the files"
            )
    _check_folders(root)
    folders = {NAMED[name]: name for name in NAMED if (root / IMAGES / name).is_dir()}
    pairs = {split: _pairs(root, name) for split, name in folders.items()}
    given = _given(root / NAMES)
    files = _look(root, pairs)
    try:
        bad: tuple[str, ...] = ()
        notes: tuple[str, ...] = ()
        if limit and (left := _bad(files, pairs, given)):  # as if they were not there
            bad, total = tuple(left.values()), sum(map(len, pairs.values()))
            notes = judged(bad, total, root, limit, "pairs")
            pairs = {split: tuple(pair for pair in found if pair not in left) for split, found in pairs.items()}
            for split, found in pairs.items():
                if not found:
                    raise InputError(f"{split} of {str(root)!r} has no readable pair; replace some or remove it")
            files = _look(root, pairs)
        data = files.made(("masks", given), lambda: _read(files, pairs, folders, given))
    finally:
        index.keep()
    return dataclasses.replace(data, notes=(*data.notes, *notes), bad=bad) if bad else data


def _look(root: Path, pairs: Mapping[str, tuple[Pair, ...]]) -> Look:
    return index.look(root, (name for found in pairs.values() for pair in found for name in pair))


def _bad(files: Look, pairs: Mapping[str, tuple[Pair, ...]], given: tuple[str, ...]) -> dict[Pair, str]:
    """{pair: what is wrong with it} of those that `_check` refuses."""
    bad = {}
    for found in pairs.values():
        looked = _looked(found)
        for pair in found:
            try:
                _check(files, pair, given, pair in looked)
            except InputError as error:
                bad[pair] = f"{pair[0]}: {str(error).rpartition('; ')[0]}"
    return bad


def _looked(found: tuple[Pair, ...]) -> frozenset[Pair]:
    """Those whose masks are read whole."""
    return frozenset(found[:: -(-len(found) // SAMPLE)])


def _check(files: Look, pair: Pair, classes: tuple[str, ...], whole: bool) -> int:
    """The largest class in a mask that is read whole, else -1; `InputError` for a bad pair; `classes`: () for any."""
    image, mask = pair
    checked(files, image)
    _check_size(files, image, mask)
    most = files.fact(mask, "largest", _largest) if whole else -1
    if classes and most >= len(classes):
        fix = "list every class in classes.txt, or draw it as 255 to leave it out"
        where = str(files.root / mask)
        raise InputError(f"expected numbers 0..{len(classes) - 1} or 255 in {where!r}, found {most}; {fix}")
    return most


def _read(
    files: Look, pairs: Mapping[str, tuple[Pair, ...]], folders: Mapping[str, str], given: tuple[str, ...]
) -> Dataset:
    """The dataset of {split: the pair of each example}, from the folders of these names; `given`: the classes' names,
    () where there are none."""
    root, classes, notes = files.root, given, []
    for split, found in pairs.items():
        looked = _looked(found)
        if len(looked) < len(found):
            notes.append(f"{len(looked):,} of the {len(found):,} masks of {split} were read to check their numbers")
        most = max(_check(files, pair, classes, pair in looked) for pair in found)
        if split == "train" and not given:
            classes = tuple(f"class_{i}" for i in range(most + 1))
    splits = {
        split: Split.whole(
            image=Files(root, tuple(image for image, _ in found)), mask=Masks(root, tuple(mask for _, mask in found))
        )
        for split, found in pairs.items()
    }
    return Dataset(
        splits=splits,
        classes=classes,
        fingerprint=files.sum(f"masks {classes}", lambda: fingerprint(_content(files, splits, classes))),
        notes=tuple(notes),
        provenance={split: f"{IMAGES}/{name}/" for split, name in folders.items()},
        listed=root,
    )


def _check_folders(root: Path) -> None:
    """`InputError` for folders of only one of the two trees, or of no split: they would go unread."""
    trees = {part: {entry.name for entry in (root / part).iterdir() if entry.is_dir()} for part in (IMAGES, MASKS)}
    for part, other in ((IMAGES, MASKS), (MASKS, IMAGES)):
        for name in sorted(name for name in trees[part] if not name.startswith(".")):
            if name not in NAMED or name not in trees[other]:
                problem = f"no {other}/{name}" if name in NAMED else f"{part}/{name}"
                raise InputError(
                    f"expected train, val and test in both {IMAGES} and {MASKS} of {str(root)!r}, found {problem}; "
                    "add or rename the folder"
                )
    held = [name for name in SPLITS["val"] if name in trees[IMAGES]]
    if len(held) > 1:
        raise InputError(f"expected one val folder in {str(root / IMAGES)!r}, found {' and '.join(held)}; remove one")


def _pairs(root: Path, folder: str) -> tuple[Pair, ...]:
    """Those of each example, by name."""
    images, masks = _by_stem(root / IMAGES / folder, FORMATS), _by_stem(root / MASKS / folder, (".png",))
    for part, files, others, other in ((IMAGES, images, masks, "a .png mask"), (MASKS, masks, images, "an image")):
        if alone := sorted(set(files) - set(others)):
            raise InputError(
                f"expected {other} for each file in {str(root / part / folder)!r}, found {len(alone)} without, such as "
                f"{files[alone[0]].name!r}; add {other} of this name or remove the file"
            )
    if not images:
        where = str(root / IMAGES / folder)
        raise InputError(f"expected images ({' '.join(FORMATS)}) in {where!r}, found none; add some or remove it")
    return tuple((_relative(images[stem], root), _relative(masks[stem], root)) for stem in sorted(images))


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in suffixes and not file.name.startswith("."):
            if file.stem in files:
                raise InputError(f"expected one file called {file.stem!r} in {str(folder)!r}, found two; rename one")
            files[file.stem] = file
    return files


def _given(file: Path) -> tuple[str, ...]:
    """The names in classes.txt; () without one."""
    if not file.is_file():
        return ()
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise InputError(f"expected UTF-8 in {str(file)!r}, found {error.reason}; convert it") from None
    if len(set(names)) < len(names) or not 1 < len(names) <= OUTSIDE:
        raise InputError(f"expected 2 to 255 different names in {str(file)!r}, found {len(names)}; correct it")
    return names


def _check_size(files: Look, image: str, mask: str) -> None:
    (width, height), (w, h) = (tuple(files.fact(name, "size", _size)) for name in (image, mask))
    if (width, height) != (w, h):
        where = str(files.root / image)
        raise InputError(f"expected a mask of {height} x {width} pixels for {where!r}, found {h} x {w}; redraw it")


def _size(file: Path) -> tuple[int, int]:
    """(width, height)."""
    with _opened(file) as picture:
        return picture.size


def _largest(file: Path) -> int:
    """The largest class in a mask; -1 if all of it is 255."""
    mask = _decoded(file)
    return int(mask[mask != OUTSIDE].max(initial=0)) if (mask != OUTSIDE).any() else -1


def _decoded(file: Path) -> np.ndarray:
    """uint8 [h, w]."""
    try:
        with _opened(file) as picture:
            if picture.mode not in MODES:
                fix = "save it as an 8-bit grey PNG of class numbers"
                raise InputError(
                    f"expected a mask of one byte a pixel, found {str(file)!r} of mode {picture.mode}; {fix}"
                )
            return np.asarray(picture).astype(np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise _unreadable(file, error) from None


def _opened(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"expected a readable mask, found {str(file)!r} ({reason}); replace or remove the file")


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _content(files: Look, splits: dict[str, Split], classes: tuple[str, ...]) -> Iterator[bytes | str]:
    """Names, sizes and ends of all files, as `folder` takes them."""
    yield from classes
    for name, split in splits.items():
        yield name
        for column in split.columns.values():
            yield from classfolders.named_ends(files, column.names)
