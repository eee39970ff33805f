"""The published tables that the project ships, and what their mechanisms are here."""

from importlib.metadata import entry_points

import pytest

from attnbench.answers.replay.paper import read_paper
from attnbench.answers.replay.replays import absent, find_paper, sweep_of
from attnbench.contracts.errors import UsageError
from attnbench.contracts.lengths import options_at, parse_by_length
from attnbench.contracts.metrics import PRIMARY
from attnbench.contracts.specs import parse_specs
from attnbench.planning.plan import check
from attnbench.planning.request import Request
from attnbench.planning.suites import find_suite
from attnbench.plugins.describe import describe_variant
from attnbench.plugins.registry import find

PAPERS = {name: find_paper(name) for name in sorted(point.name for point in entry_points(group="attnbench.papers"))}
MECHANISMS = [(paper, name) for paper, found in PAPERS.items() for name in found.paper.mechanisms]

GOOD = """\
title = "t"
source = "s"
suite = "quick"
table = "t.csv"
mechanism = "name"
[[figures]]
metric = "latency"
passes = "forward"
value = "ms"
scale = 1e-3
seq = "n"
[mechanisms.A]
variant = "flash"
"""


@pytest.mark.parametrize("paper", PAPERS)
def test_every_mechanism_of_a_published_table_is_mapped_and_no_other(paper: str) -> None:
    assert set(PAPERS[paper].paper.mechanisms) == {each.mechanism for each in PAPERS[paper].published}


@pytest.mark.parametrize(("paper", "name"), MECHANISMS)
def test_a_published_mechanism_is_a_variant_whose_options_are_valid_or_has_a_reason(paper: str, name: str) -> None:
    mechanism = PAPERS[paper].paper.mechanisms[name]
    if mechanism.variant:
        (spec,) = parse_specs(mechanism.variant, flag="variant")
        rules = {option: rule for option, text in spec.options.items() if (rule := parse_by_length(text))}
        for length in (1024, 4096):
            options = options_at(dict(spec.options), rules, length)
            found = describe_variant(find(spec.name, "variants", flag="variant"), options)
            assert (found.failure, found.mistake) == ("", "")


@pytest.mark.parametrize(("length", "k"), [(128, 16), (512, 64), (2048, 256), (65536, 256)])
def test_the_options_of_flashattentions_appendix_are_an_eighth_of_the_length_and_at_most_256(length, k) -> None:
    (spec,) = parse_specs(PAPERS["fa1"].paper.mechanisms["Linformer"].variant, flag="variant")
    rule = parse_by_length(spec.options["k"])
    assert rule is not None
    assert rule.at(length) == k


@pytest.mark.parametrize("paper", PAPERS)
def test_what_is_run_for_a_paper_are_its_variants_its_metrics_and_the_tasks_that_are_installed(paper: str) -> None:
    found = PAPERS[paper]
    sweep = sweep_of(found, "tiny", None, without=absent(found))
    wanted = {each.variant for each in found.paper.mechanisms.values() if each.variant}
    assert {str(spec) for spec in parse_specs(sweep.variants or "", flag="")} == wanted
    assert set((sweep.metrics or "").split(",")) <= set(PRIMARY)
    check(Request(threads=1, suite=found.paper.suite, sweep=sweep))


@pytest.mark.parametrize("paper", ["fa1", "lra"])
def test_the_suite_of_a_paper_has_the_variants_that_its_mechanisms_are(paper: str) -> None:
    found = PAPERS[paper]
    suite = find_suite(found.paper.suite).sweep
    wanted = {each.variant for each in found.paper.mechanisms.values() if each.variant}
    assert {str(spec) for spec in parse_specs(suite.variants or "", flag="")} == wanted


def test_figures_are_in_base_units_and_empty_where_the_paper_has_none() -> None:
    known = {
        (each.quantity.passes, each.quantity.metric, each.mechanism, each.seq): each for each in PAPERS["fa1"].published
    }
    assert known["forward", "latency", "PyTorch Attention", 1024].value == pytest.approx(1.27e-3)
    assert known["forward-backward", "memory", "FlashAttention", 128].value == 22e6
    assert known["forward", "latency", "PyTorch Attention", 65536].value is None
    scores = {(each.mechanism, each.quantity.task): each.value for each in PAPERS["lra"].published}
    assert scores["Reformer", "listops"] == pytest.approx(0.3727)
    assert {each.words for each in PAPERS["mqar"].published if each.mechanism == "Attention"} == {
        "near 1 at every width"
    }


@pytest.mark.parametrize(
    ("text", "table", "told"),
    [
        (GOOD.replace('suite = "quick"', 'siute = "quick"'), "name,n,ms\n", "line 3: no field is called 'siute'"),
        (GOOD.replace("passes =", "pases ="), "name,n,ms\n", "did you mean 'passes'?"),
        (GOOD + 'reason = "none"\n', "name,n,ms\n", "a variant, or the reason"),
        (GOOD, "name,n,msec\nA,8,1\n", "it has no column 'ms'; did you mean 'msec'?"),
        (GOOD, "name,n,ms\nA,eight,1\n", "eight"),
        ('baseline = "B"\n' + GOOD, "name,n,ms\n", "baseline 'B' is no mechanism"),
    ],
)
def test_a_wrong_file_of_a_paper_is_answered_with_its_place(tmp_path, text: str, table: str, told: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(UsageError) as caught:
        read_paper(tmp_path / "p.toml")
    assert told in str(caught.value)


def test_a_paper_without_its_table_says_so(tmp_path) -> None:
    (tmp_path / "p.toml").write_text(GOOD)
    with pytest.raises(UsageError, match=r"t\.csv' cannot be read"):
        read_paper(tmp_path / "p.toml")
