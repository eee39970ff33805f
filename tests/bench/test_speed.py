"""Our mechanisms against published ones and torch's own kernels, both sides in one process, turn about.

The C library's allocator matters as much as the code: by default blocks above 32 MiB are returned and faulted in again
at each call, and how much is returned depends on what ran before. `make speed` runs the table twice, with the default
and with a retained heap, each row in a process of its own. A row whose package is not installed is skipped:
`pip install attnbench[peers]`.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import calls
import pytest
from calls import Call, Inputs

from helpers import peers
from laws.memory import peak_bytes

ALLOCATOR = "retained" if os.environ.get("MALLOC_MMAP_MAX_") == "0" else "default"
BLOCKS, CALLS = 3, 7  # the best of three medians, as the machine may be shared
MB = 1_000_000

Side = Callable[[Inputs], Call]


class Row(NamedTuple):
    """What is compared with what at how many tokens, and how many times faster ours is to be, by allocator."""

    what: str
    tokens: int
    ours: Side
    theirs: Side
    default: float | None
    retained: float | None


def heads(name: str, *, causal: bool = False, tied: bool = False, **options: object) -> Side:
    def side(inputs: Inputs) -> Call:
        attend = peers.ours(peers.case(name, inputs.shape, causal=causal, **options))
        return calls.forward(attend, inputs.q, inputs.q if tied else inputs.k, inputs.v)

    return side


def heads_both(name: str, *, causal: bool = False, tied: bool = False, **options: object) -> Side:
    def side(inputs: Inputs) -> Call:
        of = peers.case(name, inputs.shape, causal=causal, passes="forward-backward", **options)
        keys = inputs.q if tied else inputs.k
        return calls.both_passes(peers.ours(of), inputs.cotangent, inputs.q, keys, inputs.v)

    return side


def torchs(*, causal: bool = False) -> Side:
    return lambda inputs: calls.forward(calls.sdpa(causal=causal), *inputs.qkv)


def linformer(inputs: Inputs) -> Call:
    return calls.forward(peers.layer(peers.case("linformer", inputs.shape)), inputs.x)


def linformers(inputs: Inputs) -> Call:
    return calls.forward(peers.linformer_layer(inputs.shape, k=256), inputs.x)


def reformer_pytorch(inputs: Inputs) -> Call:
    return calls.forward(peers.reformer_pytorch(bucket=64, rounds=4), inputs.q, inputs.v)


def reformer_pytorch_both(inputs: Inputs) -> Call:
    return calls.both_passes(peers.reformer_pytorch(bucket=64, rounds=4), inputs.cotangent, inputs.q, inputs.v)


def transformers_both(inputs: Inputs) -> Call:
    attend = peers.transformers_lsh(inputs.shape, bucket=64, rounds=4)
    return calls.both_passes(attend, inputs.cotangent, inputs.q, inputs.v)


REFORMER, WINDOW = heads("reformer", tied=True), heads("window", causal=True, width=256)
ROWS = (
    Row("flash / SDPA", 4096, heads("flash"), torchs(), 1 / 1.03, 1 / 1.03),
    Row("flash / SDPA, causal", 4096, heads("flash", causal=True), torchs(causal=True), 1 / 1.03, 1 / 1.03),
    Row(
        "vanilla / SDPA MATH",
        4096,
        heads("vanilla"),
        lambda inputs: calls.forward(calls.sdpa_math, *inputs.qkv),
        1 / 1.15,
        1 / 1.15,
    ),
    Row("reformer / reformer-pytorch", 1024, REFORMER, reformer_pytorch, 2.5, None),
    Row("reformer / reformer-pytorch", 4096, REFORMER, reformer_pytorch, 4, 1.9),
    Row("reformer / reformer-pytorch", 8192, REFORMER, reformer_pytorch, 4, None),
    Row("reformer / flash", 4096, REFORMER, torchs(), 2.2, None),
    Row("reformer / flash", 8192, REFORMER, torchs(), 3.7, None),
    Row(
        "reformer / reformer-pytorch, both passes",
        4096,
        heads_both("reformer", tied=True),
        reformer_pytorch_both,
        2.8,
        1.1,
    ),
    Row(
        "reformer / transformers, both passes",
        4096,
        heads_both("reformer", tied=True),
        transformers_both,
        2.8,
        1.1,
    ),
    Row("linformer layer / linformer", 4096, linformer, linformers, 1.9, 1.5),
    Row("linformer / flash", 4096, heads("linformer"), torchs(), 6.5, None),
    Row("linformer / flash", 8192, heads("linformer"), torchs(), 14, None),
    Row(
        "window / local-attention",
        4096,
        WINDOW,
        lambda inputs: calls.forward(peers.local_window(width=256), *inputs.qkv),
        4,
        2.2,
    ),
    Row(
        "window / FlexAttention, compiled",
        4096,
        WINDOW,
        lambda inputs: calls.forward(calls.flex_window(inputs.q.shape[2], width=256), *inputs.qkv),
        1.2,
        None,
    ),
    Row("window / flash, causal", 4096, WINDOW, torchs(causal=True), 3.7, None),
    Row("window / flash, causal", 8192, WINDOW, torchs(causal=True), 7, None),
    Row(
        "window / local-attention, both passes",
        4096,
        heads_both("window", causal=True, width=256),
        lambda inputs: calls.both_passes(peers.local_window(width=256), inputs.cotangent, *inputs.qkv),
        2.7,
        1.5,
    ),
    Row(
        "linear, softmax features / linear-attention-transformer",
        4096,
        heads("linear", features="softmax"),
        lambda inputs: calls.forward(peers.shen_full(), *inputs.qkv),
        1 / 1.05,
        1 / 1.05,
    ),
    Row(
        "linear, elu + 1 / linear-attention-transformer",
        4096,
        heads("linear"),
        lambda inputs: calls.forward(peers.shen_full(), *inputs.qkv),
        1 / 1.4,
        1 / 1.4,
    ),
    Row(
        "linear / fla's naive chunks, causal",
        4096,
        heads("linear", causal=True),
        lambda inputs: calls.forward(peers.fla_causal(), *inputs.qkv),
        2.3,
        None,
    ),
    Row("linear / flash, causal", 4096, heads("linear", causal=True), torchs(causal=True), 5, None),
    Row("linear / flash, causal", 8192, heads("linear", causal=True), torchs(causal=True), 10, None),
    Row(
        "linear / fla's naive chunks, causal, both passes",
        4096,
        heads_both("linear", causal=True),
        lambda inputs: calls.both_passes(peers.fla_causal(), inputs.cotangent, *inputs.qkv),
        1.3,
        None,
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.what}, {row.tokens}" for row in ROWS])
@pytest.mark.filterwarnings("ignore")  # of other people's packages
def test_ours_is_as_much_faster_as_it_claims(row: Row, benchmark: Callable[..., object]) -> None:
    """`benchmark` times ours; theirs is timed before each of its calls, so that both see the same machine."""
    inputs = Inputs(row.tokens)
    call, their_call = row.ours(inputs), row.theirs(inputs)
    theirs_s: list[float] = []

    def turn() -> None:
        started = time.perf_counter()
        their_call()
        theirs_s.append(time.perf_counter() - started)

    benchmark.pedantic(call, setup=turn, rounds=BLOCKS * CALLS, iterations=1, warmup_rounds=2)  # type: ignore[attr-defined]
    ours_s = list(benchmark.stats.stats.data)  # type: ignore[attr-defined]
    ours, theirs = best_median(ours_s), best_median(theirs_s[-len(ours_s) :])
    faster, bound = theirs / ours, getattr(row, ALLOCATOR)
    benchmark.extra_info |= {"theirs_s": theirs, "faster": faster, "bound": bound, "allocator": ALLOCATOR}  # type: ignore[attr-defined]
    asked = "no bound" if bound is None else f"at least {bound:.2f}"
    print(f"{ALLOCATOR}: {row.what}, {row.tokens}: {ours * 1e3:.1f} / {theirs * 1e3:.1f} ms: {faster:.2f}x ({asked})")
    assert bound is None or faster >= bound


@pytest.mark.parametrize(("passes", "most"), [("forward", 120 * MB), ("forward-backward", 220 * MB)])
def test_reformer_holds_no_more_memory_than_it_claims(passes: str, most: int) -> None:
    inputs = Inputs(4096)
    call = REFORMER(inputs) if passes == "forward" else heads_both("reformer", tied=True)(inputs)
    held = peak_bytes(call)
    print(f"reformer, {passes}, 4096: {held / MB:.0f} MB (at most {most / MB:.0f})")
    assert held <= most


def best_median(times_s: list[float]) -> float:
    """Give the least median of the blocks in which the calls were made."""
    blocks = (times_s[first : first + CALLS] for first in range(0, len(times_s), CALLS))
    return min(statistics.median(block) for block in blocks)
