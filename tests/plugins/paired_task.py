"""A first task of two modalities: a token says which number of a second sequence is asked for."""

import torch

from attnbench import Form, Options


class Fetch:
    """Tell whether the number that a token points at is positive."""

    class Options(Options):
        places: int = 4

    presets = {"tiny": {"width": 16, "layers": 1, "steps": 400, "batch": 32, "learning_rate": 1e-2}}  # noqa: RUF012 - the shortest way

    def __init__(self, options):
        self.places = options.places
        self.form = Form(
            length=2,
            vocabulary=options.places,
            answer="class",
            outputs=2,
            context_length=self.places,
            context_features=1,
        )

    def examples(self, _split, count, generator):
        asked_NT = torch.randint(self.places, (count, 1), generator=generator).expand(count, 2)
        numbers_NSF = torch.randn(count, self.places, 1, generator=generator)
        return asked_NT, numbers_NSF, (numbers_NSF[torch.arange(count), asked_NT[:, 0], 0] > 0).long()
