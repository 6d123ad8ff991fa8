"""One page of HTML that needs nothing else: no other file, no network; readable by day and by night.

`assemble` fills the template `page.html`. `chart` draws the frontier of memory against overhead, and
`graph` draws the equations of each body at the places that `layout` gives them.
"""

from bwsk_jax.inspection.page.assemble import page as page
