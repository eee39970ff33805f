import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.contracts.errors import UsageError
from attnbench.contracts.specs import GRAMMAR, Spec, parse_specs

NAMES = st.from_regex(r"[a-z./][a-z0-9_./-]{0,10}(\.py:[A-Z][a-z]{0,5})?", fullmatch=True)
KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters=","), max_size=10).map(str.strip)
SPECS = st.builds(Spec, name=NAMES, options=st.dictionaries(KEYS, VALUES, max_size=3))


def parsed(text):
    return [(spec.name, spec.options) for spec in parse_specs(text, flag="--variants")]


def test_a_piece_of_the_form_x_equals_y_continues_the_name_before_it():
    text = "vanilla,linformer:k=256,reformer:rounds=4,bucket=64,./mine.py:Mine:alpha=2,package.module:Name"
    assert parsed(text) == [
        ("vanilla", {}),
        ("linformer", {"k": "256"}),
        ("reformer", {"rounds": "4", "bucket": "64"}),
        ("./mine.py:Mine", {"alpha": "2"}),
        ("package.module:Name", {}),
    ]


def test_the_same_name_may_come_again_with_other_options():
    assert parsed("linformer:k=64,linformer:k=128,linformer") == [
        ("linformer", {"k": "64"}),
        ("linformer", {"k": "128"}),
        ("linformer", {}),
    ]


def test_a_number_or_a_range_continues_the_value_before_it_where_values_may_be_ranges():
    text = "mqar:heads=1,2,4..16,length=64..256:x4,512,1k,adding,copying:layers=1,2"
    specs = parse_specs(text, flag="--tasks", ranges=True)
    assert [(spec.name, spec.options) for spec in specs] == [
        ("mqar", {"heads": "1,2,4..16", "length": "64..256:x4,512,1k"}),
        ("adding", {}),
        ("copying", {"layers": "1,2"}),
    ]
    assert parse_specs("mqar,2", flag="--tasks", ranges=True)[1].name == "2"


def test_a_value_may_hold_colons_and_equals_signs():
    assert parsed("mine:url=host:80,rule=a=b:c=d") == [("mine", {"url": "host:80", "rule": "a=b:c=d"})]
    assert parsed("mine:rule=a:b=c") == [("mine", {"rule": "a:b=c"})]
    assert parsed("./mine.py:Mine:path=a:b") == [("./mine.py:Mine", {"path": "a:b"})]


def test_a_value_may_be_empty_and_spaces_around_pieces_do_not_count():
    assert parsed(" vanilla , mine:name=, k=2 ") == [("vanilla", {}), ("mine", {"name": "", "k": "2"})]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has an empty name"),
        ("vanilla,,flash", "has an empty name"),
        ("vanilla,", "has an empty name"),
        ("k=256,vanilla", "is an option without a name before it"),
        (":k=256", "has no name before its option"),
        ("vanilla\udcff", "is not UTF-8"),
        ("vanilla:k=\udcff", "is not UTF-8"),
    ],
)
def test_a_list_without_names_is_a_usage_error_that_shows_the_grammar(text, why):
    with pytest.raises(UsageError) as raised:
        parse_specs(text, flag="--tasks")
    assert str(raised.value).startswith("--tasks: ")
    assert why in str(raised.value)
    assert str(raised.value).endswith(GRAMMAR)


def test_an_option_given_twice_is_a_usage_error_that_names_it():
    with pytest.raises(UsageError, match="option 'k' of 'linformer' is given twice"):
        parse_specs("linformer:k=1,k=2", flag="--variants")


def test_parsing_one_list_leaves_no_options_to_the_next():
    parse_specs("linformer,k=1", flag="--variants")
    assert Spec(name="other").options == {}
    assert parsed("linformer") == [("linformer", {})]


@given(st.lists(SPECS, min_size=1, max_size=4))
def test_specs_written_out_are_read_back(specs):
    assert list(parse_specs(",".join(map(str, specs)), flag="--variants")) == specs


@given(st.text(max_size=40))
def test_any_text_is_either_refused_or_gives_names(text):
    try:
        specs = parse_specs(text, flag="--variants")
    except UsageError:
        return
    assert specs
    assert all(spec.name.strip() for spec in specs)
