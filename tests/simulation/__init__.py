"""A seeded simulation of owners, callers and their append store, in virtual time.

The protocol core runs here as it is; around it stand a network that loses, copies,
delays and reorders, a store with the semantics of JetStream, and processes that crash
and pause. One seed is one schedule. A checker that sees every accepted append and every
answer tests the promises at each step. ``python -m tests.simulation --help`` runs many.
"""
