from typing import Annotated

import msgspec
import pytest
from msgspec import Meta
from msgspec.structs import replace

from attnbench import Case, Mask, Options, Shape, Support, Unsupported
from attnbench.contracts.reach import Span, scaled, spans_of
from attnbench.contracts.variant import (
    backend_of,
    build,
    check_support,
    complete_options,
    options_type,
    support_of,
)

SHAPE = Shape(batch=1, heads=8, kv_heads=8, seq_q=512, seq_k=512, head_dim=64)
CASE = Case(variant="mine", shape=SHAPE)
CAUSAL, WINDOW = Mask(causal=True), Mask(causal=True, window=128)


class Sized(Options):
    size: int = 8
    rate: float = 0.5


class WithOptions:
    Options = Sized

    def __init__(self, case, options):
        self.case, self.options = case, options

    def __call__(self, q, k, v):
        return self.options.size


class WithoutOptions:
    def __init__(self, case):
        self.case = case

    def __call__(self, q, k, v):
        return self.case


def plain_function(q, k, v):
    return q + k + v


# What a variant serves.


@pytest.mark.parametrize(
    ("support", "changes", "reason"),
    [
        (Support(dtypes=("float32",)), {"dtype": "float16"}, r"dtype float16 is not served \(only float32\)"),
        (Support(devices=("cuda",)), {}, r"device cpu is not served \(only cuda\)"),
        (Support(passes=("forward",)), {"passes": "decode"}, r"pass decode is not served \(only forward\)"),
        (Support(causal=False), {"mask": CAUSAL}, "it has no causal form"),
        (Support(causal="it mixes all positions"), {"mask": CAUSAL}, "^it mixes all positions$"),
        (Support(full=False), {}, r"it has no full \(non-causal\) form"),
        (Support(window=False), {"mask": WINDOW}, "it has no window"),
        (Support(cross=False), {"shape": replace(SHAPE, seq_k=9)}, "it needs as many queries as keys"),
        (Support(grouped=False), {"shape": replace(SHAPE, kv_heads=2)}, "kv heads must equal heads"),
        (Support(level="layer"), {}, "it starts from tokens"),
        (Support(ties_qk=True), {"shape": replace(SHAPE, seq_k=9)}, "queries are its keys too"),
        (Support(ties_qk=True, grouped=True), {"shape": replace(SHAPE, kv_heads=2)}, "queries are its keys too"),
    ],
)
def test_a_case_that_is_not_served_is_refused_with_the_reason(support, changes, reason):
    with pytest.raises(Unsupported, match=reason):
        check_support(support, replace(CASE, **changes))


@pytest.mark.parametrize(
    ("support", "changes"),
    [
        (Support(), {}),
        (Support(devices=("cuda",)), {"device": "cuda:1"}),
        (Support(passes=()), {"passes": ""}),
        (Support(full=False), {"mask": CAUSAL}),
        (Support(full=False, window=True), {"mask": Mask(window=4)}),
        (Support(window=True), {"mask": WINDOW}),
        (Support(grouped=True), {"shape": replace(SHAPE, kv_heads=1)}),
        (Support(), {"level": "layer"}),
        (Support(level="layer", cross=False), {"level": "layer", "passes": "decode", "shape": replace(SHAPE, seq_q=1)}),
        (Support(full="it is causal"), {"passes": "decode", "shape": replace(SHAPE, seq_q=1)}),
        (Support(level="layer"), {"level": "layer"}),
        (Support(ties_qk=True), {}),
    ],
)
def test_a_case_that_is_served_is_not_refused(support, changes):
    check_support(support, replace(CASE, **changes))


def test_a_class_that_declares_nothing_is_left_to_its_constructor():
    check_support(
        support_of(WithoutOptions), replace(CASE, mask=WINDOW, shape=replace(SHAPE, kv_heads=1, seq_k=SHAPE.seq_q + 3))
    )


@pytest.mark.parametrize("mask", [CAUSAL, Mask(window=4)])
def test_a_plain_function_is_not_told_the_mask_and_so_refuses_it(mask):
    with pytest.raises(Unsupported, match=r"is not told the .*; write a class"):
        build(plain_function, replace(CASE, mask=mask))


def test_a_declaration_of_the_wrong_type_says_what_to_write():
    class Wrong:
        supports = True

    with pytest.raises(TypeError, match=r"Wrong\.supports is True; write supports = attnbench\.Support"):
        support_of(Wrong)


# Options.


def test_options_as_typed_take_their_types_and_defaults_are_filled_in():
    assert complete_options(WithOptions, {"size": "4"}) == Sized(size=4, rate=0.5)
    assert complete_options(WithOptions, {"rate": 2}) == complete_options(WithOptions, {"rate": "2"})


@pytest.mark.parametrize(
    ("given", "place"), [({"size": "many"}, r"\$\.size"), ({"colour": "red"}, "colour"), ({"size": None}, r"\$\.size")]
)
def test_a_wrong_option_is_named(given, place):
    with pytest.raises(msgspec.ValidationError, match=place):
        complete_options(WithOptions, given)


def test_a_variant_without_options_takes_none():
    assert complete_options(WithoutOptions, {}) == Options()
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        complete_options(plain_function, {"size": "4"})


@pytest.mark.parametrize("declared", [dict, {"size": 8}, Support])
def test_options_that_are_no_options_are_a_type_error(declared):
    class Wrong:
        Options = declared

    with pytest.raises(TypeError, match=r"Wrong\.Options must be a class derived from attnbench\.Options"):
        options_type(Wrong)


# Building.


def test_a_class_is_built_with_its_case_and_its_options():
    built = build(WithOptions, replace(CASE, options={"size": 4}))
    assert built.case.variant == "mine"
    assert built(1, 2, 3) == 4


def test_a_class_without_options_is_built_with_its_case_alone():
    assert build(WithoutOptions, CASE)(1, 2, 3) == CASE


def test_a_plain_function_is_used_as_it_is():
    assert build(plain_function, CASE)(1, 2, 3) == 6


def test_a_refusal_comes_before_the_constructor_runs():
    class Explosive:
        supports = Support(dtypes=("float64",))

        def __init__(self, case):
            raise AssertionError

    with pytest.raises(Unsupported, match="float32"):
        build(Explosive, CASE)


def test_what_cannot_be_called_is_a_type_error_that_names_the_variant():
    class Inert:
        def __init__(self, case):
            pass

    with pytest.raises(TypeError, match=r"Inert builds .* cannot be called"):
        build(Inert, CASE)


def test_the_kernel_that_ran_is_named_where_the_variant_tells():
    built = build(WithoutOptions, CASE)
    assert backend_of(built) == ""
    built.backend = "by hand"
    assert backend_of(built) == "by hand"


class Spanned:
    class Options(Options):
        width: Annotated[int, Meta(ge=4, multiple_of=2)] = 256
        landmarks: Annotated[int, Meta(ge=2)] | None = None
        rounds: int = 3

    supports = Support(spans=("width", "landmarks"))


def test_options_that_count_keys_keep_their_share_of_a_shorter_sequence_and_no_others_change():
    spans = spans_of(Spanned)
    assert spans == {"width": Span(4, 2), "landmarks": Span(2)}
    given = {"width": 256, "landmarks": None, "rounds": 3}
    assert scaled(given, spans, costed=4096, trained=128) == {"width": 8, "landmarks": None, "rounds": 3}
    assert scaled(given, spans, costed=65536, trained=128)["width"] == 4  # not below the least that it may be
    assert scaled(given, spans, costed=4096, trained=150)["width"] == 10  # 9.4, and even
    assert scaled(given, spans, costed=128, trained=4096) == given
