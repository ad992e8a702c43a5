"""Runnable services and clients; the tests run them."""
