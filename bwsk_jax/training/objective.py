"""The masked-language-model loss.

Axes: B windows, T positions, H hidden, M masked positions per window, V vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bwsk_jax import bert
from bwsk_jax.training.masking import mask_tokens


def masked_lm_loss(
    config: bert.BertConfig,
    params,
    tokens_bt: jax.Array,
    positions_bm: jax.Array,
    substitutes: int | jax.Array,
    *,
    dropout_key: jax.Array | None = None,
    dtype=jnp.float32,
    scan: Callable = jax.lax.scan,
) -> jax.Array:
    """Return float32 [B]: each window's mean cross-entropy, in nats, over its masked positions.

    What the model sees there are the `substitutes`: ids [B, M], or one id for all. The head runs on the M
    gathered positions only. Without `dropout_key` nothing is dropped. `scan` is how the encoder goes through
    its layers, and must compute what `jax.lax.scan` computes.
    """
    inputs_bt, labels_bm = mask_tokens(tokens_bt, positions_bm, substitutes)
    hidden_bth = bert.encode(config, params, inputs_bt, dropout_key=dropout_key, dtype=dtype, scan=scan)
    hidden_bmh = jnp.take_along_axis(hidden_bth, positions_bm[..., None], axis=1)
    logits_bmv = bert.predict(config, params, hidden_bmh)
    return optax.softmax_cross_entropy_with_integer_labels(logits_bmv, labels_bm).mean(axis=-1)
