"""Mailboxes, execution, supervision, journals and ownership."""
