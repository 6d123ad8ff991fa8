"""Models of one's own, each with plain autodiff and with plans: what they keep, take and learn.

Each runs for about a minute on two cores and needs no data:

    python -m experiments.examples.images        a RevNet tells the directions of stripes
    python -m experiments.examples.transformer   pre-norm and post-norm transformers read Python's help
    python -m experiments.examples.orbits        a leapfrog integrator learns the force of a spring
"""
