"""The door: the only way to topics for connectors, functions, replication, tiering control, fleet and page."""
