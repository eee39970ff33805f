"""Suite files: installed ones can be planned on every device; mistakes are reported with their place."""

from pathlib import Path

import pytest

from attnbench.contracts.errors import UsageError
from attnbench.contracts.lengths import options_at, parse_by_length
from attnbench.contracts.record import Origin
from attnbench.contracts.specs import parse_specs
from attnbench.contracts.suite import Sweep, read_suite
from attnbench.planning.cases import cases
from attnbench.planning.jobs import Conditions, plan_jobs
from attnbench.planning.metrics import probes_of
from attnbench.planning.plan import check
from attnbench.planning.request import PROFILES, Request
from attnbench.planning.suites import find_suite
from attnbench.planning.variants import Candidate
from attnbench.plugins import registry
from attnbench.plugins.describe import describe_task, describe_variant

SUITES = sorted(registry.entries("suites"))
FLOOR = Candidate(name="empty", target="attnbench.plugins.empty:Empty", origin=Origin(), options={})
GOOD = 'description = "d"\n[sweep]\nvariants = "vanilla"\nheads = 2\nhead_dim = 16\nseq = 64\nbatch = 1\n'


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "mps"])
@pytest.mark.parametrize("name", SUITES)
def test_every_installed_suite_can_be_planned_on_every_kind_of_device(name: str, device: str) -> None:
    sweep = find_suite(name).for_device(device)
    assert sweep.variants
    candidates = [
        Candidate(name=spec.name, target=f"m:{spec.name}", origin=Origin(), options=dict(spec.options))
        for spec in parse_specs(sweep.variants, flag="--variants")
    ]
    conditions = Conditions(device=device, protocol=PROFILES["quick"], floor=FLOOR)
    jobs = plan_jobs(cases(sweep), probes_of(sweep), candidates=candidates, tasks=[], conditions=conditions)
    assert {job.case.variant for job in jobs} == {"empty", *(each.name for each in candidates)}
    assert len(jobs) < 5000


@pytest.mark.parametrize("name", SUITES)
def test_every_installed_suite_names_existing_variants_and_tasks_with_options_that_they_have(name: str) -> None:
    suite = find_suite(name)
    sweeps = [suite.for_device(device) for device in ("cpu", "cuda", "mps")]
    for text in {sweep.variants for sweep in sweeps} - {None}:
        for spec in parse_specs(text, flag="--variants"):
            rules = {option: rule for option, text in spec.options.items() if (rule := parse_by_length(text))}
            options = options_at(dict(spec.options), rules, 4096)
            found = describe_variant(registry.find(spec.name, "variants", flag="--variants"), options)
            assert (found.failure, found.mistake) == ("", "")
    for text in {sweep.tasks for sweep in sweeps} - {None}:
        for spec in parse_specs(text, flag="--tasks"):
            found = describe_task(registry.find(spec.name, "tasks", flag="--tasks"), spec.options)
            assert (found.failure, found.mistake) == ("", "")


def test_the_list_of_suites_fits_80_columns() -> None:
    for name in SUITES:
        assert len(f"{max(SUITES, key=len)}  attnbench 0.2.0  {find_suite(name).description}") <= 80


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("heads = 2", "heads = = 2"), "line 4"),
        (
            GOOD.replace("heads = 2", "haeds = 2"),
            ", line 4, in sweep: no field is called 'haeds'; did you mean 'heads'?",
        ),
        (GOOD.replace("[sweep]", "[swep]"), ", line 2: no field is called 'swep'; did you mean 'sweep'?"),
        (GOOD.replace("seq = 64", "seq = [64]"), "line 6, sweep.seq: Expected `int | str | null`, got `array`"),
        (GOOD + "[on.gpu]\nseq = 32\n", "on"),
        (GOOD + "[on.cuda]\nseqk = 32\n", "no field is called 'seqk'; did you mean 'seq_k'?"),
        (GOOD + '[[sweep.shapes]]\nname = "a"\ndtype = "float32"\n', "'dtype'; there are: batch, causal"),
        (GOOD + '[[sweep.shapes]]\nname = "a"\n[[sweep.shapes]]\nname = "a"\n', "two shapes are called 'a'"),
        (GOOD + "[[sweep.shapes]]\nseq = 9\n", "`name`"),
        (GOOD + '[[sweep.shapes]]\nname = "a,b"\n', "'a,b' cannot be a shape's name"),
        (GOOD.replace('description = "d"\n', ""), "`description`"),
        (GOOD.replace("[sweep]", "[sweep]\nshapes = 'a'"), "[[sweep.shapes]]"),
    ],
)
def test_a_wrong_suite_file_is_refused_with_its_line_or_field_and_the_nearest_name(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_suite(path)
    said = str(caught.value)
    assert said.startswith(f"--suite: '{path}'")
    assert told in said
    assert "$" not in said


def test_a_missing_file_or_one_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b'description = "\xff"')
    with pytest.raises(UsageError, match="is not UTF-8 at byte 15"):
        read_suite(tmp_path / "bytes.toml")
    with pytest.raises(UsageError, match="No such file"):
        read_suite(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "flags", "told"),
    [
        (GOOD.replace("seq = 64", 'seq = "64.."'), Sweep(), "seq: '64..' is not a range"),
        (GOOD + 'dtype = "float31"\n', Sweep(), "dtype: 'float31' is not one of"),
        (GOOD + '[[sweep.shapes]]\nname = "odd"\nkv_heads = 3\n', Sweep(), "kv_heads: 2 heads cannot share 3"),
        (GOOD + 'dtype = "float31"\n', Sweep(seq="9.."), "--seq: '9..'"),
    ],
)
def test_a_wrong_value_is_reported_as_the_suite_s_field_or_as_the_flag_that_gave_it(
    tmp_path: Path, text: str, flags: Sweep, told: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        check(Request(threads=1, suite=str(path), sweep=flags))
    said = str(caught.value)
    assert said.startswith(told if told.startswith("--") else f"--suite: {str(path)!r}: {told}")
