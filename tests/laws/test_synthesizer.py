import msgspec
import pytest
import torch

from attnbench import Mask, Unsupported
from attnbench.measure.counting import counted
from attnbench.measure.effective import effective_matrix
from attnbench_variants.low_rank import synthesizer
from attnbench_variants.low_rank.synthetic_scores import factors
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant, weights_of
from references import REFERENCES

FORMS = ["dense", "factorized-dense", "random", "factorized-random"]
CAUSAL = Mask(causal=True)


def _case(form, length, *, queries=None, mask=None, dtype="float64", passes="", mixed=False, **sizes):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length, **sizes)
    given = {"shape": shape, "mask": mask or Mask(), "dtype": dtype, "passes": passes}
    return case_for("synthesizer", WORKLOADS["full"], {"form": form, "dot_product": mixed}, **given)


def _learned(case):
    """Build it and move its weights from where they start, biases from zero."""
    attention, generator = built("synthesizer", case), torch.Generator().manual_seed(0)
    for weight in attention.parameters():
        weight.data.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return attention


@as_subtests("queries", [1, 19, 21])
@as_subtests("mask", [Mask(), CAUSAL])
@as_subtests("form", FORMS)
@as_subtests("mixed", [False, True])
def test_the_output_equals_the_slow_formulation_whatever_the_weights(form, mask, queries, mixed, monkeypatch):
    monkeypatch.setattr(synthesizer, "_CPU_SCORES", 150)  # so that there are several runs of queries
    case = _case(form, 21, queries=queries, mask=mask, mixed=mixed, kv_heads=1)
    attention, qkv = _learned(case), draw("synthesizer", case)
    true = REFERENCES["synthesizer"].attend(attention, *qkv, case)
    assert_near(attention(*qkv), true, 1e-12)


@as_subtests("form", FORMS)
def test_keys_are_never_read_and_queries_only_where_scores_are_dense(form):
    case = _case(form, 21)
    attention, (q, k, v) = built("synthesizer", case), draw("synthesizer", case)
    out = attention(q, k, v)
    assert torch.equal(attention(q, torch.full_like(k, torch.nan), v), out)
    assert torch.equal(attention(-q, k, v), out) == form.endswith("random")


def test_with_random_scores_of_zero_the_mixture_with_dot_products_is_exact_attention():
    case = _case("random", 21, mask=CAUSAL, mixed=True)
    attention, qkv = built("synthesizer", case), draw("synthesizer", case)
    attention.scores.scores_HTS.data.zero_()
    assert_near(attention(*qkv), built("vanilla", msgspec.structs.replace(case, options={}))(*qkv), 1e-12)


@as_subtests("form", ["random", "factorized-random"])
def test_random_weights_are_those_of_every_sequence(form):
    case = _case(form, 21)
    matrix_BHTS = effective_matrix(built("synthesizer", case), draw("synthesizer", case))
    assert_near(matrix_BHTS[0], matrix_BHTS[1], 1e-12)
    assert (matrix_BHTS[:, 0] - matrix_BHTS[:, 1]).abs().max() > 1e-3


def test_a_dense_synthesizer_whose_second_layer_is_the_keys_is_attention_of_queries_above_zero():
    case = _case("dense", 21, batch=1, mask=CAUSAL)
    attention, (q, k, v) = built("synthesizer", case), draw("synthesizer", case)
    q = q.abs()
    attention.scores.second_HSD.data.copy_(k[0] / 2)
    exact = built("vanilla", msgspec.structs.replace(case, options={}))
    assert_near(attention(q, k, v), exact(q, k, v), 1e-12)


def test_scores_that_are_all_alike_average_the_values():
    case = _case("random", 21, mask=CAUSAL)
    attention, (q, k, v) = built("synthesizer", case), draw("synthesizer", case)
    attention.scores.scores_HTS.data.fill_(3)
    means = v.cumsum(dim=2) / torch.arange(1, 22, dtype=torch.float64)[:, None]
    assert_near(attention(q, k, v), means, 1e-12)


