"""Networks that are reversible by construction: by plan, and as libraries have them, with inverses by hand.

`nets` has each network twice: one layer as a plain function, and its way back as one writes it by hand.
`ways` makes the gradient of a stack of layers from either. `heun` has a solver of diffrax as one more.
The program `python -m experiments.reversible_nets` compares them.
"""
