"""The table of metrics: what each figure is, which probe yields it, and how it may be compared."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from attnbench.contracts.case import Passes

ProbeKind = Literal["latency", "memory", "agreement", "swap", "accuracy", "energy", "metric"]
Replicates = Literal["rounds", "seeds", "none"]


class Metric(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A metric: its name in the columns of rows, its title in tables, its unit and its direction.

    `replicates` is what repeats it: rounds, which are tested for differences; seeds, which are averaged; or nothing,
    where one value is exact. `passes` maps a swept pass to the passes in which the metric is measured instead. `needs`
    names the metrics that a plugin's metric is derived from. `shown` ones stand in tables beside their probe's first.
    """

    name: str
    title: Annotated[str, Meta(min_length=1)]
    unit: str = "1"
    probe: ProbeKind = "metric"
    higher_is_better: bool = False
    replicates: Replicates = "none"
    passes: dict[Passes, tuple[Passes, ...]] = {}
    is_share: bool = False  # between 0 and 1: drawn on a linear axis
    needs: tuple[str, ...] = ()
    shown: bool = False

    @property
    def words(self) -> str:
        """The metric in a sentence: its name in words, or its plugin's title for it."""
        return self.name.replace("_", " ") if self.name in METRICS else self.title


# Memory is a peak over a whole pass, so a backward pass is measured with its forward pass. Agreement looks at the
# output, and at the gradients where they are computed. The energy of a backward pass cannot be separated from that of
# the forward pass that builds its graph.
_WHOLE: dict[Passes, tuple[Passes, ...]] = {"backward": ("forward-backward",)}
_BOTH: dict[Passes, tuple[Passes, ...]] = {
    "backward": ("forward", "backward"),
    "forward-backward": ("forward", "backward"),
}
# Where gradients say nothing of a metric, which is what a plugin's metric is unless it declares otherwise.
FORWARD_ONLY: dict[Passes, tuple[Passes, ...]] = {"backward": ("forward",), "forward-backward": ("forward",)}


def _timed(name: str, title: str, unit: str = "s", *, higher: bool = False, share: bool = False) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit=unit,
        probe="latency",
        higher_is_better=higher,
        replicates="rounds",
        is_share=share,
    )


def _counted(name: str, title: str) -> Metric:
    return Metric(name=name, title=title, unit="bytes", probe="memory", passes=_WHOLE)


def _agreement(name: str, title: str, *, higher: bool = False, share: bool = False) -> Metric:
    return Metric(name=name, title=title, probe="agreement", higher_is_better=higher, passes=_BOTH, is_share=share)


def _swapped(name: str, title: str, *, higher: bool = False, shown: bool = False) -> Metric:
    return Metric(name=name, title=title, probe="swap", higher_is_better=higher, replicates="seeds", shown=shown)


def _learned(name: str, title: str, *, higher: bool = False) -> Metric:
    return Metric(name=name, title=title, probe="accuracy", higher_is_better=higher, replicates="seeds")


# Multiples of the training length at which a trained model may be tested. Each has a metric of its own, as a column
# of a table is a length that models were trained at: `accuracy_4x` beside `accuracy` is the same weights.
BEYOND = (2, 4, 8)


def accuracy_beyond(factor: int) -> str:
    """Return the name of the metric of a test at a multiple of the training length."""
    return f"accuracy_{factor}x"


