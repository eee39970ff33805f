"""The trained model against torch's own layers and against plain formulas."""

# B batch, T positions, E width, H heads, D head dimension
from itertools import pairwise

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor
from torch.nn.functional import layer_norm, multi_head_attention_forward

from attnbench.contracts.task import IGNORE, Form
from attnbench.contracts.variant import InvalidOutput
from attnbench.train.model import Cross, Model, MultiHead, Residual
from helpers.subtests import as_subtests
from unit.train.toys import (
    CLASSES,
    FORMS,
    LENGTH,
    NUMBERS,
    PAIRED,
    SMALL,
    TOKENS,
    examples_of,
    model_of,
    softmax_attention,
)

X_BTE = torch.randn(3, LENGTH, SMALL.width, generator=torch.Generator().manual_seed(0))


class Spy:
    """Softmax attention that keeps what it was called with."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.called_with = q, k, v
        return softmax_attention(q, k, v)


def attention_by_torch(block: MultiHead, x_BTE: Tensor) -> Tensor:
    """Compute a block by torch's own multi-head attention; its weights are laid out alike."""
    x_TBE = x_BTE.transpose(0, 1)
    width = x_BTE.shape[-1]
    out_TBE, _ = multi_head_attention_forward(
        *(x_TBE, x_TBE, x_TBE, width, block.heads, block.split.weight, block.split.bias),
        *(None, None, False, 0.0, block.join.weight, block.join.bias),
    )
    return out_TBE.transpose(0, 1)


def layers_by_torch(model: Model, *, before: bool) -> list[torch.nn.Module]:
    """Build torch's encoder layers with a model's weights."""
    layers = []
    blocks = list(model.blocks)
    for attention, feed_forward in list(pairwise(blocks))[::2]:
        layer = torch.nn.TransformerEncoderLayer(
            *(SMALL.width, SMALL.heads, 4 * SMALL.width, 0.0, "gelu"), batch_first=True, norm_first=before
        )
        first, _, _, second = feed_forward.block
        ours = {
            "self_attn.in_proj_": attention.block.split,
            "self_attn.out_proj.": attention.block.join,
            "linear1.": first,
            "linear2.": second,
            "norm1.": attention.norm,
            "norm2.": feed_forward.norm,
        }
        layer.load_state_dict({f"{n}{kind}": getattr(m, kind) for n, m in ours.items() for kind in ("weight", "bias")})
        layers.append(layer)
    return layers


def test_multi_head_attention_is_torch_s() -> None:
    torch.manual_seed(1)
    block = MultiHead(softmax_attention, None, SMALL, tied=False)
    torch.testing.assert_close(block(X_BTE), attention_by_torch(block, X_BTE))


@as_subtests("norm", ["pre", "post"])
def test_the_layers_are_torch_s_encoder_layers_with_the_same_weights(norm: str) -> None:
    model = model_of(CLASSES, replace(SMALL, norm=norm))
    inputs = examples_of(CLASSES).inputs
    x_BTE = model.positions(model.embed(inputs))
    for layer in layers_by_torch(model, before=norm == "pre"):
        x_BTE = layer(x_BTE)
    expected = layer_norm(x_BTE, (SMALL.width,)) if norm == "pre" else x_BTE
    torch.testing.assert_close(model(inputs), expected)


def test_a_block_is_normalised_before_it_or_after_the_sum() -> None:
    block = torch.nn.Linear(SMALL.width, SMALL.width)
    before, after = (Residual(block, replace(SMALL, norm=norm)) for norm in ("pre", "post"))
    torch.testing.assert_close(before(X_BTE), X_BTE + block(layer_norm(X_BTE, (SMALL.width,))))
    torch.testing.assert_close(after(X_BTE), layer_norm(X_BTE + block(X_BTE), (SMALL.width,)))


def test_a_mechanism_that_ties_queries_and_keys_is_given_the_same_tensor_for_both() -> None:
    spy = Spy()
    model = model_of(CLASSES, mechanism=spy, ties_qk=True)
    model(examples_of(CLASSES).inputs)
    q, k, v = spy.called_with
    assert k is q
    assert not torch.equal(v, q)
    assert model.blocks[0].block.split.out_features == 2 * SMALL.width


@as_subtests("ties_qk", [False, True])
def test_rotary_positions_turn_queries_and_keys_and_leave_values_alone(ties_qk: bool) -> None:
    spies = Spy(), Spy()
    training = replace(SMALL, positions="none"), replace(SMALL, positions="rotary")
    plain, turned = (
        model_of(CLASSES, replace(which, layers=1), mechanism=spy, ties_qk=ties_qk)
        for which, spy in zip(training, spies, strict=True)
    )
    for model in (plain, turned):
        model(examples_of(CLASSES).inputs)
    rotary = turned.blocks[0].block.rotary
    (q, k, v), (turned_q, turned_k, same_v) = (spy.called_with for spy in spies)
    torch.testing.assert_close((turned_q, turned_k, same_v), (rotary(q), rotary(k), v))
    assert (turned_k is turned_q) == ties_qk


