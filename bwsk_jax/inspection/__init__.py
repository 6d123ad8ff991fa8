"""What `scripts/inspect_jaxpr.py` shows: S and K of a function, its plan, its frontier."""