# In the order of rows and tables.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _timed("latency", "latency"),
        _timed("first_call", "first call"),
        _timed("latency_wall", "latency by the wall clock"),
        _timed("flop_rate", "rate of the operations that exact attention needs", "FLOP/s", higher=True),
        _timed("flop_rate_executed", "rate of the operations executed", "FLOP/s", higher=True),
        _timed("bandwidth", "bandwidth: what the operations read and write, over the time", "bytes/s", higher=True),
        _timed(
            "roofline_share",
            "share of the roofline: the least time by the machine's rates, over the time",
            "1",
            higher=True,
        ),
        _counted("memory", "peak memory above the inputs"),
        _counted("memory_total", "peak memory above the inputs, with what is held between calls"),
        _counted("memory_driver", "memory given to the process by the driver"),
        _counted("memory_first_call", "peak memory above the inputs of the first call"),
        _counted("memory_reserved", "memory reserved by the allocator above the inputs"),
        _counted("memory_resident", "resident memory above the inputs"),
        Metric(
            name="longest_context",
            title="longest context that fits",
            unit="tokens",
            probe="memory",
            higher_is_better=True,
            passes=_WHOLE,
        ),
        _agreement("numerical_error", "numerical error against itself in float64"),
        _agreement("approximation_error", "approximation error against exact attention"),
        _agreement("kept_mass", "share of exact attention's 16 heaviest weights that is kept", higher=True, share=True),
        _agreement("approximation_error_dk", "approximation error of dk"),
        _agreement("approximation_error_dq", "approximation error of dq"),
        _agreement("approximation_error_dv", "approximation error of dv"),
        _agreement("approximation_error_heads", "approximation error of single heads: their median"),
        _agreement("approximation_error_output", "approximation error of the output"),
        _agreement("cosine", "mean cosine with exact attention", higher=True, share=True),
        _agreement("hidden_mass", "largest share of a row's weight on hidden keys"),
        _agreement("mask_leak", "largest change of an output when hidden tokens change"),
        _swapped("swap_accuracy", "accuracy of an exact model once swapped", higher=True),
        _swapped("tuned_accuracy", "accuracy once swapped and fine-tuned", higher=True, shown=True),
        _swapped("swap_loss", "loss of an exact model once swapped"),
        _swapped("tuned_loss", "loss once swapped and fine-tuned"),
        _swapped("swap_excess", "loss once swapped, above the exact model's"),
        _swapped("tuned_excess", "loss once swapped and fine-tuned, above the exact model's"),
        _learned("accuracy", "accuracy", higher=True),
        *(
            _learned(accuracy_beyond(factor), f"accuracy at {factor} times the training length", higher=True)
            for factor in BEYOND
        ),
        _learned("bits_per_byte", "bits per byte"),
        _learned("generalisation_gap", "generalisation gap"),
        _learned("mse", "mse"),
        _learned("parameters", "parameters"),
        _learned("perplexity", "perplexity"),
        _learned("rmse", "rmse"),
        _learned("search_accuracy", "search accuracy", higher=True),
        _learned("search_loss", "search loss"),
        _learned("steps_to_best", "steps to best"),
        _learned("test_loss", "test loss"),
        _learned("train_accuracy", "train accuracy", higher=True),
        _learned("train_loss", "train loss"),
        Metric(name="energy", title="energy per call", unit="J", probe="energy", replicates="rounds", passes=_WHOLE),
    )
}
# The metric of a row whose job has nothing to show but its status, by its probe.
PRIMARY: dict[ProbeKind, Metric] = {
    "latency": METRICS["latency"],
    "memory": METRICS["memory"],
    "agreement": METRICS["approximation_error"],
    "swap": METRICS["swap_accuracy"],
    "accuracy": METRICS["accuracy"],
    "energy": METRICS["energy"],
}
# The probes of what a mechanism gives up, the most telling first. Their figures belong to the inputs or the task that
# they were measured on; all others are costs of a workload.
QUALITIES: tuple[ProbeKind, ...] = ("swap", "accuracy", "agreement")
# Those that train models on a task: their jobs are not timed.
TRAINED: tuple[ProbeKind, ...] = ("swap", "accuracy")


def metric_named(name: str) -> Metric:
    """Return the metric of a name; one that is not in the table is described by its name alone."""
    return METRICS.get(name) or Metric(name=name, title=name.replace("_", " "))


def passes_of(metric: Metric, passes: Sequence[Passes]) -> tuple[Passes, ...]:
    """Return the passes in which a metric is measured when these are swept, each once."""
    return tuple(dict.fromkeys(each for swept in passes for each in metric.passes.get(swept, (swept,))))
