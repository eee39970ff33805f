"""What the processor is, read from the files in which Linux tells it."""

from pathlib import Path

import pytest

from attnbench.measure import processor


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that stands for /sys/devices/system/cpu, empty; its processor information tells nothing."""
    monkeypatch.setattr(processor, "_CPUS", tmp_path)
    monkeypatch.setattr(processor, "_NODES", tmp_path / "nodes")
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


def test_clock_governor_turbo_and_caches_are_told_as_the_system_tells_them(machine: Path) -> None:
    write(machine / "cpu0/cpufreq", cpuinfo_max_freq="3700000", scaling_governor="performance")
    write(machine / "intel_pstate", no_turbo="1")
    write(machine / "smt", active="1")
    write(machine / "cpu0/cache/index0", type="Data", level="1", size="48K")
    write(machine / "cpu0/cache/index1", type="Instruction", level="1", size="32K")
    write(machine / "cpu0/cache/index2", type="Unified", level="2", size="2048K")
    for node in ("node0", "node1"):
        (machine / "nodes" / node).mkdir(parents=True)
    write(machine, cpuinfo="model name\t: A Processor\nflags\t\t: fpu hypervisor sse")
    found = processor.facts()
    assert found.pop("libc", None) is not None
    found.pop("quota", None)
    assert found == {
        "max_mhz": 3700,
        "governor": "performance",
        "turbo": False,
        "threads_share_cores": True,
        "caches": "L1 48K, L2 2048K",
        "numa_nodes": 2,
        "virtual": True,
    }
    assert processor.cpu_model() == "A Processor"


@pytest.mark.usefixtures("machine")
def test_what_the_system_does_not_tell_is_left_out() -> None:
    assert processor.facts().keys() <= {"libc", "quota"}
    assert processor.cpu_model()


def test_settings_of_libraries_are_told_and_nothing_else_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MY_SECRET_TOKEN", "hidden")
    found = processor.variables()
    assert found["OMP_NUM_THREADS"] == "3"
    assert "hidden" not in found.values()
