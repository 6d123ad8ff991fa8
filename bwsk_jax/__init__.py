"""Reversible backpropagation for any JAX model.

>>> import bwsk_jax, jax, jax.numpy as jnp
>>> block = bwsk_jax.reversible(lambda x, w: jnp.tanh(x @ w))
>>> jax.grad(lambda w: block(jnp.ones((2, 3)), w).sum())(jnp.ones((3, 3))).shape
(3, 3)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bwsk_jax.classification.classify import classify as classify
    from bwsk_jax.classification.report import Report as Report
    from bwsk_jax.coordination.calm import calm as calm
    from bwsk_jax.coordination.report import CalmReport as CalmReport
    from bwsk_jax.engine.execute.drift import ReconstructionWarning as ReconstructionWarning
    from bwsk_jax.engine.execute.reversible import reversible as reversible
    from bwsk_jax.engine.execute.reversible_scan import reversible_scan as reversible_scan
    from bwsk_jax.engine.plan.api import frontier as frontier
    from bwsk_jax.engine.plan.api import plan as plan
    from bwsk_jax.engine.plan.api import plan_scan as plan_scan
    from bwsk_jax.engine.plan.plan import LEAST_MEMORY as LEAST_MEMORY
    from bwsk_jax.engine.plan.plan import Plan as Plan
    from bwsk_jax.engine.plan.plan import PlanError as PlanError
    from bwsk_jax.engine.plan.plan import PortablePlan as PortablePlan
    from bwsk_jax.engine.plan.plan import check_plan as check_plan
    from bwsk_jax.engine.rules.exactness import Grade as Grade
    from bwsk_jax.engine.rules.registry import register_inverse as register_inverse
    from bwsk_jax.targets.fit import fit as fit
    from bwsk_jax.targets.program import compile_for as compile_for

# Each public name is imported when it is first used. So the commands of this package, which import it too,
# answer a mistake at once, and a signal from the start.
_PLACES = {
    "classify": "bwsk_jax.classification.classify",
    "Report": "bwsk_jax.classification.report",
    "calm": "bwsk_jax.coordination.calm",
    "CalmReport": "bwsk_jax.coordination.report",
    "ReconstructionWarning": "bwsk_jax.engine.execute.drift",
    "reversible": "bwsk_jax.engine.execute.reversible",
    "reversible_scan": "bwsk_jax.engine.execute.reversible_scan",
    "frontier": "bwsk_jax.engine.plan.api",
    "plan": "bwsk_jax.engine.plan.api",
    "plan_scan": "bwsk_jax.engine.plan.api",
    "LEAST_MEMORY": "bwsk_jax.engine.plan.plan",
    "Plan": "bwsk_jax.engine.plan.plan",
    "PlanError": "bwsk_jax.engine.plan.plan",
    "PortablePlan": "bwsk_jax.engine.plan.plan",
    "check_plan": "bwsk_jax.engine.plan.plan",
    "Grade": "bwsk_jax.engine.rules.exactness",
    "register_inverse": "bwsk_jax.engine.rules.registry",
    "fit": "bwsk_jax.targets.fit",
    "compile_for": "bwsk_jax.targets.program",
}
_PACKAGES = ("bert", "classification", "coordination", "engine", "frameworks", "targets")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES, *_PACKAGES})
