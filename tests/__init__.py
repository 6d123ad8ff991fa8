"""Tests of bwsk_jax; a package, so that they can import `tests.support`."""
