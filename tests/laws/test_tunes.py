"""What each variant says of the options that trade time for quality."""

from importlib.metadata import entry_points

import torch

import attnbench
from attnbench.contracts.tunes import tunes_of
from attnbench.contracts.variant import complete_options, support_of
from helpers.subtests import as_subtests


def tuned():
    for point in entry_points(group="attnbench.variants"):
        try:
            variant = point.load()
        except ImportError:  # an extra that is not installed
            continue
        if tunes_of(variant):
            yield point.name, variant


TUNED = list(tuned())


def test_mechanisms_of_every_kind_declare_tunable_options():
    assert {"linformer", "reformer", "block-sparse", "window", "performer", "nystrom"} <= dict(TUNED).keys()


@as_subtests("name, variant", TUNED)
def test_every_declared_value_is_valid(name, variant):
    for option, tune in tunes_of(variant).items():
        assert len(set(tune.values)) == len(tune.values) > 0
        for value in tune.values:
            assert getattr(complete_options(variant, {option: value}), option) == value


@as_subtests("name, variant", TUNED)
def test_the_most_expensive_setting_of_a_monotone_option_errs_no_more_than_the_cheapest(name, variant):
    tunes = {option: tune for option, tune in tunes_of(variant).items() if tune.monotone}
    cheapest, dearest = (error(name, variant, {o: tune.values[end] for o, tune in tunes.items()}) for end in (0, -1))
    assert dearest <= cheapest


def error(name, variant, options):
    length = 128
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, length, 32, generator=generator) for _ in range(3))
    k = q if support_of(variant).ties_qk else k
    spec = ":".join(filter(None, (name, ",".join(f"{option}={value}" for option, value in options.items()))))
    with torch.no_grad():
        out = attnbench.build(spec, seq=length, heads=2, head_dim=32)(q, k, v)
    exact = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    return float((out.double() - exact).norm() / exact.norm())
