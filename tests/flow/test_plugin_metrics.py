"""Metrics of an outsider's distribution, from `run` to every place where a metric is shown."""

import csv
import json
from pathlib import Path

import pytest

from helpers.command import SMALL, call
from helpers.subtests import as_subtests

PLUGIN = Path(__file__).parents[1] / "plugins" / "own_metrics.py"
POINTS = (
    "[attnbench.metrics]\noutput-norm = acme_metrics:OutputNorm\ntokens-per-second = acme_metrics:TokensPerSecond\n"
)
METRICS = "tokens-per-second,output-norm"
LENGTHS = (64, 128)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install a distribution with two metrics; return its folder."""
    place = tmp_path_factory.mktemp("site")
    (place / "acme_metrics.py").write_text(PLUGIN.read_text())
    info = place / "acme_metrics-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-metrics\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    return str(place)


@pytest.fixture(scope="module")
def folder(site: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measure a sweep with both metrics; latency is measured because one of them needs it."""
    place = tmp_path_factory.mktemp("runs")
    words = (*SMALL, "--seq", ",".join(map(str, LENGTHS)), "--rounds", "3", "--metrics", METRICS)
    done = call("run", "--variants", "vanilla,linear", *words, cwd=place, site=site)
    assert done.returncode == 0, done.stderr
    return place


def rows(folder: Path, metric: str) -> list[dict[str, str]]:
    done = call("show", "latest", "--format", "csv", cwd=folder)
    return [row for row in csv.DictReader(done.stdout.splitlines()) if row["metric"] == metric]


def test_a_measured_and_a_derived_metric_have_tables_of_their_own_under_their_titles(folder: Path) -> None:
    table = call("show", "latest", cwd=folder).stdout
    assert "Norm of the output over that of the values, forward" in table
    assert "Tokens per second, forward (tokens/s)" in table
    assert "Latency, forward" in table


def test_both_stand_in_the_csv_with_unit_direction_and_probe(folder: Path) -> None:
    for metric, unit, higher in (("output-norm", "1", "false"), ("tokens-per-second", "tokens/s", "true")):
        of_metric = rows(folder, metric)
        assert {(row["variant"], int(row["seq_q"])) for row in of_metric} == {
            (variant, length) for variant in ("vanilla", "linear") for length in LENGTHS
        }
        assert {(row["unit"], row["higher_is_better"], row["probe"]) for row in of_metric} == {(unit, higher, "metric")}
        assert {row["status"] for row in of_metric} == {"ok"}


def test_a_derived_metric_is_computed_round_by_round_from_the_figures_of_its_case(folder: Path) -> None:
    latencies = {(row["variant"], row["seq_q"]): json.loads(row["medians"]) for row in rows(folder, "latency")}
    for row in rows(folder, "tokens-per-second"):
        seconds = latencies[row["variant"], row["seq_q"]]
        expected = {number: int(row["seq_q"]) / each for number, each in seconds.items()}
        assert json.loads(row["medians"]) == pytest.approx(expected)
        assert row["low"], "three rounds give an interval"


def test_metrics_are_paired_only_where_they_are_repeated(folder: Path) -> None:
    words = ("compare", "latest", "--variants", "vanilla,linear", "--metric", METRICS, "--json")
    pairs = json.loads(call(*words, cwd=folder).stdout)
    assert {(pair["metric"], pair["paired"]) for pair in pairs} == {("tokens-per-second", True), ("output-norm", False)}
    assert {pair["verdict"] for pair in pairs if pair["metric"] == "output-norm"} <= {"lower", "higher", "same"}


def test_a_report_draws_them_and_a_stored_run_needs_no_plugin_to_be_shown(folder: Path) -> None:
    done = call("report", "latest", "-o", "page.html", "--figures", "figures", cwd=folder)
    assert done.returncode == 0, done.stderr
    page = (folder / "page.html").read_text()
    assert "Further metrics" in page
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"output-norm-forward.svg", "tokens-per-second-forward.svg"} <= names


def test_installed_metrics_are_listed_beside_the_harness_s_own(site: str, tmp_path: Path) -> None:
    listed = json.loads(call("list", "metrics", "--details", "--json", cwd=tmp_path, site=site).stdout)
    by_name = {one["name"]: one for one in listed}
    assert by_name["latency"]["from"] == "attnbench"
    assert by_name["tokens-per-second"] | {"summary": ""} == {
        "name": "tokens-per-second",
        "from": "acme-metrics 1.0",
        "summary": "",
        "title": "tokens per second",
        "unit": "tokens/s",
        "direction": "higher is better",
        "probe": "metric",
    }


@as_subtests(
    "named, sentence",
    [
        ("latency,tokens", "'tokens' is not one of latency, memory, agreement, swap, accuracy, energy"),
        (f"{PLUGIN}:Missing", "has no 'Missing'"),
        (f"{PLUGIN}:NoMethod", "NoMethod has no measure()"),
        (f"{PLUGIN}:NeedsUnknown", "needs 'speed'"),
        (f"{PLUGIN}:latency", "two metrics called 'latency'"),
        (f"{PLUGIN}:BadTitle", "Expected `str`, got `int` - at `$.metric.title`"),
    ],
)
def test_a_wrong_metric_is_refused_with_a_sentence_before_anything_is_written(
    named: str, sentence: str, tmp_path: Path
) -> None:
    done = call("run", "--variants", "vanilla", *SMALL, "--metrics", named, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_metric_that_fails_is_a_row_with_the_reason(tmp_path: Path) -> None:
    named = ",".join(f"{PLUGIN}:{name}" for name in ("Words", "Raises", "Infinite", "NeedsEnergy"))
    words = ("--variants", "vanilla", *SMALL, "--metrics", named, "--json")
    done = call("run", *words, cwd=tmp_path)
    by_metric = {row["metric"]: row for row in json.loads(done.stdout)}
    told = {name: (by_metric[name]["status"], by_metric[name]["detail"]) for name in ("Words", "Raises", "Infinite")}
    assert told["Words"] == ("invalid_output", "a metric is a number or a list of numbers, not 'many'")
    assert told["Raises"] == ("error", "ZeroDivisionError: division by zero")
    assert told["Infinite"] == ("ok", "1 of 1 values not finite")
    assert by_metric["NeedsEnergy"]["status"] == "unsupported"
    assert "derived from energy, which has no figure here" in by_metric["NeedsEnergy"]["detail"]
