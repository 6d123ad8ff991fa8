"""Machines to compile for, also those that are not there.

`machines` knows them by name, `program` compiles a function for one and says what its compiler makes of it,
`hlo` reads the compiled program, and `fit` finds the fastest program within a memory. The names below are
public.

>>> from bwsk_jax import targets
>>> targets.find_target("v5e-16").devices, targets.find_target("h100").device.platform
(16, 'cuda')
"""

from bwsk_jax.targets.fit import Fit as Fit
from bwsk_jax.targets.fit import FitError as FitError
from bwsk_jax.targets.fit import Way as Way
from bwsk_jax.targets.hlo import Collective as Collective
from bwsk_jax.targets.machines import Target as Target
from bwsk_jax.targets.machines import TargetError as TargetError
from bwsk_jax.targets.machines import find_target as find_target
from bwsk_jax.targets.program import CompiledProgram as CompiledProgram
from bwsk_jax.targets.program import DoesNotFitError as DoesNotFitError
from bwsk_jax.targets.program import UnreadableProgramError as UnreadableProgramError
from bwsk_jax.targets.program import compile_for as compile_for
