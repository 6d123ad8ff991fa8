"""Reversible backpropagation for any JAX model.

>>> import bwsk_jax, jax, jax.numpy as jnp
>>> block = bwsk_jax.reversible(lambda x, w: jnp.tanh(x @ w))
>>> jax.grad(lambda w: block(jnp.ones((2, 3)), w).sum())(jnp.ones((3, 3))).shape
(3, 3)
"""

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
