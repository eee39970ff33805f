"""Tasks on bytes against the files that they read."""

# N examples, T positions
import json
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from attnbench import Unsupported
from attnbench.contracts.task import Split
from attnbench_suites.tasks import bytes_lm, bytes_retrieval
from attnbench_suites.tasks.bytes_lm import BytesLm, library_files
from attnbench_suites.tasks.bytes_retrieval import SEPARATOR, BytesRetrieval
from attnbench_suites.tasks.bytes_text import BytesText
from attnbench_suites.tasks.documents import BYTE, PAD
from helpers.made_files import papers, reviews
from helpers.subtests import as_subtests

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def drawn(task: Any, split: Split, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = task.examples(split, count, Generator().manual_seed(seed))
    return found


# The library's source.


def text_of(split: Split) -> bytes:
    root = Path(sysconfig.get_path("stdlib"))
    files = {path.relative_to(root).as_posix(): path for path in library_files(split)}
    return b"".join(files[name].read_bytes().replace(b"\r\n", b"\n") for name in sorted(files))


@as_subtests("split", SPLITS)
def test_windows_come_from_the_files_of_their_split_and_targets_are_the_next_bytes(split: Split) -> None:
    text = text_of(split)
    for inputs, targets in zip(*drawn(BytesLm(BytesLm.Options(length=100)), split, 50), strict=True):
        window = bytes(inputs.tolist())
        assert window + bytes(targets.tolist()[-1:]) in text
        assert inputs[1:].tolist() == targets[:-1].tolist()


def test_loss_is_in_bits_per_byte_and_no_position_sees_the_next_byte() -> None:
    form = BytesLm(BytesLm.Options(length=100)).form
    assert (form.bits_per, form.causal, form.vocabulary, form.outputs) == ("byte", True, 256, 256)


def test_every_file_is_of_the_library_and_in_one_split_most_of_them_in_training() -> None:
    files = {split: set(library_files(split)) for split in SPLITS}
    assert len(set.union(*files.values())) == sum(map(len, files.values()))
    assert 0.7 < len(files["train"]) / sum(map(len, files.values())) < 0.9
    root = Path(sysconfig.get_path("stdlib"))
    names = {path.relative_to(root).parts[0].removesuffix(".py") for path in set.union(*files.values())}
    assert names <= set(sys.stdlib_module_names)
    assert {"argparse", "asyncio", "json", "typing"} <= names
    assert all("test" not in path.parts for path in set.union(*files.values()))


def test_the_test_s_windows_do_not_overlap_and_end_where_the_files_do() -> None:
    inputs_NT, targets_NT = drawn(BytesLm(BytesLm.Options(length=1000)), "test", 10**6)
    text = text_of("test")
    assert len(inputs_NT) == (len(text) - 1) // 1000
    windows = {bytes(inputs.tolist()) for inputs in inputs_NT}
    assert windows == {text[start : start + 1000] for start in range(0, 1000 * len(inputs_NT), 1000)}
    assert sorted(targets_NT.flatten().tolist()) == sorted(text[1 : 1000 * len(inputs_NT) + 1])


def test_files_are_split_by_their_names_alone_wherever_the_library_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(sysconfig.get_path("stdlib"))
    ours = {split: {path.relative_to(root) for path in library_files(split)} for split in SPLITS}
    for path in set.union(*ours.values()):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"one\r\ntwo\r\n" * 20)
    monkeypatch.setattr(bytes_lm.sysconfig, "get_path", lambda _name: str(tmp_path))
    assert {split: {path.relative_to(tmp_path) for path in library_files(split)} for split in SPLITS} == ours
    inputs_NT, _ = drawn(BytesLm(BytesLm.Options(length=8)), "test", 10)
    assert ord("\r") not in inputs_NT.unique()


def test_a_python_without_its_source_is_refused_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytes_lm.sysconfig, "get_path", lambda _name: str(tmp_path))
    with pytest.raises(ValueError, match="have 0 bytes; lower it, or use a Python that ships its library's source"):
        BytesLm(BytesLm.Options(length=8))


# Reviews.


def texts(path: Path) -> dict[str, int]:
    return {row["text"]: row["label"] for row in map(json.loads, path.read_text().splitlines())}


def written(tokens: list[int]) -> str:
    """Read tokens back; nothing but padding follows the first padding."""
    end = tokens.index(PAD) if PAD in tokens else len(tokens)
    assert set(tokens[end:]) <= {PAD}
    return bytes(token - BYTE for token in tokens[:end]).decode()


