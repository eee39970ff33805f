"""The causal product of linear attention, in chunks: never the T x S matrix, nor a state for every position."""
# X = B * H, T queries, S keys, F features, E value features (D and what rides along), C = chunk, N = number of chunks

import torch
from torch.nn.functional import pad

# The fastest of 64, 128 and 256 on two CPU cores; the batched form keeps a state a chunk for its backward pass.
RUNNING_CHUNK = 128
BATCHED_CHUNK = 64


def causal_product(q_XTF: torch.Tensor, k_XSF: torch.Tensor, v_XSE: torch.Tensor) -> torch.Tensor:
    """Sum (q_t . k_s) v_s over the keys s that query t sees: y_XTE (Katharopoulos et al. 2020, eqs. 8 to 11).

    Queries are the last T positions of the keys. Time and memory grow as T + S.
    """
    before = k_XSF.shape[1] - q_XTF.shape[1]
    state_XFE = k_XSF[:, :before].transpose(1, 2) @ v_XSE[:, :before]
    k_XTF, v_XTE = k_XSF[:, before:], v_XSE[:, before:]
    # Chunk after chunk in place is fastest on a CPU; a GPU wants all chunks at once, and so does autograd.
    in_place = q_XTF.device.type == "cpu" and not any(x.requires_grad for x in (q_XTF, k_XSF, v_XSE))
    return (running if in_place else batched)(q_XTF, k_XTF, v_XTE, state_XFE)


def running(q_XTF: torch.Tensor, k_XTF: torch.Tensor, v_XTE: torch.Tensor, state_XFE: torch.Tensor, /) -> torch.Tensor:
    """Walk the chunks with one running state, which it overwrites. Not differentiable."""
    y_XTE = torch.empty_like(v_XTE, memory_format=torch.contiguous_format)
    for start in range(0, q_XTF.shape[1], RUNNING_CHUNK):
        chunk = slice(start, start + RUNNING_CHUNK)
        q_XCF, k_XCF, v_XCE = q_XTF[:, chunk], k_XTF[:, chunk], v_XTE[:, chunk]
        weights_XCC = torch.bmm(q_XCF, k_XCF.transpose(1, 2)).tril_()
        torch.bmm(q_XCF, state_XFE, out=y_XTE[:, chunk]).baddbmm_(weights_XCC, v_XCE)
        state_XFE.baddbmm_(k_XCF.transpose(1, 2), v_XCE)
    return y_XTE


def batched(q_XTF: torch.Tensor, k_XTF: torch.Tensor, v_XTE: torch.Tensor, state_XFE: torch.Tensor, /) -> torch.Tensor:
    """Take all chunks at once, each with the state before it. Differentiable."""
    length = q_XTF.shape[1]
    chunk = min(length, BATCHED_CHUNK)
    # Zeros at the end change nothing: a key without features adds nothing, and a query's row is cut off.
    q_XNCF, k_XNCF, v_XNCE = (
        pad(x, (0, 0, 0, -length % chunk)).view(x.shape[0], -1, chunk, x.shape[2]) for x in (q_XTF, k_XTF, v_XTE)
    )
    added_XNFE = k_XNCF.transpose(2, 3) @ v_XNCE
    state_XNFE = torch.cat([state_XFE[:, None], added_XNFE[:, :-1]], dim=1).cumsum(dim=1)
    within_XNCE = (q_XNCF @ k_XNCF.transpose(2, 3)).tril() @ v_XNCE
    return (within_XNCE + q_XNCF @ state_XNFE).flatten(1, 2)[:, :length]