def test_without_positions_the_order_of_the_inputs_does_not_matter_and_with_any_it_does() -> None:
    inputs = examples_of(CLASSES).inputs
    backwards = inputs.flip(1)
    for positions in ("none", "sinusoidal", "learned", "rotary"):
        model = model_of(CLASSES, replace(SMALL, positions=positions))
        same = torch.allclose(model(inputs).mean(1), model(backwards).mean(1), atol=1e-5)
        assert same == (positions == "none"), positions


def test_feed_forward_zero_leaves_attention_alone_in_each_layer() -> None:
    model = model_of(CLASSES, replace(SMALL, feed_forward=0.0))
    assert [type(residual.block) for residual in model.blocks] == [MultiHead, MultiHead]


# A second sequence.

Y_BSE = torch.randn(3, 4, SMALL.width, generator=torch.Generator().manual_seed(1))


def test_attention_to_a_context_is_torch_s_with_queries_of_the_inputs_and_the_rest_of_the_context() -> None:
    torch.manual_seed(1)
    block, width = Cross(softmax_attention, None, SMALL), SMALL.width
    weights, bias = (torch.cat([getattr(block.ask, name), getattr(block.split, name)]) for name in ("weight", "bias"))
    x_TBE, y_SBE = X_BTE.transpose(0, 1), Y_BSE.transpose(0, 1)
    out_TBE, _ = multi_head_attention_forward(
        *(x_TBE, y_SBE, y_SBE, width, block.heads, weights, bias),
        *(None, None, False, 0.0, block.join.weight, block.join.bias),
    )
    torch.testing.assert_close(block(X_BTE, Y_BSE), out_TBE.transpose(0, 1))


def test_each_layer_attends_to_its_inputs_then_to_the_context_by_mechanisms_of_their_own() -> None:
    spies = [Spy() for _ in range(4)]
    model = Model(PAIRED, SMALL, spies[:2], crossing=spies[2:], ties_qk=False)
    kinds = [type(residual.block) for residual in model.blocks]
    assert kinds == [MultiHead, Cross, torch.nn.Sequential] * 2
    examples = examples_of(PAIRED)
    model(examples.inputs, examples.context)
    assert [tuple(each.shape[2] for each in spy.called_with) for spy in spies] == [(6, 6, 6)] * 2 + [(6, 4, 4)] * 2


def test_the_order_of_a_context_matters_where_there_are_positions_and_only_there() -> None:
    examples = examples_of(PAIRED)
    for positions in ("none", "sinusoidal", "learned", "rotary"):
        model = model_of(PAIRED, replace(SMALL, positions=positions))
        states, turned = (model(examples.inputs, each) for each in (examples.context, examples.context.flip(1)))
        assert torch.allclose(states, turned, atol=1e-5) == (positions == "none"), positions


# Answers.


def test_a_class_is_read_from_the_mean_of_all_positions() -> None:
    model, targets = model_of(CLASSES), torch.tensor([0, 2, 1])
    answers, held_against = model.answers(X_BTE, targets)
    torch.testing.assert_close(answers, model.head(X_BTE.mean(dim=1)))
    assert answers.shape == (3, CLASSES.outputs)
    assert held_against is targets


@as_subtests("form", [CLASSES, NUMBERS])
def test_where_no_position_but_the_last_sees_everything_the_answer_is_read_there(form: Form) -> None:
    model = model_of(replace(form, causal=True))
    answers, _ = model.answers(X_BTE, torch.zeros(3))
    changed = X_BTE.clone()
    changed[:, :-1] = 7
    assert torch.equal(answers, model.answers(changed, torch.zeros(3))[0])
    torch.testing.assert_close(answers.reshape(3, -1), model.head(X_BTE[:, -1]))


def test_a_number_is_one_number_for_each_example() -> None:
    answers, targets = model_of(NUMBERS).answers(X_BTE, torch.zeros(3))
    assert answers.shape == targets.shape == (3,)


def test_tokens_are_read_where_one_is_asked_for_and_nowhere_else() -> None:
    model, targets_BT = model_of(TOKENS), torch.full((3, LENGTH), IGNORE)
    targets_BT[0, 2], targets_BT[2, 1], targets_BT[2, 5] = 4, 10, 0
    answers, asked = model.answers(X_BTE, targets_BT)
    assert asked.tolist() == [4, 10, 0]
    torch.testing.assert_close(answers, model.head(torch.stack((X_BTE[0, 2], X_BTE[2, 1], X_BTE[2, 5]))))


