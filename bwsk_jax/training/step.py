"""One optimizer step as one jitted call that updates its state in place.

Axes: A accumulated micro-batches, B windows per micro-batch, T positions, M masked positions per window.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bwsk_jax import bert
from bwsk_jax.training.loss_scale import LossScale, first_loss_scale, next_loss_scale
from bwsk_jax.training.masking import draw_positions, draw_substitutes
from bwsk_jax.training.objective import masked_lm_loss


class TrainState(NamedTuple):
    """What a step reads and replaces. `step` counts every step, also those that were skipped."""

    params: Any
    optimizer_state: Any
    step: jax.Array
    loss_scale: LossScale | None = None


def initial_state(params, optimizer: optax.GradientTransformation, *, dtype=jnp.float32) -> TrainState:
    """Return the state before the first step. It takes `params` over: the first step donates them.

    With float16 as the `dtype` of the computation, the state has a loss scale.
    """
    loss_scale = first_loss_scale() if dtype == jnp.float16 else None
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), loss_scale)


def make_train_step(
    config: bert.BertConfig,
    optimizer: optax.GradientTransformation,
    mask_id: int,
    *,
    random_pieces: int | None = None,
    dtype=jnp.float32,
    scan: Callable = jax.lax.scan,
) -> Callable:
    """Return jitted `train_step(state, tokens_abt, key) -> (state, loss)`; `state` is donated.

    Masks and dropout are drawn inside from `fold_in(key, state.step)`, so the same `key` serves every step.
    The masks do not depend on how the A x B windows are divided into micro-batches: with dropout off, A
    micro-batches of B give the update of one micro-batch of A x B. `loss` is the mean over the windows.
    [MASK] stands at all masked positions or, with `random_pieces`, what `draw_substitutes` draws below it.

    A step whose loss or gradient norm is not finite is skipped: parameters and optimizer stay as they were,
    `step` counts on, so that the next one draws other masks, and `loss` is NaN. A state with a loss scale
    has the loss multiplied by it and the gradient divided by it again; the scale follows what was finite.
    """

    def draw_masks(key, tokens_abt):
        micro_batches, windows, seq_len = tokens_abt.shape
        positions = draw_positions(key, micro_batches * windows, seq_len)
        positions_abm = positions.reshape(micro_batches, windows, -1)
        if random_pieces is None:
            return positions_abm, jnp.full_like(positions_abm, mask_id)
        labels_abm = jnp.take_along_axis(tokens_abt, positions_abm, axis=-1)
        substitutes_abm = draw_substitutes(jax.random.fold_in(key, 1), labels_abm, mask_id, random_pieces)
        return positions_abm, substitutes_abm

    def micro_loss(params, scale, tokens_bt, positions_bm, substitutes_bm, dropout_key):
        masked = tokens_bt, positions_bm, substitutes_bm
        losses_b = masked_lm_loss(config, params, *masked, dropout_key=dropout_key, dtype=dtype, scan=scan)
        loss = losses_b.mean()
        return (loss if scale is None else loss * scale), loss

    def loss_and_gradient(params, scale, *micro_batch):
        (_, loss), gradient = jax.value_and_grad(micro_loss, has_aux=True)(params, scale, *micro_batch)
        return loss, gradient if scale is None else jax.tree.map(lambda leaf: leaf / scale, gradient)

    def mean_loss_and_gradient(params, scale, masked, dropout_key):
        micro_batches = len(masked[0])
        if micro_batches == 1:  # a scan would hold a second gradient beside the accumulated one
            return loss_and_gradient(params, scale, *(array[0] for array in masked), dropout_key)

        def accumulate(total, micro_batch):
            return jax.tree.map(jnp.add, total, loss_and_gradient(params, scale, *micro_batch)), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        keys_a = jax.random.split(dropout_key, micro_batches)
        total, _ = jax.lax.scan(accumulate, zero, (*masked, keys_a))
        return jax.tree.map(lambda value: value / micro_batches, total)

    def update(params, optimizer_state, gradient):
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state

    def train_step(state, tokens_abt, key):
        mask_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        masked = (tokens_abt, *draw_masks(mask_key, tokens_abt))
        scale = None if state.loss_scale is None else state.loss_scale.scale
        loss, gradient = mean_loss_and_gradient(state.params, scale, masked, dropout_key)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
        # jnp.where over the results would keep the old and the new state in memory
        params, optimizer_state = jax.lax.cond(
            finite, update, lambda params, optimizer_state, _: (params, optimizer_state), *state[:2], gradient
        )
        loss_scale = None if scale is None else next_loss_scale(state.loss_scale, finite)
        state = TrainState(params, optimizer_state, state.step + 1, loss_scale)
        return state, jnp.where(finite, loss, jnp.nan)

    return jax.jit(train_step, donate_argnums=0)


def state_shapes(
    config: bert.BertConfig, optimizer: optax.GradientTransformation, *, dtype=jnp.float32
) -> TrainState:
    """Return the state before the first step as `jax.ShapeDtypeStruct`s."""

    def first_state():
        return initial_state(bert.init_params(config, jax.random.key(0)), optimizer, dtype=dtype)

    return jax.eval_shape(first_state)


def compile_step(
    config: bert.BertConfig,
    optimizer: optax.GradientTransformation,
    mask_id: int,
    shape_abt: tuple[int, int, int],
    *,
    random_pieces: int | None = None,
    dtype=jnp.float32,
    scan: Callable = jax.lax.scan,
) -> jax.stages.Compiled:
    """Compile the step that `make_train_step` makes, for tokens of `shape_abt`; no array is materialised."""
    state = state_shapes(config, optimizer, dtype=dtype)
    tokens_abt = jax.ShapeDtypeStruct(shape_abt, jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    train_step = make_train_step(
        config, optimizer, mask_id, random_pieces=random_pieces, dtype=dtype, scan=scan
    )
    return train_step.lower(state, tokens_abt, key).compile()


def compiled_peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Return arguments + outputs + temporaries - aliased bytes of a compiled call.

    Deterministic and defined on every platform, unlike a run-time peak.
    """
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
