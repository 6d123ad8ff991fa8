"""Reversible backpropagation for any JAX model."""
