from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import grain
import numpy as np
import pytest
from absl import flags
from PIL import Image

from jaxfer.data.encodings.augment import applied, augmentations, cut
from jaxfer.data.encodings.image import ImageEncoding, normalize, preprocess
from jaxfer.data.encodings.pixels import resize
from jaxfer.data.encodings.text import TEXT_INPUTS, TextEncoding, texts, tokenize
from jaxfer.data.loader import Feed, eval_batches, train_batches
from jaxfer.data.order import batch_indices, bucketed_indices, example_rng
from jaxfer.data.sources.folder import Files
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.task import labels
from tests.experiments import TOKENIZER

SIZE = 11
ENCODING = ImageEncoding(size=(8, 8, 3), mean=(0.4,), std=(0.2,))
AUGMENT = ("shift", "flip", "crop")
PIXELS = np.random.default_rng(0).integers(0, 256, (SIZE, 6, 10, 1), np.uint8)
SPLIT = Split.whole(image=Array(PIXELS, "image"), label=Array(np.arange(SIZE, dtype=np.int32) % 3, "class"))
FLOATS = SPLIT.with_column("label", Array(np.linspace(0, 1, SIZE, dtype=np.float32), "value"))


def feed(split=SPLIT, encoding=ENCODING):
    return Feed(split=split, encodings=(encoding,), targets=labels)


def batches(start=0, stop=6, split=SPLIT, batch_size=4, augment=AUGMENT, **options):
    options = {"seed": 5, "batch_size": batch_size, "augment": augment, **options}
    return list(train_batches(feed(split), start=start, stop=stop, **options))


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_a_batch_is_what_order_image_and_rng_say():
    for step, batch in enumerate(batches(split=FLOATS)):
        chosen = batch_indices(5, step, size=SIZE, batch_size=4)
        expected = []
        for position, row in enumerate(chosen):
            rng = example_rng(5, step, position)
            pixels = resize(np.repeat(PIXELS[row], 3, axis=2), (8, 8), "bilinear")
            for name in AUGMENT:
                pixels = applied(pixels, augmentations((name,)), rng)
            expected.append((pixels.astype(np.float32) / np.float32(255) - np.float32(0.4)) / np.float32(0.2))
        np.testing.assert_array_equal(batch["image"], np.stack(expected))
        np.testing.assert_array_equal(batch["label"], FLOATS.labels[chosen])
        assert (batch["image"].dtype, batch["label"].dtype) == (np.float32, np.float32)


def test_a_crop_that_comes_first_is_cut_out_of_the_source():
    (batch,) = batches(2, 3, augment=("crop",))
    for position, row in enumerate(batch_indices(5, 2, size=SIZE, batch_size=4)):
        rectangle = augmentations(("crop",))[0].rectangle(example_rng(5, 2, position), (6, 10))
        pixels = cut(np.repeat(PIXELS[row], 3, axis=2), rectangle, (8, 8), "bilinear")
        np.testing.assert_array_equal(batch["image"][position], normalize(pixels, ENCODING))


def test_files_make_the_batches_that_their_pixels_make(tmp_path):
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 256, (7 + i, 12 - i, 3), np.uint8) for i in range(3)]
    arrays[1] = arrays[1][..., :1]  # grey
    for i, array in enumerate(arrays):
        Image.fromarray(array if array.shape[2] == 3 else array[..., 0]).save(tmp_path / f"{i}.png")
    label, names = Array(np.arange(3, dtype=np.int32), "class"), tuple(f"{i}.png" for i in range(3))
    ragged = np.empty(3, object)
    ragged[:] = arrays
    files = Split.whole(image=Files(tmp_path, names), label=label).take(np.array([2, 0, 1]))
    memory = Split.whole(image=Array(ragged, "image"), label=label).take(np.array([2, 0, 1]))
    for augment in (("crop", "flip"), AUGMENT, ()):
        assert_same(batches(split=files, augment=augment), batches(split=memory, augment=augment))


def test_without_augmentation_images_are_the_preprocessed_ones():
    (batch,) = batches(2, 3, augment=())
    chosen = batch_indices(5, 2, size=SIZE, batch_size=4)
    np.testing.assert_array_equal(batch["image"], [preprocess(PIXELS[row], ENCODING) for row in chosen])
    assert batch["label"].dtype == np.int32


def test_resume_by_start_equals_slicing():
    assert_same(batches(3, 6), batches(0, 6)[3:])
    assert batches(4, 4) == []


def test_a_batch_may_be_larger_than_the_data():
    (batch,) = batches(0, 1, batch_size=2 * SIZE)
    assert np.bincount(batch["label"]).tolist() == [8, 8, 6]


def test_two_workers_equal_none_and_resume():
    assert_same(batches(1, 6, workers=2), batches(1, 6))