@as_subtests("form", FORMS)
def test_decoding_gives_the_last_row_of_the_causal_forward(form):
    whole, last = (_case(form, 21, queries=queries, mask=CAUSAL) for queries in (21, 1))
    last = msgspec.structs.replace(last, passes="decode")
    q, k, v = draw("synthesizer", whole)
    out = built("synthesizer", last)(q[:, :, -1:], k, v)
    assert_near(out, built("synthesizer", whole)(q, k, v)[:, :, -1:], 1e-12)


@as_subtests("form", FORMS)
def test_the_seed_draws_the_weights_and_every_dtype_has_the_same(form):
    case = _case(form, 21)
    weights, again, narrow = (
        weights_of(built("synthesizer", one)) for one in (case, case, _case(form, 21, dtype="bfloat16"))
    )
    others = weights_of(built("synthesizer", msgspec.structs.replace(case, seed=4)))
    for weight, same, rounded, other in zip(weights, again, narrow, others, strict=True):
        assert torch.equal(weight, same)
        assert torch.equal(weight.bfloat16(), rounded)
        assert weight.any() == (not torch.equal(weight, other))


def test_a_form_learns_as_much_as_the_paper_counts():
    heads, keys, dim = 2, 21, 4
    counts = {
        "dense": heads * (dim + keys * dim + keys),
        "factorized-dense": heads * (dim + (5 + 5) * (dim + 1)),
        "random": heads * keys**2,
        "factorized-random": heads * 2 * keys * 8,
    }
    for form, count in counts.items():
        assert sum(weight.numel() for weight in weights_of(built("synthesizer", _case(form, keys)))) == count


@as_subtests("keys", [1, 2, 3, 4, 12, 13, 16, 17, 4096, 5000])
def test_two_factors_cover_every_key_and_few_more(keys):
    outer, inner = factors(keys)
    assert keys <= outer * inner < keys + inner
    assert abs(outer - inner) <= 1


def test_a_window_is_refused():
    with pytest.raises(Unsupported, match="no window"):
        built("synthesizer", _case("dense", 21, mask=Mask(window=4)))


@as_subtests("form", FORMS)
@as_subtests("mask", [Mask(), CAUSAL])
@as_subtests("queries", [19, 21])
@as_subtests("passes", ["forward", "forward-backward"])
@as_subtests("mixed", [False, True])
def test_the_operations_are_those_that_torch_counts(form, mask, queries, passes, mixed, monkeypatch):
    monkeypatch.setattr(synthesizer, "_CPU_SCORES", 150)
    case = _case(form, 21, queries=queries, mask=mask, passes=passes, mixed=mixed, kv_heads=1)
    attention, qkv = built("synthesizer", case), draw("synthesizer", case)

    def call():
        out = attention(*qkv)
        if passes == "forward-backward":
            out.sum().backward()

    assert counted(call).flops == variant("synthesizer").flops(case)


def test_memory_of_the_dense_form_grows_with_the_length_with_gradients_too():
    def peak(length):
        case = _case("dense", length, mask=CAUSAL, dtype="float32", passes="forward-backward")
        attention, qkv = built("synthesizer", case), draw("synthesizer", case)
        return peak_bytes(lambda: attention(*qkv).sum().backward())

    assert peak(4096) < 2.2 * peak(2048)


@as_subtests("form", ["dense", "factorized-dense", "factorized-random"])
@as_subtests("mask", [Mask(), CAUSAL])
def test_memory_without_gradients_grows_with_the_length_and_not_with_its_square(form, mask):
    def peak(length):
        case = _case(form, length, mask=mask, dtype="float32")
        attention, qkv = built("synthesizer", case), draw("synthesizer", case)
        with torch.no_grad():
            return peak_bytes(lambda: attention(*qkv))

    assert peak(4096) < 2.2 * peak(2048)
