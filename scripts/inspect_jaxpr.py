"""Look inside a function: the same as `python -m bwsk_jax.inspect`, which says what it takes."""

from bwsk_jax.inspect import main as main
from bwsk_jax.inspect import run

if __name__ == "__main__":
    run()
