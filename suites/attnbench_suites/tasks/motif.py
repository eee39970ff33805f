"""Regulatory motifs in DNA: which two occur in a sequence, and in which order."""

# N sequences, M motifs, W bases in a motif, A the four bases, T positions
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import Form
from attnbench import Options as BaseOptions

LETTERS = 4
LEXICON = 1992  # seed of the motifs: they are part of the task, the same in every run


class Motif:
    """Identify the two motifs in a DNA sequence, and their order (Stormo et al. 1982; Zhou and Troyanskaya 2015).

    A motif is a position-weight matrix: each of its `bases` positions has a weight for each of the four bases. Here one
    base per position, drawn once and then fixed, has the weight `sharpness`; the other three share the rest. A sequence
    is uniformly random except for two different motifs, each sampled from its matrix and placed anywhere, `near` to
    `far` bases apart. The class is the ordered pair of motifs.

    Many sites are weak: a single base looks like background, and one motif says nothing about the class without the
    other, which lies at a varying distance. Transcription-factor sites and their order form the regulatory grammar that
    such models are meant to find (Avsec et al. 2021 find it in real sequences). Scanning with the true matrices solves
    nearly all of `tiny`.

    The motifs are drawn at random rather than taken from a catalogue, and lie on one strand. `paper` has the 1000 bases
    of DeepSEA's inputs (Zhou and Troyanskaya 2015); there is no published result to compare with.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """What a sequence contains."""

        length: Annotated[int, Meta(ge=4, description="bases in a sequence")] = 1000
        motifs: Annotated[int, Meta(ge=2, le=32, description="number of different motifs")] = 8
        bases: Annotated[int, Meta(ge=2, le=32, description="bases in a motif")] = 12
        sharpness: Annotated[float, Meta(gt=0.25, le=1, description="weight of each position's own base")] = 0.85
        near: Annotated[int, Meta(ge=0, description="fewest bases between the two motifs")] = 0
        far: Annotated[int, Meta(ge=0, description="most bases between the two motifs")] = 500

    presets: ClassVar = {
        "tiny": {
            "length": 64,
            "motifs": 3,
            "bases": 8,
            "sharpness": 0.95,
            "far": 40,
            "heads": 4,
            "steps": 700,
            "batch": 32,
            "learning_rate": 3e-3,
            "train_examples": 10_000,
            "validation_examples": 300,
            "test_examples": 1000,
        },
        "small": {
            "length": 128,
            "motifs": 4,
            "bases": 10,
            "sharpness": 0.9,
            "far": 100,
            "heads": 4,
            "layers": 3,
            "steps": 1500,
            "batch": 32,
            "learning_rate": 1e-3,
            "train_examples": 50_000,
            "validation_examples": 1000,
            "test_examples": 2000,
            "rates": 3,
            "seeds": 3,
        },
        "paper": {
            "length": 1000,
            "motifs": 8,
            "bases": 12,
            "sharpness": 0.85,
            "far": 500,
            "layers": 4,
            "heads": 4,
            "width": 128,
            "dropout": 0.1,
            "steps": 20_000,
            "batch": 128,
            "learning_rate": 5e-4,
            "weight_decay": 0.01,
            "validate_every": 500,
            "train_examples": 200_000,
            "validation_examples": 5000,
            "test_examples": 5000,
            "rates": 4,
            "seeds": 5,
        },
    }

    def __init__(self, options: Options) -> None:
        room = options.length - 2 * options.bases
        if room < options.near:
            raise ValueError(
                f"length={options.length} has no room for two motifs of bases={options.bases} that are "
                f"near={options.near} apart; use at least {2 * options.bases + options.near}"
            )
        if options.far < options.near:
            raise ValueError(f"far={options.far} is nearer than near={options.near}")
        self.options = options
        self.furthest = min(options.far, room)
        self.pairs = [(one, two) for one in range(options.motifs) for two in range(options.motifs) if one != two]
        self.form = Form(length=options.length, answer="class", vocabulary=LETTERS, outputs=len(self.pairs))

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT (bases) and targets_N (which pair of motifs); all splits have the same distribution."""
        del split
        options = self.options
        matrices_MWA = matrices(options.motifs, options.bases, options.sharpness)
        targets_N = torch.randint(len(self.pairs), (count,), generator=generator)
        sites_N2WA = matrices_MWA[torch.tensor(self.pairs)[targets_N]]
        bases_N2W = torch.multinomial(sites_N2WA.flatten(0, 2), 1, generator=generator).view(count, 2, -1)
        gaps_N = torch.randint(options.near, self.furthest + 1, (count,), generator=generator)
        room_N = options.length - 2 * options.bases - gaps_N + 1  # possible starts of the first motif
        first_N = (torch.rand(count, generator=generator, dtype=torch.float64) * room_N).long()
        starts_N2 = torch.stack((first_N, first_N + options.bases + gaps_N), dim=1)
        places_N2W = starts_N2[..., None] + torch.arange(options.bases)
        inputs_NT = torch.randint(LETTERS, (count, options.length), generator=generator)
        return inputs_NT.scatter_(1, places_N2W.flatten(1), bases_N2W.flatten(1)), targets_N


def matrices(motifs: int, bases: int, sharpness: float) -> Tensor:
    """Return each motif's weights of the four bases at each of its positions [M, W, A]."""
    own_MW = torch.randint(LETTERS, (motifs, bases), generator=Generator().manual_seed(LEXICON))
    weights_MWA = torch.full((motifs, bases, LETTERS), (1 - sharpness) / (LETTERS - 1))
    return weights_MWA.scatter_(2, own_MW[..., None], sharpness)
