"""The published tables that the project ships, and what their mechanisms are here."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from attnbench.answers.replay.paper import read_paper
from attnbench.answers.replay.replays import InstalledPaper, absent, find_paper, roles_of, sweep_of
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


def variants_of(found: InstalledPaper) -> set[str]:
    """Return the variants of a paper, those for single tasks included."""
    named = [each for each in found.paper.mechanisms.values() if each.variant]
    return {variant for each in named for variant in (each.variant, *each.by_task.values())}


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
    for variant in (mechanism.variant, *mechanism.by_task.values()) if mechanism.variant else ():
        (spec,) = parse_specs(variant, flag="variant")
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
    wanted = variants_of(found)
    assert {str(spec) for spec in parse_specs(sweep.variants or "", flag="")} == wanted
    assert set((sweep.metrics or "").split(",")) <= set(PRIMARY)
    check(Request(threads=1, suite=found.paper.suite, sweep=sweep))


@pytest.mark.parametrize("paper", ["fa1", "lra"])
def test_the_suite_of_a_paper_has_the_variants_that_its_mechanisms_are(paper: str) -> None:
    found = PAPERS[paper]
    suite = find_suite(found.paper.suite).sweep
    wanted = variants_of(found)
    assert {str(spec) for spec in parse_specs(suite.variants or "", flag="")} == wanted


@pytest.mark.parametrize(("paper", "name"), MECHANISMS)
def test_a_published_mechanism_says_what_it_is_and_where_that_is_written(paper: str, name: str) -> None:
    mechanism = PAPERS[paper].paper.mechanisms[name]
    assert mechanism.published
    assert mechanism.source
    note = " ".join(mechanism.note.split())
    assert note == mechanism.note, "it is one line wherever it is shown"


@pytest.mark.parametrize(("paper", "name"), MECHANISMS)
def test_the_page_of_replays_has_every_source_and_every_difference(paper: str, name: str) -> None:
    mechanism = PAPERS[paper].paper.mechanisms[name]
    (line,) = [
        line
        for line in (Path(__file__).parents[2] / "docs" / "replays.md").read_text().splitlines()
        if line.startswith(f"| {name} | {mechanism.published} ")
    ]
    named = (mechanism.source, mechanism.note, mechanism.reason, mechanism.variant, *mechanism.by_task.values())
    assert all(each in line for each in named)


def test_a_mechanism_with_another_variant_for_a_task_trains_each_on_its_own_tasks_and_measures_costs_once() -> None:
    roles = roles_of(PAPERS["lra"])
    plain, two = roles["performer:kernel=relu-deterministic"], roles["performer:features=2"]
    assert (plain.costs, two.costs) == (True, False)
    assert two.tasks == ("listops",)
    assert plain.tasks == ("bytes-text", "bytes-retrieval", "pixels", "pathfinder")
    assert "vanilla" not in roles


def test_the_times_of_long_range_arena_are_those_of_a_step() -> None:
    times = {(each.mechanism, each.seq): each for each in PAPERS["lra"].published if each.quantity.metric == "latency"}
    assert times["Transformer", 4096].value == pytest.approx(1 / 1.4)
    sizes = {(each.mechanism, each.seq): each for each in PAPERS["lra"].published if each.quantity.metric == "memory"}
    assert sizes["Performer", 1024].value == pytest.approx(0.37e9)


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
        (GOOD + 'by_task = { riddles = "flash" }\n', "name,n,ms\n", "by_task: no figure is of the task 'riddles'"),
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
