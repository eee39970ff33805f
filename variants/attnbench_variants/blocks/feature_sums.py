"""Attention by features, f(q) . f(k) in place of exp(q . k): sums over keys, never a weight for every pair of a row."""
# X = B * H, T queries, S keys, D head dimension, F features, E = D + 1: values and a column of ones, whose sum is the
# weight to divide by; N chunks of C positions

from collections.abc import Callable, Iterator

import torch
from torch.nn.functional import pad

# The fastest of 64, 128, 256 and 512 on two CPU cores. The batched form keeps a state a chunk for its backward pass.
STREAMED_CHUNK = 128
BATCHED_CHUNK = 64

Features = Callable[[torch.Tensor], torch.Tensor]


def attend_by_features(
    q_XTD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor, *, features: Features, causal: bool
) -> torch.Tensor:
    """Average values by f(q) . f(k): out_XTD (Katharopoulos et al. 2020, eqs. 4 to 6; causal: eqs. 8 to 12).

    Queries are the last T positions of the keys. Sums are held in the dtype of the features. Time: O((T + S) F D).
    """
    # Chunk after chunk in the cache is fastest on a CPU; a GPU wants all chunks at once, and so does autograd.
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (q_XTD, k_XSD, v_XSD))
    attend = batched if tracked or q_XTD.device.type != "cpu" else streamed
    return attend(q_XTD, k_XSD, v_XSD, features=features, causal=causal)


def streamed(
    q_XTD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor, *, features: Features, causal: bool
) -> torch.Tensor:
    """Walk the chunks with one running state, in place. Not differentiable."""
    out_XTD = torch.empty_like(q_XTD, memory_format=torch.contiguous_format)
    before = _keys_that_all_see(q_XTD, k_XSD, causal)

    state_XFE = keys_summed(k_XSD[:, :before], v_XSD[:, :before], features=features)
    for chunk in _chunks(q_XTD.shape[1]):
        q_XCF = features(q_XTD[:, chunk])
        y_XCE = torch.bmm(q_XCF, state_XFE)
        if causal:
            own = slice(before + chunk.start, before + chunk.stop)
            k_XCF, v_XCE = _featured(k_XSD[:, own], v_XSD[:, own], features)
            y_XCE.baddbmm_(torch.bmm(q_XCF, k_XCF.transpose(1, 2)).tril_(), v_XCE)
            state_XFE.baddbmm_(k_XCF.transpose(1, 2), v_XCE)
        torch.div(y_XCE[..., :-1], y_XCE[..., -1:], out=out_XTD[:, chunk])
    return out_XTD


def keys_summed(k_XSD: torch.Tensor, v_XSD: torch.Tensor, *, features: Features) -> torch.Tensor:
    """Sum f(k_s) v_s and f(k_s) over all keys, in place: state_XFE (Katharopoulos et al. 2020, eqs. 16 to 19)."""
    k_X0F, v_X0E = _featured(k_XSD[:, :0], v_XSD[:, :0], features)
    state_XFE = k_X0F.transpose(1, 2) @ v_X0E  # a sum over no keys: zeros
    for chunk in _chunks(k_XSD.shape[1]):
        k_XCF, v_XCE = _featured(k_XSD[:, chunk], v_XSD[:, chunk], features)
        state_XFE.baddbmm_(k_XCF.transpose(1, 2), v_XCE)
    return state_XFE


def one_further(
    q_XTD: torch.Tensor, k_X1D: torch.Tensor, v_X1D: torch.Tensor, state_XFE: torch.Tensor, *, features: Features
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add one key with its value to the sums, and answer all queries from them: (out_XTD, the sums after it).

    Katharopoulos et al. 2020, eqs. 18 to 20. Time: O(F D) a query, however many keys were summed.
    """
    k_X1F, v_X1E = _featured(k_X1D, v_X1D, features)
    after_XFE = torch.baddbmm(state_XFE, k_X1F.transpose(1, 2), v_X1E)
    y_XTE = features(q_XTD) @ after_XFE
    return (y_XTE[..., :-1] / y_XTE[..., -1:]).to(q_XTD.dtype), after_XFE


def batched(
    q_XTD: torch.Tensor, k_XSD: torch.Tensor, v_XSD: torch.Tensor, *, features: Features, causal: bool
) -> torch.Tensor:
    """Take all chunks at once, each with the state before it. Differentiable."""
    q_XTF, (k_XSF, v_XSE) = features(q_XTD), _featured(k_XSD, v_XSD, features)
    before = _keys_that_all_see(q_XTD, k_XSD, causal)
    state_XFE = k_XSF[:, :before].transpose(1, 2) @ v_XSE[:, :before]
    y_XTE = _causal_sums(q_XTF, k_XSF[:, before:], v_XSE[:, before:], state_XFE) if causal else q_XTF @ state_XFE
    return (y_XTE[..., :-1] / y_XTE[..., -1:]).to(q_XTD.dtype)


def _causal_sums(
    q_XTF: torch.Tensor, k_XTF: torch.Tensor, v_XTE: torch.Tensor, state_XFE: torch.Tensor
) -> torch.Tensor:
    """Sum (q_t . k_s) v_s over s up to t, and over what the state holds: y_XTE."""
    length = q_XTF.shape[1]
    chunk = min(length, BATCHED_CHUNK)
    # Zeros at the end change nothing: a key without features adds nothing, and a query's row is cut off.
    q_XNCF, k_XNCF, v_XNCE = (
        pad(x, (0, 0, 0, -length % chunk)).view(x.shape[0], -1, chunk, x.shape[2]) for x in (q_XTF, k_XTF, v_XTE)
    )
    added_XNFE = k_XNCF.transpose(2, 3) @ v_XNCE
    state_XNFE = torch.cat([state_XFE[:, None], added_XNFE[:, :-1]], dim=1).cumsum(dim=1)
    within_XNCE = (q_XNCF @ k_XNCF.transpose(2, 3)).tril_() @ v_XNCE
    return (within_XNCE + q_XNCF @ state_XNFE).flatten(1, 2)[:, :length]


def _keys_that_all_see(q_XTD: torch.Tensor, k_XSD: torch.Tensor, causal: bool) -> int:
    return k_XSD.shape[1] - q_XTD.shape[1] if causal else k_XSD.shape[1]


def _featured(k_XSD: torch.Tensor, v_XSD: torch.Tensor, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the keys' features, and in their dtype the values with a column of ones: k_XSF, v_XSE."""
    k_XSF = features(k_XSD)
    return k_XSF, pad(v_XSD.to(k_XSF.dtype), (0, 1), value=1.0)


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, min(start + STREAMED_CHUNK, length)) for start in range(0, length, STREAMED_CHUNK))
