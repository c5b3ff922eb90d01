"""Views of the journal: catalogue, cursors, producers and keyed state, in SQLite as of a journal position."""

# The log owns its views and imports them; whoever imports this package first must find the log whole.
import gateway.log  # noqa: F401