def test_trap_grain_randomness_does_not_depend_on_host_count():
    # The trap: Grain's own random_map, sharded before it maps, counts positions within the host.
    def grains(host, count):
        numbers = grain.MapDataset.range(8).seed(0)[host::count]
        return list(numbers.random_map(lambda x, rng: (x, rng.random())))

    assert sorted(grains(0, 2) + grains(1, 2)) != grains(0, 1)
    whole = batches()
    halves = [batches(rows=rows) for rows in ([0, 3], [1, 2])]  # as a slice's chips may be wired
    joined = [{k: np.concatenate([a[k], b[k]])[[0, 2, 3, 1]] for k in a} for a, b in zip(*halves, strict=True)]
    assert_same(joined, whole)


def test_trap_grain_mp_prefetch_before_flags_parsed():
    was_parsed = flags.FLAGS.is_parsed()
    flags.FLAGS.unparse_flags()
    try:
        raw = grain.MapDataset.range(3).to_iter_dataset().mp_prefetch(grain.MultiprocessingOptions(num_workers=1))
        iterator = iter(raw)
        with pytest.raises(flags.UnparsedFlagAccessError):
            next(iterator)
        iterator.close()  # or its thread lives until the garbage collector comes by
        assert_same(batches(0, 2, workers=1), batches(0, 2))
    finally:
        if was_parsed:
            flags.FLAGS.mark_as_parsed()


@pytest.mark.parametrize(("workers", "augment"), [(0, AUGMENT), (1, ("crop",)), (0, ("crop", "flip")), (0, ())])
def test_an_unreadable_image_is_one_line_to_the_user(tmp_path, workers, augment):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    names, label = ("absent.jpg", "cut.jpg"), Array(np.zeros(2, np.int32), "class")
    files = Split.whole(image=Files(tmp_path, names), label=label)
    broken = files.take(np.array([1]))
    with pytest.raises(InputError, match=r"expected a readable image, found '.*cut\.jpg'") as caught:
        batches(split=broken, workers=workers, augment=augment)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is InputError
    assert not getattr(caught.value, "__notes__", [])
    assert caught.value.__suppress_context__
    if not workers:
        with pytest.raises(InputError, match=r"cut\.jpg"):
            list(eval_batches(feed(broken), batch_size=2))


def test_stopping_early_leaves_no_threads():
    before = set(threading.enumerate())  # of earlier tests, whose iterators wait for a collection of garbage

    def threads():
        return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch") and t not in before]

    iterator = train_batches(feed(), seed=0, batch_size=4, start=0, stop=1000)
    next(iterator)
    assert threads()
    iterator.close()
    for _ in range(500):  # they end when the batch in their hands is done
        if not threads():
            break
        time.sleep(0.01)
    assert threads() == []


def test_evaluation_is_in_order_and_pads_to_a_static_shape():
    result = list(eval_batches(feed(), batch_size=4))
    assert [batch["image"].shape for batch in result] == [(4, 8, 8, 3)] * 3
    assert [batch["mask"].tolist() for batch in result] == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert np.concatenate([batch["label"] for batch in result]).tolist() == [*SPLIT.labels.tolist(), 0]
    expected = [preprocess(PIXELS[row], ENCODING) for row in (*range(SIZE), 0)]
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in result]), expected)
    assert result[0]["mask"].dtype == result[0]["image"].dtype == np.float32
    assert result[0]["label"].dtype == np.int32


def test_evaluation_of_an_exact_multiple_has_no_padding():
    split = SPLIT.take(np.arange(8))
    result = list(eval_batches(feed(split), batch_size=4))
    assert [batch["mask"].tolist() for batch in result] == [[1, 1, 1, 1]] * 2


def test_evaluation_on_hosts_is_evaluation_cut_in_rows():
    whole = list(eval_batches(feed(), batch_size=4))
    quarters = [list(eval_batches(feed(), batch_size=4, rows=[i])) for i in range(4)]
    hosts = zip(*quarters, strict=True)
    joined = [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in hosts]
    assert_same(joined, whole)


def test_bad_arguments_are_refused_at_once():
    def start(split=SPLIT, batch_size=4, **options):
        train_batches(feed(split), seed=0, batch_size=batch_size, start=0, stop=1, **options)

    with pytest.raises(InputError, match="unknown augmentation 'shfit'; nearest: 'shift'"):
        start(augment=("shfit",))
    with pytest.raises(InputError, match="expected batch_size to be positive, found 0"):
        start(batch_size=0)
    with pytest.raises(InputError, match="expected training examples, found none"):
        start(split=SPLIT.take(np.arange(0)))


BUCKETS = (4, 6, 9)
TEXT = TextEncoding(tokenizer=TOKENIZER, tokenizer_sha256="", vocab=23, types=2, max_length=9, buckets=BUCKETS)
WORDS = ("good", "bad", "plain", "film", "plot", "song", "the", "a", "was", "very")
PHRASES = Split.whole(
    text=texts(tuple(" ".join(WORDS[: 1 + i % 10]) for i in range(30))),
    label=Array(np.arange(30, dtype=np.int32) % 3, "class"),
)


