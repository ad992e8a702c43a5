"""Aegis: an actor runtime over NATS that neither loses nor repeats a message."""
