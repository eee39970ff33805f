"""Swaps from the command line: in models that ship, and in models that the run trains itself."""

import json
from pathlib import Path

from helpers.command import call

SIZES = "length=16,pairs=2,vocabulary=16,width=16,layers=1,heads=2,batch=16,steps=20,validate_every=10,causal=true"
TASK = f"mqar:preset=tiny,{SIZES},train_examples=64,validation_examples=32,test_examples=32,seeds=2"
WORDS = ("run", "--seq", "64", "--threads", "1", "--metrics", "swap", "--json")


def rows(*words: str, cwd: Path) -> list[dict]:
    done = call(*WORDS, *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_trains_the_exact_model_of_its_task_once_and_swaps_every_variant_into_it(tmp_path: Path) -> None:
    found = rows("--variants", "vanilla,window:width=4,linformer", "--tasks", TASK, "--swap", "steps=5", cwd=tmp_path)
    swapped = {row["variant"]: row for row in found if row["metric"] == "swap_loss"}
    assert set(swapped) == {"vanilla", "window", "uniform"}
    (excess,) = [row["value"] for row in found if (row["variant"], row["metric"]) == ("vanilla", "swap_excess")]
    assert abs(excess) < 1e-4
    (refused,) = [row for row in found if row["variant"] == "linformer"]
    assert (refused["status"], "encoder" in refused["detail"]) == ("unsupported", True)
    base = [row for row in found if row["variant"] == "exact"]
    assert base
    assert not any(row["primary"] for row in base)
    assert {row["rounds"] for row in found if row["metric"] == "tuned_accuracy"} == {2}
    assert len(list(tmp_path.glob("results/*/checkpoints/*.pt"))) == 2


def test_exact_models_that_ship_are_swapped_into_without_a_training(tmp_path: Path) -> None:
    found = rows("--variants", "flash", "--tasks", "mqar:preset=recall", "--swap", "steps=0", cwd=tmp_path)
    assert not list(tmp_path.glob("results/*/checkpoints"))
    by_variant = {row["variant"]: row for row in found if row["metric"] == "swap_accuracy"}
    assert by_variant["flash"]["value"] > 0.95
    assert by_variant["flash"]["rounds"] == 3
    assert by_variant["uniform"]["value"] < 0.2
    excess = [row["value"] for row in found if row["metric"] == "swap_excess" and row["variant"] == "flash"]
    assert abs(excess[0]) < 1e-4


def test_a_wrong_option_of_a_swap_and_a_model_without_a_text_are_one_sentence(tmp_path: Path) -> None:
    for words, said in (
        (("--swap", "step=3"), "did you mean 'steps'?"),
        (("--swap", "layers=5"), "--swap: there is no layer 5; the model has 1, numbered from 0"),
        (("--model", "somewhere"), "--text: --model is given without it"),
        (("--model", "somewhere", "--text", __file__), "--model: 'somewhere' is neither a folder"),
    ):
        done = call(*WORDS, "--variants", "vanilla", "--tasks", TASK, *words, cwd=tmp_path)
        assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (2, True, 1)
