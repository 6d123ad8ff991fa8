"""What `python -m bwsk_jax.inspect` shows: S and K of a function, its plan, and its frontier.

`options` are the flags, `subject` is what they ask to look at, and `show` goes from one to the other. Three
files find things out: `differences` compares the two taxonomies, `value_sources` says how a plan has each
value, and `meetings` where devices meet in a step of training. Three places present what was found: `text`
for a terminal, `document` as JSON for other programs, and `page` as one page of HTML for a browser.
"""
