"""A seeded simulation of the whole system: the production code on hosts of its own.

Nodes, supervisors and callers run here as they are, over the in-memory twin of NATS and on
virtual time (`aegis.transport._virtual_hosts`). Around them stands what may go wrong:
hosts are killed, frozen and cut off, messages are lost and late, the server restarts, the
store refuses, clocks drift and jump. One seed is one schedule. A checker sees every record
that is stored and every call from outside, and tests the promises at each step; once the
faults have stopped, everything must work again in bounded time.
``python -m tests.simulation --system --help`` runs many.
"""
