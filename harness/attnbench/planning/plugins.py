"""What children say of plugins, each asked in a process of its own, which imports it."""

from typing import TypeVar

from msgspec.structs import replace

from attnbench.execute.executor import Executor, NoAnswer
from attnbench.execute.messages import DescribeMetric, DescribeTask, DescribeVariant
from attnbench.plugins import sources
from attnbench.plugins.describe import Description, MetricDescription, TaskDescription

D = TypeVar("D", Description, TaskDescription, MetricDescription)


def describe(executor: Executor, question: DescribeVariant | DescribeTask | DescribeMetric, kind: type[D]) -> D:
    """Return a child's description of a plugin; where the import ends the child, the description says how.

    From then on the executor measures no other content of the files that the import has read.
    """
    try:
        description = executor.ask(question, kind)
    except NoAnswer as end:
        return kind(origin=replace(question.entry.origin, source_hash=""), failure=f"its import {end}")
    sources.differing(description.sources, executor.sources)
    return description
