"""The demo, and what it is made of: a small registry, an image of this machine, and the hops it tells.

`registry` and `image` are the tests' as well. `scene` runs everything; it is imported when the demo runs.
"""
