"""One optimizer step as one jitted call that updates its state in place.

Axes: A accumulated micro-batches, B windows per micro-batch, T positions, M masked positions per window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bwsk_jax import bert
from bwsk_jax.engine.program.platform import platform
from bwsk_jax.training.step.masking import (
    MASK_RATE,
    draw_positions,
    draw_substitutes,
    is_one_of,
    masked_lm_loss,
)
from bwsk_jax.training.step.optimizer import LossScale, first_loss_scale, next_loss_scale
from bwsk_jax.training.step.placement import ONE_DEVICE, Placement


class TrainState(NamedTuple):
    """What a step reads and replaces. `step` counts all steps, also those that were skipped."""

    params: Any
    optimizer_state: Any
    step: jax.Array
    loss_scale: LossScale | None = None


def initial_state(params, optimizer: optax.GradientTransformation, *, dtype=jnp.float32) -> TrainState:
    """Return the state before the first step. It takes over `params`, which the first step donates.

    If `dtype`, which the model computes in, is float16, the state has a loss scale.
    """
    loss_scale = first_loss_scale() if dtype == jnp.float16 else None
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), loss_scale)


@jax.jit
def all_finite(state: TrainState) -> jax.Array:
    """Return whether no number in `state` is infinite or NaN."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


def make_train_step(
    config: bert.BertConfig,
    optimizer: optax.GradientTransformation,
    mask_id: int,
    *,
    random_pieces: int | None = None,
    mask_rate: float = MASK_RATE,
    unmasked: tuple[int, ...] = (),
    dtype=jnp.float32,
    scan: Callable = jax.lax.scan,
    placement: Placement = ONE_DEVICE,
) -> jax.stages.Wrapped:
    """Return jitted `train_step(state, tokens_abt, key) -> (state, loss)`, which donates `state`.

    Masks and dropout are drawn inside from `fold_in(key, state.step)`, so that the same `key` serves every
    step. The masks do not depend on how the A x B windows are divided into micro-batches: with dropout off, A
    micro-batches of B give the update of one micro-batch of A x B. `loss` is the mean over the windows. At
    masked positions the model sees [MASK] or, with `random_pieces`, what `draw_substitutes` draws below it.

    A step whose loss or gradient norm is not finite is skipped: parameters and optimizer stay as they were
    and `loss` is NaN. `step` counts on nevertheless, so that the next step draws other masks. If the state
    has a loss scale, the loss is multiplied by it and the gradient divided by it again; the scale then
    follows from whether the step was finite. `mask_rate` is the share of the tokens to be predicted; ids
    that are `unmasked`, such as [CLS], never are.

    State, gradient and windows are split over devices as `placement` says; so have to be the arguments.
    """
    step = _Step(config, optimizer, mask_id, random_pieces, mask_rate, unmasked, dtype, scan, placement)
    return jax.jit(step.train_step, donate_argnums=0)


