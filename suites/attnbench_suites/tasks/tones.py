"""Synthetic speech as raw samples: which vowels follow one another, for any speaker at any pace."""

# N words, T samples, S syllables, J formants, F samples in a position
import math
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import Form
from attnbench import Options as BaseOptions

# Average formants of men in Hz (Peterson and Barney 1952, table II). The vowels that lie farthest apart come first:
# heed, hod, who'd, had, heard, hawed, head, hid, hood, hud.
VOWELS = (
    (270.0, 2290.0, 3010.0),
    (730.0, 1090.0, 2440.0),
    (300.0, 870.0, 2240.0),
    (660.0, 1720.0, 2410.0),
    (490.0, 1350.0, 1690.0),
    (570.0, 840.0, 2410.0),
    (530.0, 1840.0, 2480.0),
    (390.0, 1990.0, 2550.0),
    (440.0, 1020.0, 2240.0),
    (640.0, 1190.0, 2390.0),
)
BANDWIDTHS = (60.0, 90.0, 150.0)
PITCH = (90.0, 220.0)  # Hz: from low to high voices
TRACT = 0.1  # share by which a speaker's formants are above or below the average
BREATH = 0.02  # amplitude of the breath; a pulse has 1
GLIDE = 0.15  # share of a syllable in which formants move to the next one's


class Tones:
    """Classify a word, a sequence of vowels, from raw samples of synthesised speech (Klatt 1980).

    A word has `syllables` vowels out of the first `vowels` of Peterson and Barney's ten (1952); every sequence in which
    no vowel follows itself is a class. The pulses of a voice, with some breath, pass through a cascade of resonators,
    one for each of `formants` formants (Klatt 1980, equations 1 and 2), whose frequencies glide from vowel to vowel.
    Speakers differ in pitch, which falls or rises within the word, and in the length of their vocal tract; words differ
    in when they begin and end and in how time is divided among their syllables (`warp`). White noise is added on top;
    the samples of a word have mean square 1.

    Every vowel can begin or end a word, so what is heard at one position has to be related to another, thousands of
    samples away. Raw samples are the hardest form of it, as in the raw version of Speech Commands (Warden 2018), whose
    one second of 16,000 samples `paper` has. The sounds are generated, so that nothing has to be downloaded; there is
    no published result to compare with. A position is `frame` samples: `tiny` has 24 of 6000 a second, `paper` 1 of
    16,000.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """What is said, and how it is sampled."""

        samples: Annotated[int, Meta(ge=64, description="samples in a word, including the silence around it")] = 16_000
        rate: Annotated[int, Meta(ge=1000, description="samples per second")] = 16_000
        frame: Annotated[int, Meta(ge=1, description="samples per position; a divisor of samples")] = 1
        vowels: Annotated[int, Meta(ge=2, le=10, description="number of different vowels")] = 6
        syllables: Annotated[int, Meta(ge=1, le=4, description="vowels in a word")] = 2
        formants: Annotated[int, Meta(ge=1, le=3, description="formants per vowel")] = 3
        warp: Annotated[float, Meta(ge=0, lt=1, description="share by which a syllable is shorter or longer")] = 0.4
        noise_db: Annotated[float, Meta(ge=0, description="how far the noise is below the voice, in dB")] = 20.0

    presets: ClassVar = {
        "tiny": {
            "samples": 1152,
            "rate": 6000,
            "frame": 24,
            "vowels": 4,
            "formants": 2,
            "heads": 4,
            "noise_db": 10.0,
            "steps": 400,
            "batch": 32,
            "learning_rate": 2e-3,
            "train_examples": 8000,
            "validation_examples": 300,
            "test_examples": 1000,
        },
        "small": {
            "samples": 3072,
            "rate": 8000,
            "frame": 48,
            "vowels": 5,
            "heads": 4,
            "layers": 3,
            "noise_db": 10.0,
            "steps": 2000,
            "batch": 32,
            "learning_rate": 1e-3,
            "train_examples": 20_000,
            "validation_examples": 1000,
            "test_examples": 2000,
            "rates": 3,
            "seeds": 3,
        },
        "paper": {
            "samples": 16_000,
            "rate": 16_000,
            "frame": 1,
            "vowels": 6,
            "layers": 6,
            "heads": 4,
            "width": 128,
            "positions": "sinusoidal",
            "dropout": 0.1,
            "steps": 25_000,
            "batch": 32,
            "accumulate": 8,
            "learning_rate": 5e-4,
            "weight_decay": 0.01,
            "validate_every": 500,
            "train_examples": 24_000,
            "validation_examples": 5000,
            "test_examples": 5000,
            "rates": 4,
            "seeds": 5,
        },
    }

    def __init__(self, options: Options) -> None:
        if options.samples % options.frame:
            raise ValueError(f"frame={options.frame} does not divide samples={options.samples}")
        highest = max(max(vowel[: options.formants]) for vowel in VOWELS[: options.vowels]) * (1 + TRACT)
        if options.rate < 2 * highest:
            raise ValueError(
                f"rate={options.rate} is too low for formants={options.formants}: the highest is at {highest:.0f} Hz, "
                f"so use at least {math.ceil(2 * highest)}"
            )
        self.options = options
        self.words = words(options.vowels, options.syllables)
        self.form = Form(
            length=options.samples // options.frame,
            answer="class",
            features=options.frame,
            outputs=len(self.words),
        )

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Synthesise words: inputs_NTF, F samples per position, and targets_N, which word. All splits are alike."""
        del split
        targets_N = torch.randint(len(self.words), (count,), generator=generator)
        parts = targets_N.split(1000)  # so that a part's samples stay in the processor's cache
        samples = [speak(torch.tensor(self.words)[part_N], self.options, generator) for part_N in parts]
        return torch.cat(samples).unflatten(1, (-1, self.options.frame)), targets_N


