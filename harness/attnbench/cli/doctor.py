"""`attnbench doctor`: what this machine can run, and the fix for what it cannot."""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer
from msgspec import Struct

from attnbench.cli.options import Json, Out
from attnbench.cli.streams import emit_json
from attnbench.contracts.text import plain
from attnbench.report.text import listing
from attnbench.store import RESULTS

if TYPE_CHECKING:
    from attnbench.execute.executor import Executor

Verdict = Literal["ok", "missing", "broken"]

# Optional packages, what each brings, and how to install it.
_EXTRAS = {
    "xformers": ("xFormers' kernels for flash", "pip install 'attnbench[xformers]' (needs a CUDA device)"),
    "flash-attn": ("the flash-attn kernels for flash", "pip install 'attnbench[flash-attn]' (needs a CUDA device)"),
    "transformers": ("pretrained models to capture", "pip install 'attnbench[transformers]'"),
    "pyarrow": ("Parquet files", "pip install 'attnbench[parquet]'"),
}


class Finding(Struct, frozen=True, kw_only=True):
    """The state of one thing that attnbench needs, and the fix where it is missing or broken."""

    what: str
    verdict: Verdict
    found: str
    fix: str = ""


def doctor(out: Out = RESULTS, json: Json = False) -> None:
    """Check what this machine can run, and how to get the rest. Exits with 1 if anything is broken.

    Example:
      attnbench doctor
    """
    findings = list(_findings(out))
    if json:
        emit_json(findings)
    else:
        items = [{"": one.what, "verdict": one.verdict, "found": one.found} for one in findings]
        print(listing(items, nothing=""))
        for one in (one for one in findings if one.fix):
            print(f"\n{plain(one.what)}: {plain(one.fix)}")
    if any(one.verdict == "broken" for one in findings):
        raise typer.Exit(1)


def _findings(out: Path) -> Iterator[Finding]:
    from attnbench.execute.local import LocalExecutor

    yield _folder(out)
    with closing(LocalExecutor()) as executor:
        yield from _machine(executor)
    for package, (brings, fix) in _EXTRAS.items():
        yield _extra(package, brings, fix)


def _machine(executor: "Executor") -> Iterator[Finding]:
    from attnbench.planning import survey

    started = time.perf_counter()
    machine = survey.machine(executor)
    first = time.perf_counter() - started
    started = time.perf_counter()
    survey.machine(executor)
    again = time.perf_counter() - started
    ready = f"server ready in {first:.1f} s, a fresh process in {again * 1e3:.0f} ms"
    processor = f"{machine.cpu}, {machine.cores} cores, {machine.memory_bytes / 2**30:.1f} GiB"
    yield Finding(what="processes", verdict="ok", found=ready)
    yield Finding(what="python", verdict="ok", found=f"{machine.python}, torch {machine.torch}, {machine.system}")
    yield Finding(what="processor", verdict="ok", found=processor)
    yield _cuda(machine.device, machine.device_name, machine.torch)
    for one in survey.variants(executor, machine):
        verdict: Verdict = "ok" if not one.obstacle else "broken" if one.description.failure else "missing"
        yield Finding(what=f"variant {one.name}", verdict=verdict, found=one.obstacle or f"runs on {one.device}")


def _folder(out: Path) -> Finding:
    """Check whether runs can be stored, without writing anything."""
    place = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if place.is_dir() and os.access(place, os.W_OK):
        return Finding(what="results", verdict="ok", found=f"{out} can be written")
    return Finding(
        what="results", verdict="broken", found=f"{out} cannot be written", fix="name another folder with --out"
    )


def _cuda(device: str, name: str, torch: str) -> Finding:
    if device.startswith("cuda"):
        return Finding(what="cuda", verdict="ok", found=f"{device}: {name}")
    if "+cpu" in torch:
        fix = "install a CUDA build of torch where there is an NVIDIA device"
        return Finding(what="cuda", verdict="missing", found=f"torch {torch} is a CPU build", fix=fix)
    return Finding(what="cuda", verdict="missing", found="no CUDA device is visible", fix="see what nvidia-smi says")


def _extra(package: str, brings: str, fix: str) -> Finding:
    try:
        return Finding(what=package, verdict="ok", found=f"{version(package)}: {brings}")
    except PackageNotFoundError:
        return Finding(what=package, verdict="missing", found=f"not installed: {brings}", fix=fix)
