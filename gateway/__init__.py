"""Headwater: an event gateway for small Linux machines at the edge.

`docs/ARCHITECTURE.md` shows the floors of this package and the way of a message through them.
"""

__version__ = "0.1.0"