def words(vowels: int, syllables: int) -> list[tuple[int, ...]]:
    """List the words: all sequences of vowels in which none follows itself."""
    found: list[tuple[int, ...]] = [()]
    for _ in range(syllables):
        found = [(*word, vowel) for word in found for vowel in range(vowels) if word[-1:] != (vowel,)]
    return found


def speak(words_NS: Tensor, options: Tones.Options, generator: Generator) -> Tensor:
    """Return samples_NT of words."""
    place_NT = _places(len(words_NS), options, generator)
    wave_NT = _source(place_NT, options, generator)
    stretch_N = _between(1 - TRACT, 1 + TRACT, len(words_NS), generator)
    for formant in range(options.formants):
        targets_NS = torch.tensor(VOWELS)[words_NS][..., formant]
        hertz_NT = stretch_N[:, None] * _gliding(targets_NS, place_NT)
        wave_NT = _resonate(wave_NT, hertz_NT, BANDWIDTHS[formant], options.rate)
    fade_NT = _fade(place_NT, options.syllables)
    wave_NT = wave_NT * fade_NT
    wave_NT = wave_NT / wave_NT.square().mean(1, keepdim=True).sqrt()
    noise_NT = torch.randn(wave_NT.shape, generator=generator) * 10 ** (-options.noise_db / 20)
    heard_NT = wave_NT + noise_NT
    return heard_NT / heard_NT.square().mean(1, keepdim=True).sqrt()


def _between(low: float, high: float, count: int, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _places(count: int, options: Tones.Options, generator: Generator) -> Tensor:
    """Return each sample's position in its word [N, T]: 0 to 1 in the first syllable and so on, beyond that outside."""
    begin_N, end_N = _between(0.0, 0.15, count, generator), _between(0.85, 1.0, count, generator)
    lengths_NS = 1 + options.warp * (2 * torch.rand(count, options.syllables, generator=generator) - 1)
    shares_NS = lengths_NS / lengths_NS.sum(1, keepdim=True) * (end_N - begin_N)[:, None]
    edges_NS = torch.cat((begin_N[:, None], begin_N[:, None] + shares_NS.cumsum(1)), dim=1)
    times_NT = ((torch.arange(options.samples) + 0.5) / options.samples).expand(count, -1).contiguous()
    syllable_NT = (torch.searchsorted(edges_NS, times_NT) - 1).clamp(0, options.syllables - 1)
    return syllable_NT + (times_NT - edges_NS.gather(1, syllable_NT)) / shares_NS.gather(1, syllable_NT)


def _source(place_NT: Tensor, options: Tones.Options, generator: Generator) -> Tensor:
    """Return the pulses of a voice, one per period, with some breath."""
    count, samples = place_NT.shape
    low, high = (math.log(pitch) for pitch in PITCH)
    middle_N, slope_N = _between(low, high, count, generator).exp(), _between(-0.2, 0.2, count, generator)
    hertz_NT = middle_N[:, None] * (1 + slope_N[:, None] * (2 * place_NT / options.syllables - 1))
    turns_NT = torch.rand(count, 1, generator=generator) + (hertz_NT / options.rate).cumsum(1)
    pulses_NT = (turns_NT.floor().diff(dim=1, prepend=turns_NT[:, :1].floor()) > 0).float()
    return pulses_NT + BREATH * torch.randn(count, samples, generator=generator)


def _gliding(targets_NS: Tensor, place_NT: Tensor) -> Tensor:
    """Return the frequency at each position: the syllable's own, with a smooth step where the next one begins."""
    hertz_NT = targets_NS[:, :1].expand_as(place_NT)
    for border in range(1, targets_NS.shape[1]):
        step_N1 = (targets_NS[:, border] - targets_NS[:, border - 1])[:, None]
        hertz_NT = hertz_NT + step_N1 * torch.sigmoid((place_NT - border) * 4 / GLIDE)
    return hertz_NT


def _resonate(wave_NT: Tensor, hertz_NT: Tensor, bandwidth: float, rate: int) -> Tensor:
    """Filter waves by a resonator: y[t] = a x[t] + b y[t-1] + c y[t-2] (Klatt 1980, equations 1 and 2)."""
    decay = math.exp(-math.pi * bandwidth / rate)
    c = -(decay**2)
    b_TN = (2 * decay * torch.cos(2 * math.pi * hertz_NT / rate)).T.contiguous()
    x_TN = (1 - b_TN - c) * wave_NT.T
    b, y = b_TN.numpy(), torch.cat((torch.zeros_like(x_TN[:2]), x_TN)).numpy()  # numpy is faster for such small steps
    for time in range(len(b)):
        y[time + 2] += b[time] * y[time + 1] + c * y[time]
    return torch.from_numpy(y[2:].T)


def _fade(place_NT: Tensor, syllables: int) -> Tensor:
    """Return the loudness at each position: silent outside the word, with soft edges."""
    edge_NT = torch.minimum(place_NT, syllables - place_NT) / GLIDE
    return edge_NT.clamp(0, 1)
