"""What the model computes in, by the name it has as a flag."""

import jax.numpy as jnp

DTYPES = {"float32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}
