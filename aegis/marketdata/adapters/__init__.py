"""Adapters: each module here knows one vendor's library, and nothing else does."""
