from __future__ import annotations

import pickle

import numpy as np
import pytest

from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.prepare import DataConfig, build, opened_once, prepare
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError

COUNTS = {"cat": 30, "dog": 20, "emu": 12}


def images(count):
    """Image i holds the value i everywhere."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 1)).copy()


def split(labels):
    labels = np.asarray(labels)
    kind = {"i": "class", "b": "classes", "f": "value"}[labels.dtype.kind]
    return Split.whole(image=Array(images(len(labels)), "image"), label=Array(labels, kind))


def animals(**more):
    labels = np.repeat(np.arange(3, dtype=np.int32), list(COUNTS.values()))
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    splits = {"train": split(labels), "test": split(np.array([2, 0, 1, 2], np.int32)), **more}
    return Dataset(splits=splits, classes=tuple(COUNTS), fingerprint="f")


def made(config, *, seed=0, with_test=False, dataset=None):
    return prepare(dataset or animals(), config, seed=seed, with_test=with_test)


def rows(split):
    return split.rows.tolist()


def test_validation_is_stratified_disjoint_and_the_same_for_every_seed():
    data = made(DataConfig(val_per_class=5))
    assert np.bincount(data.splits["val"].labels).tolist() == [5, 5, 5]
    assert np.bincount(data.splits["train"].labels).tolist() == [25, 15, 7]
    assert sorted(rows(data.splits["val"]) + rows(data.splits["train"])) == list(range(62))
    assert rows(made(DataConfig(val_per_class=5), seed=9).splits["val"]) == rows(data.splits["val"])


def test_validation_by_fraction():
    assert np.bincount(made(DataConfig(val_fraction=0.2)).splits["val"].labels).tolist() == [6, 4, 2]


def test_a_sources_own_validation_split_is_kept():
    own = split(np.array([0, 1, 2, 2], np.int32))
    data = made(DataConfig(), dataset=animals(val=own))
    assert data.splits["val"].labels.tolist() == [0, 1, 2, 2]
    assert len(data.splits["train"]) == 62


@pytest.mark.parametrize(("option", "value", "default"), [("val_per_class", 5, "0"), ("val_fraction", 0.2, "0.1")])
def test_validation_options_are_refused_where_the_source_has_a_val_split(option, value, default):
    own = split(np.array([0, 1, 2, 2], np.int32))
    with pytest.raises(InputError) as caught:
        made(DataConfig(**{option: value}), dataset=animals(val=own))
    found = f"data.{option}={value} has no effect: the source has a val split; set it to {default}"
    assert str(caught.value) == found


def test_classes_are_selected_in_order_and_relabelled_in_every_split():
    data = made(DataConfig(classes=("emu", "cat"), val_per_class=2), with_test=True)
    assert data.classes == ("emu", "cat")
    assert np.bincount(data.splits["train"].labels).tolist() == [10, 28]
    assert data.splits["test"].labels.tolist() == [0, 1, 0]
    assert rows(data.splits["test"]) == [0, 1, 3]
    assert data.splits["test"].labels.dtype == np.int32
    source = animals().splits["train"].labels
    for part in (data.splits["train"], data.splits["val"]):
        assert source[rows(part)].tolist() == [{0: 2, 1: 0}[label] for label in part.labels.tolist()]


def test_validation_examples_do_not_depend_on_the_other_classes():
    everything, two = made(DataConfig(val_per_class=4)), made(DataConfig(val_per_class=4, classes=("dog", "emu")))
    source = animals().splits["train"].labels
    assert rows(two.splits["val"]) == [row for row in rows(everything.splits["val"]) if source[row] != 0]


def test_few_label_draws_are_nested_and_depend_on_the_seed():
    few = {
        (seed, count): set(rows(made(DataConfig(labels_per_class=count, val_per_class=2), seed=seed).splits["train"]))
        for seed in (0, 1)
        for count in (1, 5, 10)
    }
    for seed in (0, 1):
        assert few[seed, 1] < few[seed, 5] < few[seed, 10]
        assert [len(few[seed, count]) for count in (1, 5, 10)] == [3, 15, 30]
    assert few[0, 5] != few[1, 5]
    assert not few[0, 10] & set(rows(made(DataConfig(val_per_class=2)).splits["val"]))


@pytest.mark.parametrize("kind", ["class", "value", "classes", "tags"])
def test_a_number_of_labels_in_all_is_nested_for_any_kind_of_target(kind):
    labels = np.repeat(np.arange(3, dtype=np.int32), list(COUNTS.values()))
    targets = {"value": labels.astype(np.float32), "classes": np.eye(3, dtype=bool)[labels], "tags": labels}
    values = Array(targets.get(kind, labels), kind)
    train = Split.whole(image=Array(images(62), "image"), **{"tags" if kind == "tags" else "label": values})
    classes = () if kind == "value" else tuple(COUNTS)
    dataset = Dataset(splits={"train": train, "test": train}, classes=classes, fingerprint="f")
    few = {
        (seed, count): set(rows(made(DataConfig(labels=count), seed=seed, dataset=dataset).splits["train"]))
        for seed in (0, 1)
        for count in (20, 40)
    }
    assert [len(few[seed, count]) for seed in (0, 1) for count in (20, 40)] == [20, 40, 20, 40]
    assert few[0, 20] < few[0, 40] and few[1, 20] < few[1, 40] and few[0, 20] != few[1, 20]
    # The rest is there without its targets; validation is no part of either.
    data = made(DataConfig(labels=20), dataset=dataset)
    whole = rows(made(DataConfig(), dataset=dataset).splits["train"])
    assert rows(data.pool) == whole and set(data.pool.columns) == {"image"}
    assert few[0, 20] < set(whole) and not set(whole) & set(rows(data.splits["val"]))
    assert data.provenance["train"] == f"drawn from {len(whole)}: data.labels=20, seed 0"
    assert made(DataConfig(), dataset=dataset).pool is None
    # All of them are the split as it was.
    everything = made(DataConfig(labels=len(whole)), dataset=dataset)
    assert rows(everything.splits["train"]) == whole


def test_few_labels_a_class_leave_a_pool_too():
    data = made(DataConfig(labels_per_class=2, val_per_class=2, classes=("emu", "cat")))
    assert (len(data.splits["train"]), len(data.pool), set(data.pool.columns)) == (4, 38, {"image"})


def test_subsets_share_the_sources_images():
    dataset = animals()
    data = made(DataConfig(classes=("dog", "cat"), labels_per_class=3), dataset=dataset)
    column, origin = data.splits["train"].columns["image"], data.splits["train"].rows
    assert column is dataset.splits["train"].columns["image"] is data.splits["val"].columns["image"]
    assert [int(data.splits["train"].example("image", i)[0, 0, 0]) for i in range(6)] == origin.tolist()
    twice = data.splits["train"].take(np.array([4, 0]))
    assert rows(twice) == [origin[4], origin[0]]
    assert int(twice.example("image", 0)[0, 0, 0]) == origin[4]
    assert data.fingerprint == "f"


def test_splits_are_picklable():
    original = made(DataConfig(labels_per_class=3)).splits["train"]
    copy = pickle.loads(pickle.dumps(original))
    assert copy.labels.tolist() == original.labels.tolist()
    np.testing.assert_array_equal(copy.example("image", 5), original.example("image", 5))


def test_the_test_split_is_sealed_unless_asked_for():
    assert set(made(DataConfig()).splits) == {"train", "val"}
    assert set(made(DataConfig(), with_test=True).splits) == {"train", "val", "test"}


def test_the_source_is_left_as_it_was():
    dataset = animals()
    made(DataConfig(classes=("dog", "cat")), dataset=dataset)
    assert set(dataset.splits) == {"train", "test"}
    assert len(dataset.splits["train"]) == 62


def regression_data():
    return Dataset(splits={"train": split(np.linspace(-1, 1, 40, dtype=np.float32))}, classes=(), fingerprint="r")


def test_regression():
    data = made(DataConfig(val_fraction=0.25), dataset=regression_data())
    assert (len(data.splits["train"]), len(data.splits["val"])) == (30, 10)
    assert data.splits["val"].labels.dtype == np.float32
    np.testing.assert_array_equal(
        data.splits["val"].labels, np.linspace(-1, 1, 40, dtype=np.float32)[rows(data.splits["val"])]
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(classes=("cats",)), "unknown class 'cats' in data.classes; nearest: 'cat'"),
        (DataConfig(classes=("cat", "dog", "cat")), "class 'cat' occurs twice"),
        (DataConfig(labels_per_class=-1), "expected data.labels_per_class >= 0, found -1"),
        (DataConfig(val_per_class=-2), "expected data.val_per_class >= 0, found -2"),
        (DataConfig(workers=-1), "expected data.workers >= 0, found -1"),
        (DataConfig(val_fraction=0.0), "expected data.val_fraction between 0 and 1, found 0.0"),
        (DataConfig(val_fraction=1.0), "expected data.val_fraction between 0 and 1, found 1.0"),
        (DataConfig(val_fraction=0.97), "class 'emu' has 12 training examples and data.val_fraction=0.97 leaves none"),
        (DataConfig(val_per_class=12), "class 'emu' has 12 training examples and data.val_per_class=12 leaves none"),
        (DataConfig(labels=-1), "expected data.labels >= 0, found -1"),
        (
            DataConfig(labels=20, labels_per_class=2),
            "expected one number of labels, found data.labels=20 and data.labels_per_class=2; set one of the two to 0",
        ),
        (
            DataConfig(labels=57, val_per_class=2),
            "the data has 56 training examples besides validation, expected data.labels=57; lower it to 56",
        ),
        (DataConfig(labels=2, val_per_class=2), "data.labels=2 draws no example of class 'dog' under seed 0; raise it"),
        (
            DataConfig(labels_per_class=11, val_per_class=2),
            "class 'emu' has 10 training examples besides validation, expected data.labels_per_class=11; lower it to",
        ),
    ],
)
def test_bad_choices(config, message):
    with pytest.raises(InputError) as caught:
        made(config)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_augmentations_are_checked_and_spelt_in_one_way():
    with pytest.raises(InputError, match="^unknown augmentation 'flipp'; nearest: 'flip'$"):
        DataConfig(augment=("flipp",))
    config = DataConfig(augment=("flip", "randaugment( magnitude=5, ops=2 )"))
    assert config == DataConfig(augment=("flip", "randaugment(magnitude=5)"))
    assert config.to_dict()["augment"] == ("flip", "randaugment(magnitude=5)")


@pytest.mark.parametrize("options", [{"classes": ("a",)}, {"labels_per_class": 2}, {"val_per_class": 2}])
def test_bad_choices_for_regression(options):
    with pytest.raises(InputError, match=f"data.{next(iter(options))}=.* needs classes"):
        made(DataConfig(**options), dataset=regression_data())


def test_labels_out_of_range():
    for wrong in (-1, 3):
        broken = animals(val=split(np.array([0, wrong], np.int32)))
        with pytest.raises(InputError, match=f"expected labels 0..2 in split 'val', found {wrong}"):
            made(DataConfig(), dataset=broken)


def test_a_class_without_training_examples():
    broken = animals(train=split(np.array([0, 0, 0, 2, 2, 2], np.int32)))
    with pytest.raises(InputError, match="class 'dog' has no training example"):
        made(DataConfig(), dataset=broken)
    assert made(DataConfig(classes=("cat", "emu")), dataset=broken).classes == ("cat", "emu")


def test_a_validation_split_without_the_chosen_classes():
    broken = animals(val=split(np.array([0, 1], np.int32)))
    with pytest.raises(InputError, match="split 'val' has no example of the chosen classes"):
        made(DataConfig(classes=("emu",)), dataset=broken)


def test_build_makes_synthetic_data_once():
    config = DataConfig(source="synthetic")
    first, second = (build(config, {"examples": 12}, seed=seed, with_test=False) for seed in (0, 1))
    assert first.splits["train"].columns["image"] is second.splits["train"].columns["image"]
    assert (len(first.splits["train"]), set(first.splits)) == (12, {"train", "val"})


def test_build_reads_changed_data_again(tmp_path):
    def saved(value):
        np.savez(tmp_path / "a.npz", train_image=np.full((20, 2, 2), value, np.uint8), train_label=np.arange(20) % 2)
        return build(DataConfig(source="npz"), {"path": str(tmp_path / "a.npz")}, seed=0, with_test=False)

    first, second = saved(3), saved(4)
    assert [int(data.splits["train"].example("image", 0)[0, 0, 0]) for data in (first, second)] == [3, 4]
    assert first.fingerprint != second.fingerprint


def test_runs_that_share_a_look_at_the_files_see_no_change_of_them(tmp_path):
    def saved(value):
        np.savez(tmp_path / "a.npz", train_image=np.full((20, 2, 2), value, np.uint8), train_label=np.arange(20) % 2)
        data = build(DataConfig(source="npz"), {"path": str(tmp_path / "a.npz")}, seed=value, with_test=False)
        return int(data.splits["train"].example("image", 0)[0, 0, 0])

    with opened_once():
        with opened_once():
            assert saved(3) == 3
        assert saved(4) == 3, "the outer one's"
    assert saved(5) == 5
    with opened_once():
        assert saved(6) == 6


def test_build_names_unknown_sources_and_options():
    with pytest.raises(InputError, match="unknown data source 'digit'; nearest: 'digits'"):
        build(DataConfig(source="digit"), {}, seed=0, with_test=False)
    with pytest.raises(InputError, match="unknown field config.data.example; nearest: 'examples'"):
        build(DataConfig(source="synthetic"), {"example": 3}, seed=0, with_test=False)


def test_fingerprint_sees_content_type_and_shape():
    base = np.arange(6, dtype=np.int32)
    variants = [[base], [base + 1], [base.astype(np.int64)], [base.reshape(2, 3)], ["a", base], ["ab"], ["a", "b"]]
    assert len({fingerprint(parts) for parts in variants}) == len(variants)
    assert fingerprint([base]) == fingerprint([base.copy()])
    assert fingerprint([b"a"]) == fingerprint(["a"])
    assert len(fingerprint([])) == 64


def test_locate_looks_as_given_and_then_in_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.npz").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAXFER_DATA", raising=False)
    with pytest.raises(InputError, match="data.path does not exist: expected 'a.npz'; correct it or set JAXFER_DATA"):
        locate("a.npz", "npz")
    monkeypatch.setenv("JAXFER_DATA", str(tmp_path / "store"))
    assert locate("a.npz", "npz") == tmp_path / "store" / "a.npz"
    (tmp_path / "a.npz").touch()
    assert locate("a.npz", "npz").resolve() == tmp_path / "a.npz"
    with pytest.raises(InputError, match="data source 'npz' needs a path; set data.path"):
        locate("", "npz")


SETS = np.random.default_rng(1).random((40, 3)) < 0.3


def sets_of_labels(**more):
    names = ("cat", "dog", "emu")
    return Dataset(splits={"train": split(SETS), **more}, classes=names, fingerprint="s")


def test_sets_of_labels_keep_every_row_and_choose_columns():
    assert (~SETS[:, [2, 0]].any(1)).any()  # an example with none of the chosen is a negative of each
    data = made(DataConfig(classes=("emu", "cat"), val_fraction=0.25), dataset=sets_of_labels())
    assert data.classes == ("emu", "cat")
    assert (len(data.splits["train"]), len(data.splits["val"])) == (30, 10)
    for part in data.splits.values():
        np.testing.assert_array_equal(part.labels, SETS[rows(part)][:, [2, 0]])
        assert part.labels.dtype == bool
    assert sorted(rows(data.splits["train"]) + rows(data.splits["val"])) == list(range(40))


@pytest.mark.parametrize("option", ["labels_per_class", "val_per_class"])
def test_sets_of_labels_have_no_examples_of_one_class(option):
    with pytest.raises(InputError, match=f"data.{option}=2 needs one class per example, not a set; remove it"):
        made(DataConfig(**{option: 2}), dataset=sets_of_labels())


def test_a_class_that_no_drawn_set_has_is_said():
    data = made(DataConfig(labels=3), dataset=sets_of_labels())
    held = data.splits["train"].labels.any(axis=0)
    missing = [name for name, some in zip(("cat", "dog", "emu"), held, strict=True) if not some]
    assert missing
    said = f"data.labels=3, seed 0: no example of {len(missing)} of 3 classes ({', '.join(missing)})"
    assert data.notes == (said,)
    assert made(DataConfig(labels=36), dataset=sets_of_labels()).notes == ()


def test_labels_of_data_without_any():
    plain = Dataset(splits={"train": Split.whole(image=Array(images(9), "image"))}, classes=(), fingerprint="p")
    with pytest.raises(InputError, match="data.labels=3 needs labels, but this data has none; remove it"):
        made(DataConfig(labels=3), dataset=plain)
