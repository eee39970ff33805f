"""`attnbench.build`: what a user builds answers for the sizes that it was built for, and refuses others."""

import copy

import numpy as np
import pytest
import torch

import attnbench
from attnbench.contracts.variant import Support, support_of
from attnbench.plugins import registry

SIZES = {"seq": 64, "heads": 2, "head_dim": 16}
ON_CPU = [
    name
    for name in registry.entries("variants")
    if not name.startswith(("flash-", "xformers", "sdpa-", "flex", "latent"))
]


def tensors(
    support: Support, *, seq: int = 64, heads: int = 2, head_dim: int = 16, batch: int = 3
) -> list[torch.Tensor]:
    q, k, v = (torch.randn(batch, heads, seq, head_dim) for _ in range(3))
    return [q, q if support.ties_qk else k, v]


@pytest.mark.parametrize("name", ON_CPU)
def test_a_mechanism_refuses_tensors_of_other_sizes_than_it_was_built_for(name: str) -> None:
    support = support_of(registry.load(registry.find(name, "variants", flag="").target))
    attention = attnbench.build(name, **SIZES, causal=support.full is not True)
    with torch.no_grad():
        right = tensors(support)
        assert attention(*right).shape == right[0].shape
        for other in ({"seq": 128}, {"seq": 32}, {"heads": 4}, {"head_dim": 32}):
            with pytest.raises(attnbench.UsageError, match=f"{name}: q has the shape .* it was built for"):
                attention(*tensors(support, **other))


def test_keys_of_another_length_or_batch_are_refused() -> None:
    attention = attnbench.build("vanilla", **SIZES)
    q, short, small = torch.randn(2, 2, 64, 16), torch.randn(2, 2, 32, 16), torch.randn(1, 2, 64, 16)
    with pytest.raises(attnbench.UsageError, match=r"k has the shape \[2, 2, 32, 16\]"):
        attention(q, short, short)
    with pytest.raises(attnbench.UsageError, match=r"v has the shape \[1, 2, 64, 16\]"):
        attention(q, q, small)


def test_a_built_module_stays_a_module_and_any_mechanism_can_be_copied() -> None:
    module, other = attnbench.build("linformer", **SIZES), attnbench.build("window", **SIZES)
    assert isinstance(module, torch.nn.Module)
    for each in (module, other):
        with pytest.raises(attnbench.UsageError):
            copy.deepcopy(each)(*[torch.randn(1, 2, 128, 16)] * 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seq": "64"}, "build: seq: Expected `int`, got `str`"),
        ({"seq": 0}, "build: seq: Expected `int` >= 1"),
        ({"kv_heads": 0}, "build: kv_heads: Expected `int` >= 1"),
        ({"causal": "false"}, "build: causal: Expected `bool`, got `str`"),
        ({"dtype": "float8"}, "build: dtype: Invalid enum value 'float8'"),
    ],
)
def test_an_argument_of_a_wrong_type_is_told_by_its_name(given: dict[str, object], said: str) -> None:
    with pytest.raises(attnbench.UsageError) as raised:
        attnbench.build("vanilla", **{**SIZES, **given})
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"causal": "false"}, "run: causal: Expected `bool | null`, got `str`"),
        ({"seq": True}, "run: seq: Expected `int | str | null`, got `bool`"),
        ({"rounds": "3"}, "run: rounds: Expected `int | null`, got `str`"),
        ({"prune": "no"}, "run: prune: Expected `bool`, got `str`"),
    ],
)
def test_a_run_is_refused_for_an_argument_of_a_wrong_type(given: dict[str, object], said: str) -> None:
    with pytest.raises(attnbench.UsageError) as raised:
        attnbench.run(variants="vanilla", **given)
    assert str(raised.value) == said


def test_sizes_may_be_numbers_of_numpy() -> None:
    sizes = {name: np.int64(size) for name, size in SIZES.items()}
    assert attnbench.build("vanilla", **sizes)(*[torch.ones(1, 2, 64, 16)] * 3).shape == (1, 2, 64, 16)
