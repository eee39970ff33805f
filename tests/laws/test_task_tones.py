"""Spoken-like tones: their words from a spectral estimate, and how they are made."""

# N words, T samples
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter
from torch import Generator

from attnbench_suites.tasks import tones
from attnbench_suites.tasks.tones import VOWELS, Tones
from helpers.learning import built
from helpers.subtests import as_subtests

TINY = {"samples": 1152, "rate": 6000, "frame": 24, "vowels": 3, "formants": 2}


def drawn(count: int, seed: int = 0, **options: Any) -> tuple[Tones, np.ndarray, np.ndarray]:
    task = Tones(Tones.Options(**options))
    inputs, targets = task.examples("train", count, Generator().manual_seed(seed))
    return task, inputs.flatten(1).double().numpy(), targets.numpy()


def formants(wave_T: np.ndarray, rate: int, count: int) -> np.ndarray:
    """Estimate the lowest resonances by linear prediction (Atal and Hanauer 1971): poles of the best recursion."""
    wave_T = np.diff(wave_T) * np.hamming(len(wave_T) - 1)
    order = 2 * count + 2
    products = np.array([wave_T[: len(wave_T) - lag] @ wave_T[lag:] for lag in range(order + 1)])
    products[0] *= 1.0001
    poles = np.roots(np.concatenate(([1.0], -solve_toeplitz(products[:-1], products[1:]))))
    hertz, widths = np.angle(poles) * rate / (2 * np.pi), -np.log(abs(poles)) * rate / np.pi
    found = np.sort(hertz[(hertz > 150) & (widths < 500)])[:count]
    return np.pad(found, (0, count - len(found)), constant_values=rate / 2)


def heard(wave_T: np.ndarray, options: Tones.Options) -> tuple[int, ...]:
    """Name the vowels in the middle of each syllable by the nearest formants."""
    known = np.log(np.array(VOWELS)[: options.vowels, : options.formants])
    word = []
    for syllable in range(options.syllables):
        middle = round((0.075 + 0.85 * (syllable + 0.5) / options.syllables) * len(wave_T))
        half = len(wave_T) // (5 * options.syllables)
        found = np.log(formants(wave_T[middle - half : middle + half], options.rate, options.formants))
        word.append(int(abs(known - found).sum(axis=1).argmin()))
    return tuple(word)


@as_subtests(
    "options", [TINY, {"samples": 6000, "rate": 6000, "vowels": 4, "formants": 2, "syllables": 3, "warp": 0.2}]
)
def test_linear_prediction_recognises_most_clean_words(options: dict[str, Any]) -> None:
    task, waves, targets = drawn(150, **options, noise_db=60.0)
    right = [heard(wave, task.options) == task.words[target] for wave, target in zip(waves, targets, strict=True)]
    assert len(task.words) <= 1 / 0.02
    assert np.mean(right) > 0.6


def test_words_are_equally_likely_sequences_of_vowels_without_repeats() -> None:
    for vowels, syllables in ((2, 1), (3, 2), (4, 3)):
        every = [word for word in product(range(vowels), repeat=syllables) if all(map(int.__ne__, word, word[1:]))]
        assert tones.words(vowels, syllables) == every
    _, _, targets = drawn(3000, **TINY | {"samples": 96})
    assert np.bincount(targets) / 3000 == pytest.approx([1 / 6] * 6, abs=4.5 * (5 / 36 / 3000) ** 0.5)


def test_a_resonator_is_the_recursive_filter_of_its_formula() -> None:
    random = np.random.default_rng(0)
    wave_T, rate, hertz, bandwidth = random.standard_normal(400), 6000, 870.0, 90.0
    decay = np.exp(-np.pi * bandwidth / rate)
    recursion = [1, -2 * decay * np.cos(2 * np.pi * hertz / rate), decay**2]
    expected = lfilter([sum(recursion)], recursion, wave_T)
    given_NT = torch.from_numpy(wave_T)[None]
    found = tones._resonate(given_NT, torch.full((1, 400), hertz, dtype=torch.float64), bandwidth, rate)
    assert found[0].numpy() == pytest.approx(expected, abs=1e-5)


def test_noise_is_the_requested_number_of_decibels_below_the_voice() -> None:
    clean, noisy = (drawn(50, **TINY, noise_db=noise_db)[1] for noise_db in (200.0, 12.0))
    gain_N1 = (clean * noisy).mean(axis=1, keepdims=True)  # both have mean square 1
    noise = noisy / gain_N1 - clean
    assert (clean**2).mean() == pytest.approx(1, abs=1e-4)
    assert 10 * np.log10((clean**2).mean() / (noise**2).mean()) == pytest.approx(12, abs=0.3)


def test_voices_vary_in_pitch_and_words_in_when_they_begin() -> None:
    task, waves, _ = drawn(300, **TINY | {"samples": 3000}, noise_db=60.0)
    pitches, begins = [], []
    for wave in waves:
        middle = wave[1000:2000]
        products = np.correlate(middle, middle, "full")[len(middle) - 1 :]
        low, high = round(task.options.rate / 290), round(task.options.rate / 70)
        pitches.append(task.options.rate / (low + products[low:high].argmax()))
        begins.append(np.argmax(abs(wave) > 0.2) / len(wave))
    assert np.quantile(pitches, 0.1) < 110
    assert np.quantile(pitches, 0.9) > 180
    assert max(begins) < 0.25
    assert np.std(begins) == pytest.approx(0.15 / 12**0.5, rel=0.3)


def test_syllables_are_shorter_and_longer_by_the_warp() -> None:
    options = Tones.Options(**TINY, warp=0.5)
    place_NT = tones._places(2000, options, Generator().manual_seed(0)).numpy()
    first = ((place_NT > 0) & (place_NT < 1)).sum(axis=1) / ((place_NT > 0) & (place_NT < 2)).sum(axis=1)
    assert first.min() == pytest.approx(0.5 / 2, abs=0.03)
    assert first.max() == pytest.approx(1.5 / 2, abs=0.03)
    assert (np.diff(place_NT, axis=1) > 0).all()


def test_frames_are_the_samples_in_their_order() -> None:
    task, waves, _ = drawn(4, **TINY)
    raw, again, _ = drawn(4, **TINY | {"frame": 1})
    assert np.array_equal(waves, again)
    assert (task.form.length, task.form.features, raw.form.length, raw.form.features) == (48, 24, 1152, 1)


@as_subtests(
    "options, reason",
    [
        ({"samples": 1000, "frame": 24}, r"frame=24 does not divide samples=1000"),
        ({"rate": 4000, "formants": 2}, r"rate=4000 is too low for formants=2: .* 2519 Hz, so use at least 5038"),
    ],
)
def test_options_of_tones_that_do_not_fit_are_refused_by_name(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Tones(Tones.Options(**options))


def test_the_preset_paper_of_tones_reads_a_second_of_raw_samples() -> None:
    task, training = built("tones", preset="paper")
    assert (task.form.length, task.form.features, training.seeds) == (16_000, 1, 5)
    assert Counter(map(len, task.words)) == {2: 30}
