"""A training that is cut anywhere and taken up again is the training that was not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from attnbench.train import checkpoint
from attnbench.train.checkpoint import Checkpoint, encode, read
from attnbench.train.data import draw_splits
from attnbench.train.loop import Trained, Trainer, train
from attnbench.train.model import Model
from helpers.planted import job
from unit.train.toys import SMALL, Sign, model_of, silently, softmax_attention

ALL = replace(SMALL, dropout=0.3, weight_decay=0.1, accumulate=2, steps=23, validate_every=4)
CALLS_A_STEP = ALL.layers * ALL.accumulate
JOB = job(kind="accuracy")


@pytest.fixture(autouse=True)
def _written_at_each_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint, "_SHARE", float("inf"))


class Cut(Exception):
    """The end of a process."""


class CutAfter(torch.nn.Module):
    """Softmax attention in a process that ends after so many calls in training."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.left -= self.training
        if self.left < 0:
            raise Cut
        return softmax_attention(q, k, v)


def go(path: Path, *, steps: int = 1000, drawn: int = 0) -> tuple[Model, Trained, Checkpoint]:
    """Train until the end or for so many steps, in what stands for a process of its own, which has drawn numbers."""
    model, file = model_of(Sign.form, ALL, mechanism=CutAfter(steps * CALLS_A_STEP)), Checkpoint(path, JOB)
    splits = draw_splits(Sign(), ALL, seed=0, device="cpu")
    torch.rand(drawn)
    return model, train(Trainer(model, splits, ALL, seed=1), report=silently, checkpoint=file), file


def assert_alike(one: Model, other: Model) -> None:
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


@pytest.mark.parametrize("cuts", [[0], [3], [4], [5, 9], [4, 4, 11, 22]])
def test_a_training_that_was_cut_gives_the_numbers_of_the_whole_to_the_last_bit(
    tmp_path: Path, cuts: list[int]
) -> None:
    whole, expected, _ = go(tmp_path / "whole.pt")
    done = 0
    for cut in cuts:
        with pytest.raises(Cut):
            go(tmp_path / "cut.pt", steps=cut - done, drawn=done)
        done = cut - cut % ALL.validate_every
    model, found, file = go(tmp_path / "cut.pt", steps=ALL.steps - done, drawn=done)
    assert found == expected
    assert [point.step for point in found.curve] == [4, 8, 12, 16, 20, 23]
    assert_alike(model, whole)
    assert file.facts == ({"resumed_at": done} if done else {})


def test_a_training_that_is_over_is_not_done_again(tmp_path: Path) -> None:
    (model, expected, _), (again, found, _) = go(tmp_path / "a.pt"), go(tmp_path / "a.pt", steps=0)
    assert found == expected
    assert_alike(model, again)


def test_at_the_end_the_file_holds_the_best_weights_and_nothing_to_go_on_with(tmp_path: Path) -> None:
    model, _, _ = go(tmp_path / "a.pt")
    found, state = read(tmp_path / "a.pt")
    assert found == JOB
    assert not {"model", "optimizer", "batches"} & state.keys()
    assert all(torch.equal(state["kept"][name], weight) for name, weight in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


OTHER = encode(replace(JOB, round=2), {"over": True})
FOREIGN = encode(JOB, {"over": False, "model": {}})


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda data: data[:-100],
        lambda _: b"",
        lambda _: b"no checkpoint\n",
        lambda _: OTHER,
        lambda _: FOREIGN,
    ],
    ids=["flipped", "cut short", "empty", "foreign", "of another job", "of another model"],
)
def test_a_file_that_is_damaged_is_left_aside_with_a_fact_that_says_so(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    whole, expected, _ = go(tmp_path / "whole.pt")
    path = tmp_path / "a.pt"
    with pytest.raises(Cut):
        go(path, steps=10)
    path.write_bytes(damage(path.read_bytes()))
    model, found, file = go(path)
    assert found == expected
    assert_alike(model, whole)
    assert "could not be read" in str(file.facts["checkpoint"])
    assert "began anew" in str(file.facts["checkpoint"])
    assert read(path)[1]["over"]


def test_where_nothing_can_be_written_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    _, found, file = go(tmp_path / "a file" / "a.pt")
    assert found.steps == ALL.steps
    assert "could not be written" in str(file.facts["checkpoint"])


def test_what_is_under_way_is_written_no_oftener_than_some_seconds_and_a_share_of_the_time_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 5.0)
    monkeypatch.setattr(checkpoint, "_SHARE", 0.02)
    now = [0.0]

    class Slow:
        def state(self) -> dict[str, int]:
            now[0] += 1.0
            return {"written": int(now[0])}

    file = Checkpoint(tmp_path / "a.pt", JOB, clock=lambda: now[0])
    seen = []
    for second in range(100):
        now[0] = max(now[0], second)
        file.offer(Slow(), at_once=False)
        if file.path.exists() and read(file.path)[1]["written"] not in seen:
            seen.append(read(file.path)[1]["written"])
    assert seen == [6, 57]
    file.offer(Slow(), at_once=True)
    assert read(file.path)[1]["written"] > 57


def test_whatever_a_killed_writer_left_is_taken_away_with_the_file(tmp_path: Path) -> None:
    file = Checkpoint(tmp_path / "a.pt", JOB)
    for name in ("a.pt", ".a.pt.123", "b.pt"):
        (tmp_path / name).touch()
    file.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["b.pt"]
