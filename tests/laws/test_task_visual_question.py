"""Questions about pictures: their answers by recognising every image of the scene, and how they are drawn."""

# N examples, G cells of a scene's side, Y X pixels (rows and columns)
from collections import Counter
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torch import Generator

from attnbench_suites.tasks.digits import numbers_of
from attnbench_suites.tasks.visual_question import ANSWERS, KINDS, WORDS, VisualQuestion
from helpers.learning import built
from helpers.subtests import as_subtests

GIVEN = load_digits()
NUMBERS = {image.astype(int).tobytes(): number for number, image in enumerate(GIVEN.images)}


def drawn(count: int, split: str = "test", **options: Any) -> list[tuple[list[str], np.ndarray, str]]:
    """Draw questions as words, the numbers of the scene's images in scikit-learn's set, and the answer as a word."""
    task = VisualQuestion(VisualQuestion.Options(**{"patch": 1} | options))
    inputs, context, targets = task.examples(split, count, Generator().manual_seed(0))
    side = task.options.grid
    scenes_NYX = context.numpy().reshape(count, 8 * side, 8 * side)
    return [
        ([WORDS[word] for word in words], images_of(scene_YX, side), ANSWERS[answer])
        for words, scene_YX, answer in zip(inputs.tolist(), scenes_NYX, targets.tolist(), strict=True)
    ]


def images_of(scene_YX: np.ndarray, side: int) -> np.ndarray:
    rows = [np.split(row, side, axis=1) for row in np.split(scene_YX, side)]
    return np.array([[NUMBERS[np.ascontiguousarray(cell).tobytes()] for cell in row] for row in rows])


def answer(words: list[str], scene_GG: np.ndarray) -> str:
    """Read the question and look at the scene."""
    places = {str(digit): [tuple(place) for place in np.argwhere(scene_GG == digit)] for digit in range(10)}
    match words:
        case ["at", row, column]:
            return str(scene_GG[int(row.removeprefix("row")), int(column.removeprefix("column"))])
        case ["count", digit, ""]:
            return str(len(places[digit]))
        case ["left" | "above" as where, digit, ""]:
            ((row, column),) = places[digit]
            row, column = (row, column - 1) if where == "left" else (row - 1, column)
            assert min(row, column) >= 0
            return str(scene_GG[row, column])
        case [one, "left" | "above" as where, other]:
            axis = 1 if where == "left" else 0
            ((first,), (second,)) = (places[one], places[other])
            assert first[axis] != second[axis]
            return "yes" if first[axis] < second[axis] else "no"
    raise AssertionError(words)


@as_subtests("grid", [2, 3])
@as_subtests("ask", KINDS)
def test_recognising_every_image_of_a_scene_answers_its_question(ask: str, grid: int) -> None:
    for words, images_GG, given in drawn(200, ask=ask, grid=grid):
        assert answer(words, GIVEN.target[images_GG]) == given


def kind(words: list[str]) -> str:
    if words[0] in ("at", "count"):
        return {"at": "cell", "count": "count"}[words[0]]
    return "beside" if words[2] == "" else "order"


def test_kinds_of_questions_and_their_answers_are_equally_likely() -> None:
    examples = drawn(8000, grid=2)
    found = {each: Counter(given for words, _, given in examples if kind(words) == each) for each in KINDS}
    assert [each.total() / 8000 for each in found.values()] == pytest.approx([0.25] * 4, abs=0.022)
    answers = {"cell": ANSWERS[:10], "count": ANSWERS[:5], "beside": ANSWERS[:10], "order": ANSWERS[10:]}
    for each, counts in found.items():
        assert counts.keys() == set(answers[each])
        share = 1 / len(answers[each])
        margin = 4.5 * (share * (1 - share) / counts.total()) ** 0.5
        assert [count / counts.total() for count in counts.values()] == pytest.approx([share] * len(counts), abs=margin)


def test_every_word_and_cell_is_asked_about() -> None:
    examples = drawn(3000, grid=3)
    assert {word for words, _, _ in examples for word in words} == set(WORDS)
    asked = Counter((*words[1:],) for words, _, _ in examples if words[0] == "at")
    assert len(asked) == 9
    assert min(asked.values()) > 0.5 * max(asked.values())


def test_no_image_of_the_test_is_shown_in_training() -> None:
    shown = {
        split: {*np.concatenate([images.flat for _, images, _ in drawn(400, split)])} for split in ("train", "test")
    }
    assert shown["train"] <= set(numbers_of("train"))
    assert shown["test"] <= set(numbers_of("test"))
    assert not shown["train"] & shown["test"]
    assert len(shown["test"]) > 800


def test_the_picture_is_the_context_and_the_question_the_input() -> None:
    task, training = built("visual-question", preset="paper")
    form = task.form
    assert (form.length, form.vocabulary, form.context_length, form.context_features) == (3, len(WORDS), 144, 4)
    assert (form.outputs, training.seeds) == (12, 5)


def test_patches_that_do_not_divide_a_scene_are_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"patch=5 does not divide images of 16 x 16 pixels; use one of 1, 2, 4, 8, 16"
    ):
        VisualQuestion(VisualQuestion.Options(grid=2, patch=5))