@dataclass(frozen=True, eq=False)
class _Step:
    """What `make_train_step` was asked for, and `train_step`, which it compiles."""

    config: bert.BertConfig
    optimizer: optax.GradientTransformation
    mask_id: int
    random_pieces: int | None
    mask_rate: float
    unmasked: tuple[int, ...]
    dtype: Any
    scan: Callable
    placement: Placement

    def train_step(self, state: TrainState, tokens_abt, key) -> tuple[TrainState, jax.Array]:
        """Return the state after the step, and its loss."""
        mask_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        masked = (tokens_abt, *self.draw_masks(mask_key, tokens_abt))
        loss_scale = state.loss_scale
        scale = None if loss_scale is None else loss_scale.scale
        loss, gradient = self.mean_loss_and_gradient(state.params, scale, masked, dropout_key)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
        params, optimizer_state = self.update_if(finite, state.params, state.optimizer_state, gradient)
        loss_scale = None if loss_scale is None else next_loss_scale(loss_scale, finite)
        state = TrainState(params, optimizer_state, state.step + 1, loss_scale)
        return self.placement.constrained(state), jnp.where(finite, loss, jnp.nan)

    def draw_masks(self, key, tokens_abt) -> tuple[jax.Array, jax.Array]:
        """Return the masked positions [A, B, M] and the ids [A, B, M] that the model sees there."""
        micro_batches, windows, seq_len = tokens_abt.shape
        last = is_one_of(tokens_abt.reshape(-1, seq_len), self.unmasked) if self.unmasked else None
        positions = draw_positions(key, micro_batches * windows, seq_len, self.mask_rate, last)
        positions_abm = positions.reshape(micro_batches, windows, -1)
        if self.random_pieces is None:
            return positions_abm, jnp.full_like(positions_abm, self.mask_id)
        labels_abm = jnp.take_along_axis(tokens_abt, positions_abm, axis=-1)
        substitutes_key = jax.random.fold_in(key, 1)
        return positions_abm, draw_substitutes(substitutes_key, labels_abm, self.mask_id, self.random_pieces)

    def mean_loss_and_gradient(self, params, scale, masked, dropout_key) -> tuple[jax.Array, Any]:
        """Return the loss and the gradient, each the mean over the micro-batches in `masked`."""
        micro_batches = len(masked[0])
        if micro_batches == 1:  # a scan would hold a second gradient beside the accumulated one
            return self.loss_and_gradient(params, scale, *(array[0] for array in masked), dropout_key)

        def accumulate(total, micro_batch):
            return jax.tree.map(jnp.add, total, self.loss_and_gradient(params, scale, *micro_batch)), None

        zero = (jnp.zeros(()), self.placement.constrained(jax.tree.map(jnp.zeros_like, params)))
        keys_a = jax.random.split(dropout_key, micro_batches)
        total, _ = jax.lax.scan(accumulate, zero, (*masked, keys_a))
        return jax.tree.map(lambda value: value / micro_batches, total)

    def loss_and_gradient(self, params, scale, *micro_batch) -> tuple[jax.Array, Any]:
        """Return the loss of a micro-batch and its gradient. The loss is scaled only to differentiate it."""
        (_, loss), gradient = jax.value_and_grad(self.micro_loss, has_aux=True)(params, scale, *micro_batch)
        gradient = self.placement.constrained(gradient)
        return loss, gradient if scale is None else jax.tree.map(lambda leaf: leaf / scale, gradient)

    def micro_loss(self, params, scale, tokens_bt, positions_bm, substitutes_bm, dropout_key):
        """Return the scaled loss of a micro-batch, and the loss."""
        losses_b = masked_lm_loss(
            self.config,
            params,
            tokens_bt,
            positions_bm,
            substitutes_bm,
            unmasked=self.unmasked,
            dropout_key=dropout_key,
            dtype=self.dtype,
            scan=self.placement.scanned(self.scan),
            split=self.placement.constrained_windows,
        )
        loss = losses_b.mean()
        return (loss if scale is None else loss * scale), loss

    def update_if(self, finite, params, optimizer_state, gradient):
        """Return parameters and optimizer's state after the update, or as they were where it is not finite.

        TPUs and GPUs choose element by element within the update, in place; a conditional would cost a GPU a
        second state. For a CPU the choice would cost more than the conditional.
        """
        if platform() == "cpu":
            unchanged = lambda params, optimizer_state, _: (params, optimizer_state)
            return jax.lax.cond(finite, self.update, unchanged, params, optimizer_state, gradient)
        updated = self.update(params, optimizer_state, gradient)
        choose = lambda new, old: jnp.where(finite, new, old)
        return jax.tree.map(choose, updated, (params, optimizer_state))

    def update(self, params, optimizer_state, gradient):
        """Return the parameters and the state of the optimizer after its update."""
        updates, optimizer_state = self.optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state


def state_shapes(
    config: bert.BertConfig, optimizer: optax.GradientTransformation, *, dtype=jnp.float32
) -> TrainState:
    """Return the state before the first step as `jax.ShapeDtypeStruct`s."""

    def first_state():
        return initial_state(bert.init_params(config, jax.random.key(0)), optimizer, dtype=dtype)

    return jax.eval_shape(first_state)
