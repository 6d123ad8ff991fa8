"""Pure JAX: trace, plan, and run a backward pass that inverts. Knows no model and imports no Flax."""
