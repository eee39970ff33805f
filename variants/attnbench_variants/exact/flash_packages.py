"""The flash kernels of other packages, a variant each: exact attention, softmax(q k^T / sqrt(D)) v, or nothing.

Where a package is not installed, or its kernel does not run a small example of the case, Unsupported has the reason.
"""

from functools import partial

from attnbench import Support
from attnbench_variants.exact.package_kernels import Xformers, flash_attn2, flash_attn3, flash_attn4
from attnbench_variants.exact.pinned import Pinned, proved

_SUPPORT = Support(dtypes=("bfloat16", "float16"), devices=("cuda",), window=True, grouped=True, exact=True, growth=2)


class FlashAttn2(Pinned):
    """FlashAttention-2 (Dao 2023), package flash-attn: Ampere and later, with windows and grouped heads.

    Its masks are aligned at the last key.
    """

    supports = _SUPPORT

    kernel = staticmethod(partial(proved, flash_attn2))


class FlashAttn3(Pinned):
    """FlashAttention-3 (Shah et al. 2024), package flash_attn_3: Hopper, with windows and grouped heads.

    Its masks are aligned at the last key. Numbers are of 16 bits here; its 8-bit form is another dtype of the inputs.
    """

    supports = _SUPPORT

    kernel = staticmethod(partial(proved, flash_attn3))


class FlashAttn4(Pinned):
    """FlashAttention-4, package flash-attn-4 (in CuTe DSL): Hopper and Blackwell, with windows and grouped heads.

    Its masks are aligned at the last key. Its kernels are compiled when they are first called: here when the variant is
    built, on a small example; what depends on the length is compiled in the first call.
    """

    supports = _SUPPORT

    kernel = staticmethod(partial(proved, flash_attn4))


class XformersFlash(Pinned):
    """`memory_efficient_attention` of xformers (Lefaudeux et al. 2022), its flash operators pinned, with windows.

    Its masks are aligned at the last key. These operators have no backward pass for grouped heads.
    """

    supports = Support(
        dtypes=("bfloat16", "float16"),
        devices=("cuda",),
        window=True,
        grouped="its flash operators take no grouped heads",
        exact=True,
        growth=2,
    )

    kernel = staticmethod(partial(proved, Xformers))
