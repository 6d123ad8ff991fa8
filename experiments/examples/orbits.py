"""A differential equation is learnt: which force has moved a cloud of particles?

    python -m experiments.examples.orbits

Claim: a leapfrog integrator is solved backwards by its own steps, so that nothing is kept of any of them.
The steps of an orbit are iterations of one scan that share their parameters: x' = v, v' = f(x), where f is
the gradient of a small network. The truth is a spring.
Expected: at least memory, the temporaries do not grow with the number of steps (`--layers`).
Cost: about half a minute on two cores.
"""

import jax
import jax.numpy as jnp

from experiments.examples.comparison import arguments, compare, normal

PARTICLES, DIMENSIONS, WIDTH, STEP = 1024, 8, 64, 0.1


def energy(params, x):
    """Return the potential energy of all particles together."""
    return (jax.nn.softplus(x @ params["into"]) @ params["out"]).sum()


def orbit(scan, force, start, steps):
    """Return positions and velocities after so many steps of kick, drift, kick."""

    def advance(state, _):
        x, v = state
        v = v + STEP / 2 * force(x)
        x = x + STEP * v
        return (x, v + STEP / 2 * force(x)), None

    (x, v), _ = scan(advance, start, jnp.arange(steps))
    return x, v


def main() -> None:
    """Train and print the table."""
    flags = arguments(__doc__)
    steps = 4 * flags.layers

    def loss(scan, params, start):
        x, v = orbit(scan, lambda x: -jax.grad(energy, 1)(params, x), start, steps)
        true_x, true_v = orbit(jax.lax.scan, lambda x: -x, start, steps)
        return ((x - true_x) ** 2).mean() + ((v - true_v) ** 2).mean()

    keys = iter(jax.random.split(jax.random.key(0), 2 + 2 * flags.steps))
    params = {"into": normal(next(keys), DIMENSIONS, WIDTH), "out": 0.1 * normal(next(keys), WIDTH, 1)}
    draw = lambda: jax.random.normal(next(keys), (PARTICLES, DIMENSIONS))
    compare(f"leapfrog, {steps} steps", loss, params, [(draw(), draw()) for _ in range(flags.steps)])


if __name__ == "__main__":
    main()
