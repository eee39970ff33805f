"""What children say of plugins, each asked in a process of its own, which imports it."""

from collections.abc import Sequence
from typing import TypeVar

from msgspec.structs import replace

from attnbench.execute.executor import Executor, NoAnswer
from attnbench.execute.messages import DescribeMetric, DescribeTask, DescribeVariant
from attnbench.plugins import sources
from attnbench.plugins.describe import Description, MetricDescription, TaskDescription

D = TypeVar("D", Description, TaskDescription, MetricDescription)


Described = DescribeVariant | DescribeTask | DescribeMetric


def describe(executor: Executor, question: Described, kind: type[D]) -> D:
    """Return a child's description of a plugin, as `describe_each` does."""
    return describe_each(executor, [question], kind)[0]


def describe_each(executor: Executor, questions: Sequence[Described], kind: type[D]) -> list[D]:
    """Return descriptions of plugins, which children import side by side; where an import ends one, it says how.

    From then on the executor measures no other content of the files that the imports have read.
    """
    answers = executor.ask_each(questions, kind, timeout_s=executor.import_timeout_s)
    return [_description(executor, *each, kind) for each in zip(questions, answers, strict=True)]


def _description(executor: Executor, question: Described, answer: D | NoAnswer, kind: type[D]) -> D:
    if isinstance(answer, NoAnswer):
        return kind(origin=replace(question.entry.origin, source_hash=""), failure=f"its import {answer}")
    sources.differing(answer.sources, executor.sources)
    return answer
