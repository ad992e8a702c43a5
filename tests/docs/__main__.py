"""``python -m tests.docs``: write the pages that are made from the code."""

from tests.docs.reference import write_all

write_all()
