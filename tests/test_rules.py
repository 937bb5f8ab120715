"""Ordered rules over parameter paths, by hand."""

from __future__ import annotations

import pytest

from jaxfer import rules
from jaxfer.errors import InputError, RuleError

PATHS = ("stem/kernel", "block_0/attn/query/kernel", "block_0/attn/query/bias", "block_10/kernel", "head/out/kernel")


def test_flatten_and_unflatten_are_inverse():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert rules.flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert rules.unflatten(rules.flatten(tree)) == tree


def test_first_match_wins_and_order_is_the_paths():
    found = rules.resolve(((r".*/bias", "bias"), (r"block_0/.*", "block"), (r".*", "rest")), PATHS)
    assert list(found.items()) == [
        ("stem/kernel", "rest"),
        ("block_0/attn/query/kernel", "block"),
        ("block_0/attn/query/bias", "bias"),
        ("block_10/kernel", "rest"),
        ("head/out/kernel", "rest"),
    ]


@pytest.mark.parametrize("pattern", ["block_1", "block_1/kernel", "lock_10/kernel", "block_10"])
def test_only_a_full_match_claims(pattern):
    with pytest.raises(RuleError, match="matches no parameter"):
        rules.resolve(((pattern, 0), (".*", 1)), PATHS)


def test_defaults_come_after_and_may_stay_unused():
    found = rules.resolve((("stem/.*", 1),), PATHS[:1], defaults=(("stem/.*", 2), ("nothing/.*", 3)))
    assert found == {"stem/kernel": 1}
    assert rules.resolve((), PATHS[:2], defaults=(("stem/.*", 2), (".*", 3))) == dict(zip(PATHS, (2, 3), strict=False))


def test_an_unclaimed_leaf_is_an_error():
    message = (
        "4 parameters are claimed by no lr rule: 'block_0/attn/query/kernel', 'block_0/attn/query/bias', "
        "'block_10/kernel', 'head/out/kernel'; end the rules with '.*'"
    )
    with pytest.raises(RuleError) as error:
        rules.resolve((("stem/.*", 1.0),), PATHS, what="lr rule")
    assert str(error.value) == message


def test_five_unclaimed_leaves_are_shown():
    with pytest.raises(RuleError, match=r"^7 parameters .*'p0', 'p1', 'p2', 'p3', 'p4' \.\.\.; end"):
        rules.resolve((), [f"p{i}" for i in range(7)])


def test_a_dead_rule_names_the_nearest_with_their_leaves():
    paths = [f"block_0/{i}/kernel" for i in range(16)] + ["head/kernel"]
    with pytest.raises(RuleError) as error:
        rules.resolve((("blok_0/.*", 0), (".*", 1)), paths, what="freeze rule")
    assert str(error.value).startswith(
        "freeze rule 'blok_0/.*' matches no parameter; nearest: 'block_0/.*' (16 leaves)"
    )


def test_a_dead_rule_far_from_every_name_lists_the_top():
    with pytest.raises(RuleError) as error:
        rules.resolve((("xyz", 0), (".*", 1)), PATHS)
    assert str(error.value) == "rule 'xyz' matches no parameter; top-level names: block_0, block_10, head, stem"


def test_a_shadowed_rule_names_the_earlier_ones():
    with pytest.raises(RuleError) as error:
        rules.resolve(((".*/kernel", 0), (".*/bias", 1), ("block_0/.*", 2), (".*", 3)), PATHS)
    assert str(error.value) == (
        "rule 'block_0/.*' claims nothing: all it matches (2 leaves) went to the earlier '.*/kernel', '.*/bias'; "
        "move it up or remove it"
    )


def test_a_partly_shadowed_rule_is_alive():
    found = rules.resolve(((".*/bias", 0), ("block_0/.*", 1), (".*", 2)), PATHS)
    assert [found[path] for path in PATHS] == [2, 1, 0, 2, 2]


def test_a_rule_of_no_paths_says_so():
    with pytest.raises(RuleError, match="matches no parameter; this model has none of that kind"):
        rules.select(["stem/norm"], [])


@pytest.mark.parametrize("use", [lambda p: rules.resolve(((p, 0),), PATHS), lambda p: rules.select([p], PATHS)])
def test_a_bad_pattern_is_one_line(use):
    with pytest.raises(InputError) as error:
        use("stem/(")
    message = "rule 'stem/(' is not a regular expression: missing ), unterminated subpattern at position 5"
    assert str(error.value) == message


def test_select_takes_the_union_and_patterns_may_overlap():
    assert rules.select([".*/bias", "block_0/.*"], PATHS) == {PATHS[1], PATHS[2]}
    assert rules.select([], PATHS) == frozenset()


def test_select_refuses_a_pattern_that_matches_nothing():
    with pytest.raises(RuleError, match=r"^target 'hed/\.\*' matches no parameter; nearest: 'head/\.\*' \(1 leaf\)"):
        rules.select([".*", "hed/.*"], PATHS, what="target")