@as_subtests("answer", FORMS)
def test_every_weight_has_a_part_in_the_answer(answer: str) -> None:
    form = FORMS[answer]
    model, examples = model_of(form), examples_of(form)
    model.answers(model(examples.inputs, examples.context), examples.targets)[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# Weights.


def test_tied_token_outputs_are_read_out_by_the_table_that_put_them_in() -> None:
    tied, apart = (model_of(TOKENS, replace(SMALL, tied=tied)) for tied in (True, False))
    assert tied.head.weight is tied.embed.weight
    assert tied.head.bias is None
    saved = TOKENS.outputs * SMALL.width + TOKENS.outputs
    assert sum(p.numel() for p in apart.parameters()) - sum(p.numel() for p in tied.parameters()) == saved


def test_the_number_of_weights_is_what_the_layers_add_up_to() -> None:
    width, inner = SMALL.width, 4 * SMALL.width
    attention = 4 * (width * width + width)
    feed_forward = width * inner + inner + inner * width + width
    layer = attention + feed_forward + 2 * 2 * width
    ends = (2 * width + width) + LENGTH * width + 2 * width + (width * 3 + 3)
    assert sum(p.numel() for p in model_of(CLASSES).parameters()) == SMALL.layers * layer + ends


def test_only_blocks_that_are_normalised_before_leave_something_to_normalise_at_the_end() -> None:
    pre, post = (model_of(CLASSES, replace(SMALL, norm=norm)) for norm in ("pre", "post"))
    saved = 2 * SMALL.width
    assert sum(p.numel() for p in pre.parameters()) - sum(p.numel() for p in post.parameters()) == saved


def test_the_number_of_heads_leaves_the_number_of_weights_as_it_is() -> None:
    counts = {sum(p.numel() for p in model_of(CLASSES, replace(SMALL, heads=h)).parameters()) for h in (1, 2, 4, 8)}
    assert len(counts) == 1


def test_rows_of_an_embedding_have_length_one_on_average() -> None:
    model = model_of(replace(TOKENS, vocabulary=1000), replace(SMALL, width=64))
    assert model.embed.weight.detach().norm(dim=1).mean() == pytest.approx(1, abs=0.02)


def test_dropout_is_for_training_only() -> None:
    model, inputs = model_of(CLASSES, replace(SMALL, dropout=0.5)), examples_of(CLASSES).inputs
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))
    torch.testing.assert_close(model(inputs), model_of(CLASSES)(inputs))


class Dropping(Spy):
    """A mechanism that can drop its weights, and keeps the share that it was told."""

    weight_dropout = 0.0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.told = self.weight_dropout
        return super().__call__(q, k, v)


@as_subtests("form", [CLASSES, PAIRED])
def test_a_mechanism_that_can_drops_weights_in_training_and_none_when_it_is_scored(form: Form) -> None:
    spy = Dropping()
    model, examples = model_of(form, replace(SMALL, weight_dropout=0.3), mechanism=spy), examples_of(form)
    for training, share in ((True, 0.3), (False, 0.0), (True, 0.3)):
        model.train(training)
        model(examples.inputs, examples.context)
        assert spy.told == share


@as_subtests("norm", ["pre", "post"])
def test_what_a_block_adds_is_dropped_feature_by_feature_and_what_it_adds_to_is_not(norm: str) -> None:
    torch.manual_seed(0)
    residual = Residual(torch.nn.Identity(), replace(SMALL, norm=norm, dropout=0.5))
    residual.norm = torch.nn.Identity()
    grown = residual(torch.ones(100, 100))
    assert grown.unique().tolist() == [1, 1 + 1 / (1 - 0.5)]
    assert (grown == 1).float().mean() == pytest.approx(0.5, abs=0.03)


# A mechanism that misbehaves.


@as_subtests(
    "mechanism, reason",
    [
        (lambda q, _k, _v: q[:, :, :1], r"\[8, 2, 1, 4\] where torch.float32 \[8, 2, 6, 4\] is due"),
        (lambda q, _k, _v: q.transpose(1, 2), r"\[8, 6, 2, 4\] where"),
        (lambda q, _k, _v: q.half(), "torch.float16"),
        (lambda q, _k, _v: [q], "a list, not a tensor"),
    ],
)
def test_an_output_of_the_wrong_kind_is_invalid_and_the_reason_says_what_was_due(mechanism, reason: str) -> None:
    with pytest.raises(InvalidOutput, match=reason):
        model_of(CLASSES, mechanism=mechanism)(examples_of(CLASSES).inputs)
