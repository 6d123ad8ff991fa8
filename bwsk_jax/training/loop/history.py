"""What happened in training, in the form in which checkpoints keep it."""

import math
from dataclasses import dataclass, field


@dataclass
class History:
    """What happened so far. Curves are (optimizer step, value) pairs; skipped steps have no loss."""

    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    skipped_steps: list[int] = field(default_factory=list)
    val_curve: list[tuple[int, float]] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    epochs_completed: int = 0
    early_stopped: bool = False
    since_best: int = 0
    """Validations in a row without a new best."""
    first_validation: float | None = None
    """Before the first step. It is no part of `val_curve`, and no candidate for the best."""
    planned_steps: int = 0
    """The steps that the schedule is for; 0 where an older version did not say."""
    extended_after: list[int] = field(default_factory=list)
    """The steps at which a finished run was given more, and so another schedule."""
    seconds: float = 0.0
    """Spent in training up to the last save, in all sessions together."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps, the skipped ones included."""
        return len(self.loss_curve) + len(self.skipped_steps)

    def go_on(self, planned_steps: int, patience: int) -> None:
        """Take up a run, which may have been finished and be given more steps or more patience."""
        if self.planned_steps not in (0, planned_steps):
            self.extended_after.append(self.total_steps)
        self.planned_steps = planned_steps
        self.early_stopped = self.early_stopped and self.since_best >= patience

    @property
    def nan_count(self) -> int:
        """Steps that were skipped because their loss or gradient was not finite."""
        return len(self.skipped_steps)

    @property
    def skipped_in_a_row(self) -> int:
        """Steps skipped since the last one that was taken."""
        return self.total_steps - (self.loss_curve[-1][0] if self.loss_curve else 0)

    @property
    def best(self) -> float:
        """The lowest validation so far; infinite before the first."""
        return min((value for _, value in self.val_curve), default=math.inf)
