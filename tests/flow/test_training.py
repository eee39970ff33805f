"""Trainings as a user starts them: swept, searched, and interrupted and taken up again."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from attnbench.contracts.record import Outcome
from attnbench.store import Store, find_run
from helpers.command import call, command, environment

SLOW = """
import pathlib, time, torch

class Slow:
    def __init__(self, case):
        self.slow = pathlib.Path(__file__).with_name("slow").exists()

    def __call__(self, q, k, v):
        time.sleep(0.03 * self.slow)
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v
"""
SIZES = "length=16,pairs=2,vocabulary=16,width=16,layers=1,batch=16"
COUNTS = "train_examples=500,validation_examples=64,test_examples=64"
TASK = f"mqar:preset=tiny,{SIZES},{COUNTS},steps=200,validate_every=10,dropout=0.1,enough=2"
WORDS = ("run", "--variants", "./mine.py:Slow", "--metrics", "accuracy", "--tasks", TASK, "--threads", "1")


SMALL = "pairs=2,vocabulary=16,width=16,layers=1,batch=16,steps=4,validate_every=2,train_examples=100,test_examples=50"


def test_ranges_in_a_task_make_a_training_for_each_length_and_head_count_in_models_of_one_size(tmp_path: Path) -> None:
    task = f"mqar:preset=tiny,length=16..32,heads=1,2,{SMALL}"
    words = ("--variants", "vanilla", "--metrics", "accuracy", "--tasks", task, "--threads", "1")
    done = call("run", *words, "--out", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "heads  variant / task (seq)  mqar (16)  mqar (32)" in done.stdout
    shown = json.loads(call("show", "latest", "--out", str(tmp_path), "--format", "json", cwd=tmp_path).stdout)
    rows = [row for row in shown if row["metric"] == "accuracy"]
    assert sorted((row["seq_q"], row["heads"], row["head_dim"]) for row in rows) == [
        *((16, 1, 16), (16, 2, 8), (32, 1, 16), (32, 2, 8))
    ]
    learned = {row["seq_q"]: row["facts"]["parameters"] for row in rows}
    assert all(row["facts"]["parameters"] == learned[row["seq_q"]] for row in rows)


@pytest.mark.exhaustive
def test_a_search_ends_with_the_mean_over_seeds_at_each_variant_s_best_rate_or_with_its_reason(tmp_path: Path) -> None:
    task = f"mqar:preset=tiny,length=16,causal=true,rates=3,seeds=3,{SMALL}"
    words = ("--variants", "flash,linformer", "--metrics", "accuracy", "--tasks", task, "--threads", "1")
    done = call("run", *words, "--out", str(tmp_path), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    best, without = (row for row in json.loads(done.stdout) if row["metric"] == "accuracy")
    assert (best["status"], best["samples"], len(best["medians"])) == ("ok", 3, 3)
    assert best["low"] <= best["value"] <= best["high"]
    assert f"{best['facts']['learning_rate']:g}" in best["facts"]["searched_rates"].split(", ")
    assert without["status"] == "unsupported"
    assert "encoder" in without["detail"]


def trained(out: Path) -> Outcome:
    """Return what came of a run's only training."""
    with Store.open(find_run("latest", out), write=False) as store:
        (record,) = store.records()
        return record.outcome


def test_an_interrupted_training_resumes_from_its_checkpoint_with_the_numbers_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    (tmp_path / "mine.py").write_text(SLOW)
    assert call(*WORDS, "--out", str(whole), cwd=tmp_path).returncode == 0
    (tmp_path / "slow").touch()
    process = subprocess.Popen(
        command(*WORDS, "--out", str(cut)),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(cut.glob("*/checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert trained(cut).status == "interrupted"
    (tmp_path / "slow").unlink()
    assert call("run", "--resume", "latest", "--out", str(cut), cwd=tmp_path).returncode == 0
    assert trained(cut).status == "ok"
    assert trained(cut).facts["resumed_at"] > 0
    assert trained(cut).measurements == trained(whole).measurements
    assert call("verify", "latest", "--out", str(cut), cwd=tmp_path).returncode == 0
