"""Carries every acknowledged entry to a broker that speaks Pulsar's protocol, once, over links that come and go.

The rules, and what Apache Pulsar was seen to do without them, are in `docs/replication.md`.
"""
