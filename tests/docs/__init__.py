"""Tests that keep the documents true: their snippets run, their claims name tests that exist.

``python -m tests.docs`` writes the pages that are made from the code.
"""
