"""A RevNet tells in which direction stripes run, in noisy images.

    python -m experiments.examples.images

Claim: at least memory a RevNet keeps next to nothing per layer, and learns what it learns by plain autodiff.
A layer adds to each half of the channels a convolution of the other half, so both can be taken away again
(A. Gomez et al., *The Reversible Residual Network*, 2017).
Expected: temporaries at most a fifth of plain autodiff's, and losses that agree to rounding.
Cost: about a minute on two cores.
"""

import jax
import jax.numpy as jnp

from experiments.examples.comparison import arguments, compare, normal

BATCH, SIZE, CHANNELS, DIRECTIONS = 8, 16, 16, 4


def images(key):
    """Return noisy stripes [B, Y, X, 1] and the numbers of their directions."""
    keys = jax.random.split(key, 3)
    direction = jax.random.randint(keys[0], (BATCH,), 0, DIRECTIONS)
    angle = (direction * jnp.pi / DIRECTIONS)[:, None, None]
    phase = jax.random.uniform(keys[1], (BATCH, 1, 1), maxval=2 * jnp.pi)
    y, x = jnp.mgrid[:SIZE, :SIZE][:, None]
    stripes = jnp.sin(x * jnp.cos(angle) + y * jnp.sin(angle) + phase)
    return (stripes + 0.5 * jax.random.normal(keys[2], stripes.shape))[..., None], direction


def convolved(x_byxc, kernel):
    """Return a convolution of an activation, smooth so that it needs no mask."""
    x_byxc, axes = jnp.tanh(x_byxc), ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x_byxc, kernel, (1, 1), "SAME", dimension_numbers=axes)


def layer(halves, kernels):
    """Return the halves after one coupling each."""
    a, b = halves
    a = a + convolved(b, kernels["a"])
    return (a, b + convolved(a, kernels["b"])), None


def loss(scan, params, batch):
    """Return the mean cross-entropy of the directions."""
    pixels, directions = batch
    halves = tuple(convolved(pixels, kernel) for kernel in params["into"])
    (a, b), _ = scan(layer, halves, params["layers"])
    logits = jnp.concatenate([a, b], -1).mean((1, 2)) @ params["out"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), directions[:, None], 1).mean()


def main() -> None:
    """Train and print the table."""
    flags = arguments(__doc__)
    keys = iter(jax.random.split(jax.random.key(0), 5 + flags.steps))
    kernels = lambda key, *shape: normal(key, *shape) / 3
    shape = (flags.layers, 3, 3, CHANNELS, CHANNELS)
    params = {
        "into": tuple(kernels(next(keys), 3, 3, 1, CHANNELS) for _ in range(2)),
        "layers": {half: kernels(next(keys), *shape) for half in ("a", "b")},
        "out": normal(next(keys), 2 * CHANNELS, DIRECTIONS),
    }
    compare(f"RevNet, {flags.layers} layers", loss, params, map(images, keys))


if __name__ == "__main__":
    main()