def text_batches(start=0, stop=24, **options):
    options = {"seed": 5, "batch_size": 4, **options}
    return list(train_batches(feed(PHRASES, TEXT), start=start, stop=stop, **options))


def test_a_batch_of_texts_is_what_order_and_tokenizer_say():
    tokens, lengths = tokenize(PHRASES, TEXT), set()
    for step, batch in enumerate(text_batches()):
        chosen, length = bucketed_indices(5, step, lengths=tokens.lengths, buckets=BUCKETS, batch_size=4)
        expected = {**tokens(chosen, length), "label": PHRASES.labels[chosen]}
        assert_same([batch], [expected])
        lengths.add(length)
    assert lengths == set(BUCKETS)


def test_texts_resume_and_go_through_worker_processes():
    assert_same(text_batches(9, 12), text_batches(9, 24)[:3])
    assert_same(text_batches(1, 6, workers=2), text_batches(1, 6))


def test_hosts_pad_texts_to_one_length():
    hosts = zip(*(text_batches(rows=[i]) for i in range(4)), strict=True)
    joined = [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in hosts]
    assert_same(joined, text_batches())


@pytest.mark.parametrize("hosts", [[None], [[0, 1], [2, 3]]])
def test_evaluation_of_texts_is_in_order_and_padded_to_a_bucket(hosts):
    split = PHRASES.take(np.array([0, 1, 2, 3, 9, 1, 0]))  # 3, 4, 5, 6; 9 (cut), 4, 3 tokens
    parts = [list(eval_batches(feed(split, TEXT), batch_size=4, rows=rows)) for rows in hosts]
    result = [{k: np.concatenate([part[k] for part in each]) for k in each[0]} for each in zip(*parts, strict=True)]
    assert [batch["input_ids"].shape for batch in result] == [(4, 6), (4, 9)]
    assert [batch["mask"].tolist() for batch in result] == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert [batch["label"].tolist() for batch in result] == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert [batch["attention_mask"].sum(1).tolist() for batch in result] == [[3, 4, 5, 6], [9, 4, 3, 3]]


def test_labels_of_a_set_come_as_rows():
    sets = np.eye(30, 3, dtype=bool)
    split = PHRASES.with_column("label", Array(sets, "classes"))
    (batch,) = train_batches(feed(split, TEXT), seed=5, batch_size=4, start=0, stop=1)
    assert (batch["label"].shape, batch["label"].dtype) == ((4, 3), bool)
    assert {*batch} == {*TEXT_INPUTS, "label"}


def test_models_of_one_kind_refuse_data_of_the_other():
    for make in (train_batches, eval_batches):
        options = {"batch_size": 4} | ({"seed": 0, "start": 0, "stop": 1} if make is train_batches else {})
        with pytest.raises(InputError, match="the model reads texts, the data source has images; choose another"):
            list(make(feed(SPLIT, TEXT), **options))
        with pytest.raises(InputError, match="the model reads images, the data source has texts; choose another"):
            list(make(feed(PHRASES), **options))
    with pytest.raises(
        InputError, match=r"data.augment=\('flip',\) is of images, the data source has texts; remove it"
    ):
        text_batches(augment=("flip",))


def test_a_killed_loader_process_is_one_line():
    iterator = train_batches(feed(), seed=0, batch_size=4, start=0, stop=10_000, workers=1)
    next(iterator)
    (loader,) = multiprocessing.active_children()
    loader.kill()
    with pytest.raises(
        InputError, match=r"a loader process died \(exit code -9\); out of memory\? lower config\.data\."
    ):
        for _ in iterator:
            pass


ORPHANS = """
import multiprocessing, os, signal, numpy as np
from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.loader import Feed, train_batches
from jaxfer.data.split import Array, Split
from jaxfer.task import labels

if __name__ == "__main__":
    image, label = Array(np.zeros((8, 4, 4, 1), np.uint8), "image"), Array(np.zeros(8, np.int32), "class")
    encoding = ImageEncoding(size=(4, 4, 1), mean=(0.4,), std=(0.2,))
    feed = Feed(split=Split.whole(image=image, label=label), encodings=(encoding,), targets=labels)
    batches = train_batches(feed, seed=0, batch_size=4, start=0, stop=10_000, workers=1)
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_loader_processes_end_with_a_killed_run(tmp_path):
    """They hold its pipes: a reader that waits for their end would wait for ever."""
    (tmp_path / "run.py").write_text(ORPHANS)
    done = subprocess.run([sys.executable, tmp_path / "run.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL and done.stdout.strip().isdigit()
    assert "Traceback" not in done.stderr  # Python's resource tracker says that it cleans up
