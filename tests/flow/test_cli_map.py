"""`attnbench map` as a user has it: pictures, arrays, distances, refusals; of drawn inputs and of trained models."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from helpers.command import call, environment
from helpers.subtests import as_subtests

DRAWN = ("--seq", "64", "--heads", "2", "--head-dim", "16")
TASK = (
    "mqar:length=16,pairs=2,vocabulary=16,width=16,layers=2,heads=2,batch=16,steps=5,validate_every=5,train_examples=64"
)


def test_a_map_is_a_picture_arrays_and_a_table_of_80_columns_and_torch_stays_out_of_the_parent(tmp_path: Path) -> None:
    spy = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('LOADED', 'torch' in sys.modules, file=sys.stderr))\n"
        "from attnbench.cli import main\n"
        "main()\n"
    )
    words = ("map", "vanilla", "linear,differential", *DRAWN, "--causal", "--head", "all", "-o", "a.svg", "-o", "a.npz")
    done = subprocess.run(
        [sys.executable, "-c", spy, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, "LOADED False" in done.stderr) == (0, True), done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "differential: no map: it is not linear in V" in done.stdout
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<svg")
    with np.load(tmp_path / "a.npz") as arrays:
        assert set(arrays) == {"visible", "layers_and_heads", "exact", "vanilla", "linear"}
        assert arrays["layers_and_heads"].tolist() == [[0, 0], [0, 1]]
        assert np.allclose(arrays["vanilla"], arrays["exact"], atol=1e-6)
        assert arrays["linear"].shape == (2, 64, 64)
        assert np.allclose(arrays["linear"].sum(-1), 1, atol=1e-5)
        assert not arrays["linear"][:, ~arrays["visible"]].any()


def test_a_picture_without_a_name_overwrites_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        done = call("map", "vanilla", *DRAWN, "--json", cwd=tmp_path)
        (told,) = json.loads(done.stdout)
        assert (told["variant"], told["head"], told["status"]) == ("vanilla", 0, "ok")
        assert told["error"] < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map-vanilla-2.png", "map-vanilla.png"]


@as_subtests(
    "words, told",
    [
        (("empty",), "not linear in V"),
        (("lineer",), "did you mean 'linear'?"),
        (("linear", "-o", "map.gif"), "--output"),
        (("linear", "--head", "2"), "--head"),
        ((), "VARIANT"),
    ],
)
def test_a_map_that_cannot_be_drawn_is_one_sentence_and_writes_nothing(
    words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    done = call("map", *words, *DRAWN, cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_trained_models_are_mapped_by_layer_beside_exact_attention_on_the_same_queries_and_keys(
    tmp_path: Path,
) -> None:
    words = ("--variants", "vanilla,linear", "--metrics", "accuracy", "--tasks", TASK, "--threads", "1")
    assert call("run", *words, "--out", str(tmp_path), cwd=tmp_path).returncode == 0
    latest = ("map", "--checkpoint", "latest", "--out", str(tmp_path))
    done = call(*latest, "--head", "1", "-o", "a.npz", "-o", "a.png", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [(each["variant"], each["layer"], each["head"]) for each in told] == [
        (variant, layer, 1) for variant in ("vanilla", "linear") for layer in (0, 1)
    ]
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.allclose(arrays["exact, vanilla"], arrays["vanilla"], atol=1e-5)
        assert not np.allclose(arrays["exact, linear"], arrays["exact, vanilla"], atol=1e-3)
    refused = call(*latest, "--layer", "2", cwd=tmp_path)
    assert (refused.returncode, "--layer: there is no 2" in refused.stderr) == (2, True)
