"""Pathfinder: its answers by walking along the dashes, and what must not give them away."""

# N drawings, Y X pixels (rows and columns)
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import binomtest, ks_2samp
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import RidgeClassifier
from torch import Generator

from attnbench_suites.tasks.pathfinder import BLANK, DASH, DOT, Pathfinder
from helpers.learning import built
from helpers.subtests import as_subtests

KINDS = [
    {"side": 16, "dashes": 3, "distractors": 0},
    {"side": 16, "dashes": 4, "distractors": 3},
    {"side": 32},
    {"side": 32, "dash": 1, "dashes": 8, "distractors": 9, "bend": 1.0},
    {"side": 32, "dash": 3, "gap": 2, "dashes": 3, "distractors": 3, "bend": 0.0},
]


def drawn(count: int, seed: int = 0, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    task = Pathfinder(Pathfinder.Options(**options))
    inputs, targets = task.examples("train", count, Generator().manual_seed(seed))
    return inputs.numpy().reshape(count, task.options.side, -1), targets.numpy()


def walk(image_YX: np.ndarray, step: int) -> set[tuple[int, int]]:
    """Walk from one dot over all that is drawn, in steps of up to so many pixels, diagonals counted as 1."""
    drawing = {(int(y), int(x)) for y, x in np.argwhere(image_YX != BLANK)}
    seen = {next(place for place in sorted(drawing) if image_YX[place] == DOT)}
    waiting = list(seen)
    while waiting:
        y, x = waiting.pop()
        near = {place for place in drawing - seen if max(abs(place[0] - y), abs(place[1] - x)) <= step}
        seen |= near
        waiting += near
    return seen


@as_subtests("options", KINDS)
def test_the_answer_is_whether_one_can_walk_from_dot_to_dot_over_the_gaps(options: dict[str, Any]) -> None:
    for image_YX, target in zip(*drawn(60, **options), strict=True):
        dots = {(int(y), int(x)) for y, x in np.argwhere(image_YX == DOT)}
        assert len(dots) == 2
        assert (dots <= walk(image_YX, options.get("gap", 1) + 1)) == target


@as_subtests("options", KINDS)
def test_there_are_two_long_paths_and_shorter_ones_far_enough_apart(options: dict[str, Any]) -> None:
    made = Pathfinder.Options(**options)
    long, short = made.dashes * made.dash, max(1, made.dashes // 3) * made.dash
    for image_YX, _ in zip(*drawn(40, **options), strict=True):
        # Pixels no further apart than a gap grow together when each becomes a square of that size.
        grown_YX = ndimage.grey_dilation(image_YX, size=(made.gap + 1,) * 2) != BLANK
        labels_YX, count = ndimage.label(grown_YX, structure=np.ones((3, 3)))
        sizes = sorted(Counter(labels_YX[image_YX != BLANK].tolist()).values())
        assert sizes[-2:] == [long, long]
        assert set(sizes[:-2]) <= {short}
        assert len(sizes) == count <= 2 + made.distractors
        path = labels_YX[tuple(np.argwhere(image_YX == DOT)[0])]
        y, x = np.argwhere((labels_YX == path) & (image_YX != BLANK)).T
        assert max(np.ptp(y), np.ptp(x)) < made.dashes * (made.dash + made.gap)


@as_subtests("bend", [0.0, 0.5, 1.0])
def test_as_many_dashes_turn_as_asked(bend: float) -> None:
    images_NYX, targets_N = drawn(400, side=32, dashes=2, distractors=0, bend=bend)
    ends = np.argwhere(images_NYX[targets_N == 1] == DOT)[:, 1:].reshape(-1, 2, 2)
    apart = np.sort(abs(ends[:, 0] - ends[:, 1]), axis=1)
    assert set(map(tuple, apart.tolist())) <= {(0, 4), (4, 4), (2, 4)}  # straight on, diagonally, and with a turn
    assert (apart[:, 0] == 2).mean() == pytest.approx(bend, abs=0.12 if bend == 0.5 else 0)


TINY = {"side": 16, "patch": 1, "dashes": 3, "distractors": 0}


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray]:
    return drawn(6000, seed=1, **TINY)


def test_both_answers_are_as_likely(many: tuple[np.ndarray, np.ndarray]) -> None:
    assert binomtest(int(many[1].sum()), len(many[1])).pvalue > 0.001


def test_neither_the_distance_of_the_dots_nor_the_number_of_pixels_reveals_the_answer(
    many: tuple[np.ndarray, np.ndarray],
) -> None:
    images_NYX, targets_N = many
    dots = np.argwhere(images_NYX == DOT)[:, 1:].reshape(-1, 2, 2)
    apart_N = np.linalg.norm(dots[:, 0] - dots[:, 1], axis=1)
    assert ks_2samp(apart_N[targets_N == 0], apart_N[targets_N == 1]).pvalue > 0.001
    assert {int((image_YX == DASH).sum()) for image_YX in images_NYX} == {2 * 3 * 2 - 2}


def test_no_linear_classifier_of_pixels_finds_the_answer(many: tuple[np.ndarray, np.ndarray]) -> None:
    images_NYX, targets_N = many
    levels_NF = np.concatenate([images_NYX == DASH, images_NYX == DOT], axis=1).reshape(len(images_NYX), -1)
    probe = RidgeClassifier(alpha=100.0).fit(levels_NF[:4000], targets_N[:4000])
    right = int((probe.predict(levels_NF[4000:]) == targets_N[4000:]).sum())
    assert binomtest(right, 2000, alternative="greater").pvalue > 0.001
    known = levels_NF.copy()
    known[:, 0] = targets_N  # what is told by one pixel is found
    probe.fit(known[:4000], targets_N[:4000])
    assert probe.score(known[4000:], targets_N[4000:]) == 1


def test_no_rule_about_the_places_of_the_dots_reveals_the_answer(many: tuple[np.ndarray, np.ndarray]) -> None:
    images_NYX, targets_N = many
    dots_NF = np.argwhere(images_NYX == DOT)[:, 1:].reshape(-1, 4)
    features_NF = np.concatenate([dots_NF, dots_NF[:, 2:] - dots_NF[:, :2]], axis=1)
    probe = RandomForestClassifier(60, min_samples_leaf=4, random_state=0).fit(features_NF[:4000], targets_N[:4000])
    right = int((probe.predict(features_NF[4000:]) == targets_N[4000:]).sum())
    assert binomtest(right, 2000, alternative="greater").pvalue > 0.001


def test_patches_hold_the_same_drawings() -> None:
    images_NYX, targets_N = drawn(20, **TINY)
    task = Pathfinder(Pathfinder.Options(**TINY | {"patch": 4}))
    patches_NTF, again_N = task.examples("train", 20, Generator().manual_seed(0))
    assert again_N.tolist() == targets_N.tolist()
    planes_NTLPP = patches_NTF.numpy().reshape(20, 4, 4, 2, 4, 4)
    dashes_NYX, dots_NYX = planes_NTLPP.transpose(3, 0, 1, 4, 2, 5).reshape(2, 20, 16, 16)
    assert np.array_equal(dashes_NYX * DASH + dots_NYX * DOT, images_NYX)


def test_paths_for_which_there_is_no_room_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"side=16 has no room for two paths of dashes=40 \(dash=2, gap=1\); use"):
        Pathfinder(Pathfinder.Options(side=16, dashes=40))
    with pytest.raises(ValueError, match=r"patch=5 does not divide images of 16 x 16 pixels; use one of 1, 2, 4"):
        Pathfinder(Pathfinder.Options(side=16, dashes=3, patch=5))


def test_the_preset_large_of_pathfinder_has_long_range_arenas_sizes() -> None:
    task, training = built("pathfinder", preset="large")
    assert (task.form.length, task.form.outputs) == (1024, 2)
    assert (training.layers, training.heads, training.width) == (4, 4, 32)
    assert (training.train_examples, training.steps // (160_000 // 512)) == (160_000, 200)
    assert Pathfinder(Pathfinder.Options(side=128)).form.length == 128**2  # Path-X
