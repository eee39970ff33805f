import json
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from attnbench.contracts.case import Case, Mask, Shape, digest

SHAPE = Shape(batch=1, heads=8, kv_heads=2, seq_q=512, seq_k=1024, head_dim=64)
CASE = Case(variant="vanilla", shape=SHAPE)
OTHER = {
    "variant": "flash",
    "options": {"k": 1},
    "shape": replace(SHAPE, batch=2),
    "mask": Mask(causal=True),
    "dtype": "float16",
    "device": "cuda:0",
    "passes": "backward",
    "level": "layer",
    "inputs": "outliers",
    "shape_name": "bert-base",
    "seed": 1,
}
SIZES = st.integers(1, 2**31)
OPTIONS = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab", max_size=3),
)
SHAPES = st.builds(Shape, batch=SIZES, heads=SIZES, kv_heads=SIZES, seq_q=SIZES, seq_k=SIZES, head_dim=SIZES)
MASKS = st.builds(Mask, causal=st.booleans(), window=st.none() | SIZES)
CASES = st.builds(Case, variant=st.text("abc:="), options=OPTIONS, shape=SHAPES, mask=MASKS, seed=st.integers(0))


@given(CASES)
def test_a_case_travels_through_json_whole_and_keeps_its_key(case):
    again = msgspec.json.decode(msgspec.json.encode(case), type=Case)
    assert again == case
    assert again.key == case.key


@pytest.mark.parametrize("name", [field.name for field in fields(Case)])
def test_every_field_of_a_case_is_in_its_key(name):
    assert replace(CASE, **{name: OTHER[name]}).key != CASE.key


@pytest.mark.parametrize("name", [field.name for field in fields(Shape)])
def test_every_field_of_a_shape_is_in_the_key(name):
    assert replace(CASE, shape=replace(SHAPE, **{name: 7})).key != CASE.key


def test_every_field_says_its_heading_its_flag_and_its_meaning():
    metas = [
        field.type.__metadata__[-1] if hasattr(field.type, "__metadata__") else None
        for kind in (Shape, Mask, Case)
        for field in fields(kind)
        if field.name not in {"shape", "mask"}
    ]
    assert all(meta.title and meta.description and meta.extra["flag"].startswith("--") for meta in metas)


def test_a_key_is_the_same_in_another_process_and_whatever_the_order_of_options():
    code = (
        "from attnbench.contracts.case import *; "
        "shape = Shape(batch=1, heads=8, kv_heads=2, seq_q=512, seq_k=1024, head_dim=64); "
        "print(Case(variant='vanilla', options={'b': 2, 'a': 1}, shape=shape).key)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert replace(CASE, options={"a": 1, "b": 2}).key == other


def test_a_field_at_its_default_is_left_out_so_that_new_axes_keep_old_keys():
    assert json.loads(msgspec.json.encode(CASE)).keys() == {"variant", "shape"}


def test_whole_and_broken_numbers_of_equal_value_are_different_options():
    assert replace(CASE, options={"k": 2}).key != replace(CASE, options={"k": 2.0}).key
    assert replace(CASE, options={"k": 1}).key != replace(CASE, options={"k": True}).key


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (
            '{"variant":"v","shape":{"batch":0,"heads":8,"kv_heads":8,"seq_q":1,"seq_k":1,"head_dim":1}}',
            "$.shape.batch",
        ),
        ('{"variant":"v","shape":{"batch":1,"heads":8,"kv_heads":8,"seq_q":1,"seq_k":1}}', "head_dim"),
        (
            '{"variant":"v","shape":{"batch":4294967296,"heads":8,"kv_heads":8,"seq_q":1,"seq_k":1,"head_dim":1}}',
            "batch",
        ),
        ('{"variant":"v","shape":{},"colour":1}', "shape"),
    ],
)
def test_a_wrong_field_is_named_when_a_case_is_read(text, place):
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.json.decode(text, type=Case)
    assert place in str(raised.value)


def test_a_case_cannot_be_changed():
    with pytest.raises(AttributeError):
        CASE.seed = 1


def test_a_digest_tells_its_values_and_their_order_apart():
    assert digest(1, 2) != digest(2, 1)
    assert digest("a", "b") != digest("ab", "")
    assert len(digest()) == 16