def test_reviews_and_verdicts_are_those_of_the_files_each_in_one_split(tmp_path: Path) -> None:
    reviews(tmp_path, train=100, test=30)
    task = BytesText(BytesText.Options(length=500, path=str(tmp_path)))
    files = {name: texts(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    found = {}
    for split in SPLITS:
        inputs_NT, targets_N = drawn(task, split, 10**6)
        found[split] = {written(row): label for row, label in zip(inputs_NT.tolist(), targets_N.tolist(), strict=True)}
    assert [len(found[split]) for split in SPLITS] == [90, 10, 30]
    assert found["train"] | found["validation"] == files["train"]
    assert found["test"] == files["test"]


def test_a_review_is_cut_at_the_length_and_its_bytes_are_those_of_utf_8(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": "h\u00e9h\u00e9h\u00e9", "label": 1}) + "\n")
    inputs_NT, targets_N = drawn(BytesText(BytesText.Options(length=4, path=str(tmp_path))), "test", 5)
    assert [[token - BYTE for token in row] for row in inputs_NT.tolist()] == [list("h\u00e9h".encode())]
    assert targets_N.tolist() == [1]


def test_reviews_come_from_the_hub_where_no_folder_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Datasets:
        @staticmethod
        def load_dataset(name: str, *, split: str) -> list[dict[str, object]]:
            asked.append((name, split))
            return [{"text": f"{split} {number}", "label": number % 2} for number in range(20)]

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    monkeypatch.setattr("attnbench_suites.tasks.sources.find_spec", lambda _name: True)
    inputs_NT, targets_N = drawn(BytesText(BytesText.Options(length=16)), "validation", 100)
    assert asked == [("stanfordnlp/imdb", "train")]
    found = dict(zip(map(written, inputs_NT.tolist()), targets_N.tolist(), strict=True))
    assert found == {"train 9": 1, "train 19": 1}


# Papers.


def test_pairs_are_those_of_the_files_with_a_separator_between_and_each_cut_at_half(tmp_path: Path) -> None:
    papers(tmp_path, train=40, test=20)
    for split, name in zip(SPLITS, ("train", "eval", "test"), strict=True):
        rows = [row.split("\t") for row in (tmp_path / f"new_aan_pairs.{name}.tsv").read_text().splitlines()]
        for length in (401, 21):
            inputs_NT, targets_N = drawn(
                BytesRetrieval(BytesRetrieval.Options(length=length, path=str(tmp_path))), split, 10**6
            )
            found = []
            for tokens, label in zip(inputs_NT.tolist(), targets_N.tolist(), strict=True):
                middle = tokens.index(SEPARATOR)
                found.append((label, written(tokens[:middle]), written(tokens[middle + 1 :])))
            half = length // 2
            due = [(int(float(label)), first[:half], second[:half]) for label, _, _, first, second in rows]
            assert sorted(found) == sorted(due)


def test_pairs_come_from_the_archive_where_no_folder_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "lra_release" / "lra_release" / "tsv_data"
    inside.mkdir(parents=True)
    papers(inside, train=10, test=4)
    asked = []

    class DownloadManager:
        def download_and_extract(self, url: str) -> str:
            asked.append(url)
            return str(tmp_path)

    monkeypatch.setitem(sys.modules, "datasets", type("Datasets", (), {"DownloadManager": DownloadManager}))
    monkeypatch.setattr("attnbench_suites.tasks.sources.find_spec", lambda _name: True)
    inputs_NT, _ = drawn(BytesRetrieval(BytesRetrieval.Options(length=64)), "test", 100)
    assert len(inputs_NT) == 4
    assert asked == [bytes_retrieval.ARCHIVE]


# What is not there.

FOLDERS = [(BytesText, reviews, "test.jsonl"), (BytesRetrieval, papers, "new_aan_pairs.eval.tsv")]


@as_subtests("task", [BytesText, BytesRetrieval])
def test_a_missing_package_is_reported_with_the_fix(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnbench_suites.tasks.sources.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'attnbench\[hub\]', or give path=FOLDER with "):
        task(task.Options())


@as_subtests("task", [BytesText, BytesRetrieval])
def test_a_missing_network_is_reported_with_the_fix(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    manager = type("DownloadManager", (), {"download_and_extract": fails})
    monkeypatch.setitem(
        sys.modules, "datasets", type("Datasets", (), {"load_dataset": fails, "DownloadManager": manager})
    )
    monkeypatch.setattr("attnbench_suites.tasks.sources.find_spec", lambda _name: True)
    with pytest.raises(Unsupported, match=r"\(ConnectionError: no route\); connect to it, or give path=FOLDER with "):
        drawn(task(task.Options()), "train", 1)


@pytest.mark.parametrize(("task", "make", "file"), FOLDERS)
def test_a_folder_that_lacks_a_file_or_has_another_format_is_refused_by_name(
    task: Any, make: Any, file: str, tmp_path: Path
) -> None:
    make(tmp_path, train=10, test=10)
    options = task.Options(path=str(tmp_path))
    (tmp_path / file).write_text("good\t1\n")
    with pytest.raises(ValueError, match=rf"{file} has a line that is not "):
        task(options)
    (tmp_path / file).write_text("")
    with pytest.raises(ValueError, match=rf"{file} is empty"):
        task(options)
    (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=rf"path={tmp_path} has no {file}; give a folder with "):
        task(options)


def test_sources_that_are_read_in_part_are_those_of_the_last_line_too(tmp_path: Path) -> None:
    reviews(tmp_path, train=10, test=3)
    (tmp_path / "test.jsonl").write_text((tmp_path / "test.jsonl").read_text().rstrip("\n"))
    inputs_NT, _ = drawn(BytesText(BytesText.Options(length=200, path=str(tmp_path))), "test", 100)
    assert set(map(written, inputs_NT.tolist())) == set(texts(tmp_path / "test.jsonl"))
    assert torch.equal(inputs_NT, drawn(BytesText(BytesText.Options(length=200, path=str(tmp_path))), "test", 100)[0])
