"""Linked axes: the shapes that a suite lists, those that flags keep, and mistakes in either."""

import msgspec
import pytest

from attnbench.contracts.errors import UsageError
from attnbench.contracts.suite import Linked, Sweep
from attnbench.planning.cases import shapes
from attnbench.planning.suites import apply_flags

BERT = Linked(name="bert", seq=512, heads=12, head_dim=64, causal=False)
LLAMA = Linked(name="llama", seq="4096,8192", heads=32, kv_heads=8, head_dim=128, causal=True)
MISTRAL = Linked(name="mistral", seq=8192, heads=32, kv_heads=8, head_dim=128, causal=True, window=4096)
SUITE = Sweep(variants="a", shapes=(BERT, LLAMA, MISTRAL), batch=1)


def left(**flags):
    """Return the shapes that flags leave, with their lengths."""
    return [(case.shape_name, case.shape.seq_q) for case in shapes(apply_flags(SUITE, Sweep(**flags)))]


ALL = [("bert", 512), ("llama", 4096), ("llama", 8192), ("mistral", 8192)]


def test_listed_shapes_are_cases_of_their_own_not_a_product():
    found = list(shapes(SUITE))
    assert [(case.shape_name, case.shape.seq_q) for case in found] == ALL
    last = found[-1]
    assert (last.shape.heads, last.shape.kv_heads, last.shape.head_dim, last.shape.seq_k) == (32, 8, 128, 8192)
    assert (last.mask.causal, last.mask.window, found[0].mask.window) == (True, 4096, None)


@pytest.mark.parametrize(
    ("flags", "rest"),
    [
        ({}, ALL),
        ({"shapes": "mistral,bert"}, [ALL[0], ALL[3]]),
        ({"seq": "4096..8192"}, ALL[1:]),
        ({"seq": 512}, ALL[:1]),
        ({"heads": 32, "seq": 4096}, [ALL[1]]),
        ({"kv_heads": 12}, ALL[:1]),
        ({"width": 4096}, ALL[1:]),
        ({"causal": True}, ALL[1:]),
        ({"causal": False}, ALL[:1]),
        ({"window": "1k..4k"}, ALL[3:]),
        ({"seq_k": 8192}, ALL[2:]),
    ],
)
def test_a_flag_filters_what_the_suite_links(flags, rest):
    assert left(**flags) == rest


def test_a_flag_replaces_an_axis_that_the_list_leaves_open():
    found = list(shapes(apply_flags(SUITE, Sweep(batch="2,4", shapes="bert"))))
    assert [case.shape.batch for case in found] == [2, 4]
    found = list(shapes(apply_flags(SUITE, Sweep(tokens=16384, seq=8192))))
    assert {case.shape.batch for case in found} == {2}


def test_the_shapes_that_flags_leave_are_complete_so_that_a_plan_needs_no_suite():
    sweep = apply_flags(SUITE, Sweep(seq=4096))
    again = msgspec.convert(msgspec.to_builtins(sweep), Sweep)
    assert list(shapes(again)) == list(shapes(sweep))
    assert again.shapes[0].batch == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"seq": 777}, "--seq 777: no shape of the suite has that; there are 512, 4096, 8192"),
        ({"kv_heads": 4}, "--kv-heads 4: no shape of the suite has that; there are 8, 12"),
        ({"window": 9}, "--window 9: no shape of the suite has that; there are 4096"),
        ({"heads": 12, "seq": 8192}, "--seq, --heads: no shape of the suite has all of these; leave one out"),
        ({"shapes": "bert", "causal": True}, "--shapes, --causal: no shape of the suite has all of these"),
        ({"shapes": "llma"}, "--shapes: the suite has no shape 'llma'; did you mean 'llama'?"),
        ({"seq": "9..2"}, "--seq: '9..2' is reversed"),
        ({"head_dim": 64, "width": 64}, "--head-dim and --width say the same thing twice"),
    ],
)
def test_flags_that_leave_no_shape_are_refused_with_the_values_that_exist(flags, told):
    with pytest.raises(UsageError) as caught:
        apply_flags(SUITE, Sweep(**flags))
    assert str(caught.value).startswith(told)


def test_a_suite_that_lists_no_shapes_has_none_to_choose_from():
    with pytest.raises(UsageError, match="--shapes: this suite lists no shapes"):
        apply_flags(Sweep(variants="a", seq=64, heads=2, head_dim=8, batch=1), Sweep(shapes="bert"))


def test_a_mistake_in_a_listed_shape_names_the_shape():
    wrong = Sweep(shapes=(Linked(name="odd", seq=8, heads=12, kv_heads=5, head_dim=8),), batch=1)
    with pytest.raises(UsageError, match=r"--kv-heads: 12 heads .*\(shape 'odd'\)"):
        list(shapes(wrong))
