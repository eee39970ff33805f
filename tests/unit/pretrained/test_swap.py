"""Swaps in a small language model with random weights, made here."""

import msgspec
import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import Job, Probe, Protocol, Swap
from attnbench.contracts.suite import Sweep
from attnbench.contracts.variant import Unsupported, complete_options
from attnbench.planning.swaps import check_model, parse_swap
from attnbench.plugins.registry import find, load
from unit.train.toys import silently

transformers = pytest.importorskip("transformers")

from attnbench.pretrained import swap  # noqa: E402 - it needs transformers
from unit.pretrained.test_capture import SIZES, WORDS, llama, text  # noqa: E402 - likewise

TOKENS = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    llama(folder)  # for its tokenizer
    torch.manual_seed(1)
    config = transformers.LlamaConfig(vocab_size=len(WORDS), num_key_value_heads=2, **SIZES)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    text(folder)
    return folder


def of_model(folder):
    return Swap(model=str(folder), text=str(folder / "text.txt"), tokens=TOKENS)


def swapped(folder, name, *, layers=(), exact_tokens=0, **given):
    target = find(name, "variants", flag="").target
    options = msgspec.structs.asdict(complete_options(load(target), given))
    how = replace(of_model(folder), layers=layers, exact_tokens=exact_tokens)
    case = replace(swap.case_of(how), variant=name, options=options)
    job = Job(case=case, probe=Probe(kind="swap", swap=how), protocol=Protocol(), target=target)
    outcome = swap.measure(job, silently)
    return {each.metric: each.values[0] for each in outcome.measurements} | outcome.facts


@pytest.mark.parametrize("exact", ["vanilla", "flash"])
def test_exact_attention_swapped_in_gives_the_model_its_own_loss_with_grouped_heads_too(folder, exact):
    found = swapped(folder, exact)
    assert found["swap_loss"] == pytest.approx(found["exact_loss"], abs=1e-4)
    assert found["answers"] == TOKENS - 1


def test_the_shape_of_the_case_is_that_of_the_model_with_its_keys_repeated(folder):
    case = swap.case_of(of_model(folder))
    assert (case.shape.heads, case.shape.kv_heads, case.shape.head_dim, case.mask.causal) == (4, 4, 16, True)


def test_a_mechanism_in_some_layers_or_of_some_tokens_leaves_the_others_exact(folder):
    one, every = (abs(swapped(folder, "uniform", layers=layers)["swap_excess"]) for layers in ((1,), ()))
    assert 0 < one != every
    assert swapped(folder, "uniform", exact_tokens=TOKENS)["swap_excess"] == pytest.approx(0, abs=1e-5)
    assert 0 < abs(swapped(folder, "uniform", exact_tokens=TOKENS // 2)["swap_excess"]) != every
    with pytest.raises(UsageError, match="--swap: there is no layer 9; the model has 3, numbered from 0"):
        swapped(folder, "uniform", layers=(9,))


def test_a_model_whose_mask_is_a_window_is_refused(tmp_path):
    llama(tmp_path)
    config = transformers.MistralConfig(vocab_size=len(WORDS), num_key_value_heads=2, sliding_window=4, **SIZES)
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path)
    text(tmp_path)
    with pytest.raises(Unsupported, match="layer 0 of the model has a mask that is not causal alone"):
        swapped(tmp_path, "vanilla")


def test_parameters_that_nothing_has_trained_are_counted(folder):
    assert swapped(folder, "shaw")["untrained_parameters"] > 0
    assert swapped(folder, "linear")["untrained_parameters"] == 0


def test_a_model_without_a_text_and_a_text_that_is_no_file_are_refused():
    with pytest.raises(UsageError, match="--text: --model is given without it"):
        check_model(Sweep(model="here"))
    with pytest.raises(UsageError, match="there is no file 'nowhere'"):
        check_model(Sweep(model="here", text="nowhere"))


def test_options_of_a_swap_are_parsed_and_an_unknown_one_is_refused_with_the_nearest():
    assert parse_swap("steps=50,layers=0+2,exact_tokens=4") == Swap(steps=50, layers=(0, 2), exact_tokens=4)
    with pytest.raises(UsageError, match="did you mean 'layers'"):
        parse_swap("layer=3")
    with pytest.raises(UsageError, match="--swap: steps=-1"):
        parse_swap("steps=-1")


def test_more_tokens_than_the_model_or_the_text_has_are_refused_before_anything_is_swapped(folder, tmp_path):
    with pytest.raises(UsageError, match="--swap: tokens: the model takes at most 2048 tokens, not 2049"):
        swap.case_of(replace(of_model(folder), tokens=2049))
    (tmp_path / "short.txt").write_text(" ".join(WORDS[-2:]))
    with pytest.raises(UsageError, match=r"--text: .* tokens, fewer than 32; give a longer text"):
        swap.case_of(replace(of_model(folder), text=str(tmp_path / "short.txt")))
