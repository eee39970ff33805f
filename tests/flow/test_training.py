"""Trainings as a user starts them: interrupted and taken up again."""

import signal
import subprocess
import time
from pathlib import Path

from attnbench.record import Outcome
from attnbench.store import Store, find_run
from helpers.command import attnbench, command, environment

SLOW = """
import pathlib, time, torch

class Slow:
    def __init__(self, case):
        self.slow = pathlib.Path(__file__).with_name("slow").exists()

    def __call__(self, q, k, v):
        time.sleep(0.03 * self.slow)
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v
"""
TASK = (
    "mqar:length=16,pairs=2,vocabulary=16,width=16,layers=1,batch=16,steps=400,validate_every=10,dropout=0.1,enough=2"
)
WORDS = ("run", "--variants", "./mine.py:Slow", "--metrics", "accuracy", "--tasks", TASK, "--threads", "1")


def trained(folder: Path) -> Outcome:
    """Give what came of a run's only training."""
    with Store.open(find_run("latest", folder / "results"), write=False) as store:
        (record,) = store.records()
        return record.outcome


def test_an_interrupted_training_goes_on_from_its_checkpoint_to_the_numbers_of_one_that_was_not(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        (folder / "mine.py").write_text(SLOW)
    assert attnbench(*WORDS, cwd=whole).returncode == 0
    (cut / "slow").touch()
    process = subprocess.Popen(
        command(*WORDS), cwd=cut, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(cut.glob("results/*/checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert trained(cut).status == "interrupted"
    (cut / "slow").unlink()
    assert attnbench("run", "--resume", "latest", cwd=cut).returncode == 0
    assert trained(cut).status == "ok"
    assert trained(cut).facts["resumed_at"] > 0
    assert trained(cut).measurements == trained(whole).measurements
    assert attnbench("verify", "latest", cwd=cut).returncode == 0
