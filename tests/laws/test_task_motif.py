"""Motifs in DNA: their pairs by scanning with the matrices, and where they stand."""

# N sequences, M motifs, W bases of a motif, A the four bases, L places where a motif may begin
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from torch import Generator

from attnbench_suites.tasks.motif import Motif, matrices
from helpers.learning import built
from helpers.subtests import as_subtests

KINDS = [
    {"length": 64, "motifs": 3, "bases": 8, "sharpness": 0.95, "far": 40},
    {"length": 120, "motifs": 4, "bases": 10, "sharpness": 0.9, "near": 20, "far": 60},
]


def drawn(count: int, seed: int = 0, **options: Any) -> tuple[Motif, np.ndarray, np.ndarray]:
    task = Motif(Motif.Options(**options))
    inputs, targets = task.examples("train", count, Generator().manual_seed(seed))
    return task, inputs.numpy(), targets.numpy()


def scan(sequence: np.ndarray, weights_MWA: np.ndarray) -> np.ndarray:
    """Return the log-odds of each motif beginning at each place against the background [M, L]."""
    places = range(len(sequence) - weights_MWA.shape[1] + 1)
    return np.array(
        [
            [sum(np.log(4 * row[sequence[place + step]]) for step, row in enumerate(weights)) for place in places]
            for weights in weights_MWA
        ]
    )


@as_subtests("options", KINDS)
def test_scanning_with_the_matrices_names_the_pair_and_its_order(options: dict[str, Any]) -> None:
    task, sequences, targets = drawn(100, **options)
    pairs = list(permutations(range(options["motifs"]), 2))
    weights = matrices(options["motifs"], options["bases"], options["sharpness"]).double().numpy()
    right = 0
    for sequence, target in zip(sequences, targets, strict=True):
        odds_ML = scan(sequence, weights)
        best = {}
        for pair in pairs:
            gaps = range(options["bases"] + options.get("near", 0), options["bases"] + options["far"] + 1)
            sums = [odds_ML[pair[0], :-gap] + odds_ML[pair[1], gap:] for gap in gaps if gap < odds_ML.shape[1]]
            best[pair] = max(each.max() for each in sums)
        right += max(pairs, key=best.get) == pairs[target]
    assert right / len(targets) > 0.9
    assert task.form.outputs == len(pairs)


def test_sharp_motifs_occur_once_each_at_uniformly_drawn_distances_and_places() -> None:
    near, far, length, count = 3, 12, 60, 3000
    task, sequences, targets = drawn(count, length=length, motifs=3, bases=12, sharpness=1.0, near=near, far=far)
    words = ["".join(map(str, own)) for own in matrices(3, 12, 1.0).argmax(-1).tolist()]
    gaps, firsts = [], []
    for sequence, target in zip(sequences, targets, strict=True):
        text = "".join(map(str, sequence))
        first, second = (text.index(words[number]) for number in task.pairs[target])
        gaps.append(second - first - 12)
        firsts.append(first / (length - 24 - gaps[-1]))
    shares = [gaps.count(gap) / count for gap in range(near, far + 1)]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([0.1] * 10, abs=4.5 * (0.1 * 0.9 / count) ** 0.5)
    assert (min(firsts), max(firsts)) == (0, 1)
    assert np.histogram(firsts, bins=4, range=(0, 1.001))[0] / count == pytest.approx([0.25] * 4, abs=0.05)


def test_the_base_of_a_place_has_its_weight_and_all_others_are_equally_likely() -> None:
    count, sharpness = 20_000, 0.7
    _, sequences, targets = drawn(count, length=24, motifs=2, bases=8, sharpness=sharpness, near=8, far=8)
    weights_MWA = matrices(2, 8, sharpness).numpy()
    for target, (first, second) in enumerate(permutations(range(2), 2)):
        own = sequences[targets == target]
        expected = np.concatenate([weights_MWA[first], np.full((8, 4), 0.25), weights_MWA[second]])
        found = np.array([(own == base).mean(axis=0) for base in range(4)]).T
        assert abs(found - expected).max() < 4.5 * (0.25 / len(own)) ** 0.5


def test_every_pair_is_as_likely_as_any_other_and_motifs_differ() -> None:
    _, _, targets = drawn(12_000, **KINDS[0])
    assert np.bincount(targets) / 12_000 == pytest.approx([1 / 6] * 6, abs=4.5 * (5 / 36 / 12_000) ** 0.5)
    for motifs, bases in ((3, 8), (5, 10), (8, 12)):
        own_MW = matrices(motifs, bases, 1.0).argmax(-1).numpy()
        apart = [(one != other).sum() for one, other in permutations(own_MW, 2)]
        assert min(apart) >= bases // 2


@as_subtests(
    "options, reason",
    [
        ({"length": 20, "bases": 8, "near": 5}, r"length=20 has no room for two motifs of bases=8 that are near=5"),
        ({"near": 9, "far": 3}, r"far=3 is nearer than near=9"),
    ],
)
def test_sizes_of_motifs_that_do_not_fit_are_refused_by_name(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Motif(Motif.Options(**options))


def test_the_preset_paper_of_motif_reads_a_thousand_bases() -> None:
    task, training = built("motif", preset="paper")
    assert (task.form.length, task.form.vocabulary, training.seeds) == (1000, 4, 5)
