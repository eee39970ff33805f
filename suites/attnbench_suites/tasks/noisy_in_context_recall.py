"""Noisy in-context recall: in-context recall among pairs of noise (MAD)."""

from typing import ClassVar

from attnbench_suites.tasks.in_context_recall import MAD, InContextRecall


class NoisyInContextRecall(InContextRecall):
    """Predict the value of each key seen before, among noise (Poli et al. 2024, "Mechanistic design", appendix B).

    As `in-context-recall`, but each pair is replaced by two tokens of noise with a probability; noise has a part of the
    vocabulary to itself. At least one pair is not noise, and the last pair repeats one that is not.

    What must be ignored fills a state of fixed size all the same, unless a gate keeps it out.

    `paper` has the published baseline: vocabulary 32, of which 16 tokens are noise, at a share of 0.2. It differs as
    `in-context-recall` does.
    """

    presets: ClassVar = {
        "tiny": {
            **InContextRecall.presets["tiny"],
            "length": 32,
            "steps": 2000,
            "vocabulary": 32,
            "noise_vocabulary": 16,
            "noise": 0.2,
        },
        "small": {
            **InContextRecall.presets["small"],
            "vocabulary": 32,
            "noise_vocabulary": 16,
            "noise": 0.2,
        },
        "paper": {"length": 128, "vocabulary": 32, "noise_vocabulary": 16, "noise": 0.2, "beyond": 8, **MAD},
    }
