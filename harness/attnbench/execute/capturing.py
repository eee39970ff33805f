"""The child's side of `attnbench capture`: run a model, and write the inputs of its attention to a file."""

from collections.abc import Callable
from pathlib import Path

import torch
from msgspec.structs import asdict, replace

from attnbench.contracts.errors import UsageError
from attnbench.execute.messages import Capture, Captured
from attnbench.pretrained import capture as pretrained
from attnbench.pretrained import loading
from attnbench.train.checkpoint import is_checkpoint

DEFAULT_LENGTH = 512  # what encoders such as BERT take at most


def capture(question: Capture, report: Callable[[str], None]) -> Captured:
    """Capture, write the file, and return what it holds. Raises UsageError."""
    torch.set_num_threads(1)
    captured = _captured(question, report)
    if question.name:
        captured = replace(captured, meta=replace(captured.meta, model=question.name))
    pretrained.write(captured, Path(question.path), precision=question.precision)
    q_BHTD, k_BGSD, _ = next(iter(captured.layers.values()))
    return Captured(
        path=question.path,
        layers=tuple(captured.layers),
        heads=q_BHTD.shape[1],
        kv_heads=k_BGSD.shape[1],
        head_dim=q_BHTD.shape[3],
        error=captured.error,
        **asdict(captured.meta),
    )


def _captured(question: Capture, report: Callable[[str], None]) -> pretrained.Captured:
    model = Path(question.model)
    if is_checkpoint(model):
        if question.text or question.length:
            raise UsageError("--text, --seq: a trained model is given a test example of its task; leave them out")
        return pretrained.from_checkpoint(model, layers=question.layers)
    if not question.text:
        raise UsageError("--text: a pretrained model reads a text; name a file in UTF-8")
    return pretrained.from_pretrained(
        loading.locate(question.model),
        Path(question.text),
        length=question.length or DEFAULT_LENGTH,
        layers=question.layers,
        report=report,
    )
