"""Torch's fused attention kernels, pinned: the one resolved when a variant is built runs, or the call raises."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

import warnings
from collections.abc import Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from attnbench import Case, Unsupported

TORCH = torch.__version__.partition("+")[0]
FASTEST_FIRST = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
_NAMES = {
    SDPBackend.FLASH_ATTENTION: "torch-flash",
    SDPBackend.EFFICIENT_ATTENTION: "torch-efficient",
    SDPBackend.CUDNN_ATTENTION: "torch-cudnn",
    SDPBackend.MATH: "torch-math",
}
_SHORT, _LONG = 64, 128


class Fused:
    """One of torch's scaled-dot-product kernels: softmax(q k^T / sqrt(D)) v (torch.nn.attention.SDPBackend).

    It is the first of `among` that takes tensors like the case's; `masked` if calls will pass a mask. Raises
    Unsupported with torch's own reasons if none does.
    """

    def __init__(self, case: Case, *, among: Sequence[SDPBackend] = FASTEST_FIRST, masked: bool = False) -> None:
        q_BHTD, k_BGSD, v_BGSD = example(case)
        mask = q_BHTD.new_ones(1, 1, 1, k_BGSD.shape[2], dtype=torch.bool) if masked else None
        reasons: list[str] = []
        for self._backend in among:
            reason = _refusal(self._backend, (q_BHTD, k_BGSD, v_BGSD), mask)
            if not reason:
                self.name = f"{_NAMES[self._backend]} {TORCH}"
                return
            reasons.append(f"{_NAMES[self._backend]}: {reason}")
        raise Unsupported("; ".join(reasons))

    def __call__(
        self,
        q_BHTD: torch.Tensor,
        k_BGSD: torch.Tensor,
        v_BGSD: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """Attend: out_BHTD. `mask` is true where a query sees a key; `causal` needs as many queries as keys."""
        q, k, v = packed(q_BHTD, k_BGSD, v_BGSD)
        grouped = q.shape[1] != k.shape[1]
        # Entering the context takes 15 us a call, and is not needed where torch chooses this kernel by itself.
        if _choice(q, k, v, mask, causal) == self._backend.value:
            return scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped)
        with sdpa_kernel(self._backend):
            return scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped)


def packed(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return tensors whose last dimension is dense, as the kernels assume; those where it is not are copied."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


def example(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return small queries, keys and values for trying a kernel: of the case's heads, dtype, device and gradients.

    There are more queries than keys, or fewer, as in the case.
    """
    shape = case.shape
    queries = min(shape.seq_q, _LONG if shape.seq_q > shape.seq_k else _SHORT)
    keys = min(shape.seq_k, _LONG if shape.seq_k > shape.seq_q else _SHORT)

    def zeros(heads: int, positions: int) -> torch.Tensor:
        x = torch.zeros(1, heads, positions, shape.head_dim, dtype=getattr(torch, case.dtype), device=case.device)
        return x.requires_grad_(case.passes not in ("forward", "decode"))

    return zeros(shape.heads, queries), zeros(shape.kv_heads, keys), zeros(shape.kv_heads, keys)


def _choice(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, causal: bool = False) -> int:
    """Return the kernel that torch would run, by the function that scaled_dot_product_attention calls too (0.5 us)."""
    return torch._fused_sdp_choice(q, k, v, mask, 0.0, causal, enable_gqa=q.shape[1] != k.shape[1])  # noqa: SLF001 - the public way to know costs 30 times as much


def _refusal(
    backend: SDPBackend, qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor], mask: torch.Tensor | None
) -> str:
    """Return torch's reasons not to run a kernel on such tensors; none if it would run it."""
    with warnings.catch_warnings(record=True) as warned, sdpa_kernel(backend):
        warnings.simplefilter("always")
        try:
            if _choice(*qkv, mask) == backend.value:
                return ""
        except RuntimeError as error:
            reason = str(error)
        else:
            reason = "torch runs another kernel on this device"
    return " ".join([str(one.message).partition(" (Triggered internally")[0] for one in warned] or [reason])
