"""A first task: in which half of a sequence does its largest number stand?"""

import torch

from attnbench import Form


class Largest:
    """Tell in which half of a sequence its largest number stands."""

    def __init__(self, _options):
        self.form = Form(length=8, features=1, answer="class", outputs=2)

    def examples(self, _split, count, generator):
        inputs_NTF = torch.rand(count, 8, 1, generator=generator)
        return inputs_NTF, (inputs_NTF[:, :, 0].argmax(dim=1) >= 4).long()
