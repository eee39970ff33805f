"""Each mechanism's formulation, slow and plain, that its implementation is tested against: a module for each.

A reference is `attend(attention, q_BHTD, k_BGSD, v_BGSD, case) -> out_BHTD`: loops over batch, head and query, in the
dtype of its inputs (float64 in the laws), differentiable. `attention` is the built variant, for its parameters and what
it drew only. Every module here that has `REFERENCES` (mechanism by name) is found.
"""

from importlib import import_module
from pkgutil import iter_modules

from references.reference import Reference

REFERENCES: dict[str, Reference] = {}
for _module in iter_modules(__path__, "references."):
    REFERENCES |= getattr(import_module(_module.name), "REFERENCES", {})
