"""A node's tree of actors as plain maps, cut so that it fits a message."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from aegis.actors._supervisor import TreeNode

__all__ = ["MAX_SHOWN_CHILDREN", "shown_tree"]

MAX_SHOWN_CHILDREN: Final = 2_000
"""How many children of each supervisor are told at most."""

_BYTES_EACH: Final = 120
"""What an actor takes besides its address, which may be long; a little too much."""


def shown_tree(root: TreeNode, *, most: int, max_bytes: int) -> dict[str, Any]:
    """Return the tree with at most so many actors below each supervisor: the first by name.

    ``left_out`` says of each how many more it has. They are fewer if all together would
    take more than ``max_bytes``. Supervisors, of which there are few, are all told.
    """
    while most > 1 and _bytes(root, most) > max_bytes:
        most //= 2
    return _map(root, most)


def _first(node: TreeNode, most: int) -> list[TreeNode]:
    children = sorted(node.children, key=lambda child: child.address)
    actors = (child for child in children if child.kind == "actor")
    last = next(islice(actors, most, None), None)
    if last is None:
        return children[:MAX_SHOWN_CHILDREN]
    shown = [one for one in children if one.kind != "actor" or one.address < last.address]
    return shown[:MAX_SHOWN_CHILDREN]


def _bytes(node: TreeNode, most: int) -> int:
    size = _BYTES_EACH + len(node.address)
    return size + sum(_bytes(child, most) for child in _first(node, most))


def _map(node: TreeNode, most: int) -> dict[str, Any]:
    shown = _first(node, most)
    return {
        "address": node.address,
        "kind": node.kind,
        "state": node.state,
        "restarts": node.restarts,
        "depth": node.mailbox_depth,
        "processed": node.processed,
        "children": [_map(child, most) for child in shown],
        "left_out": len(node.children) - len(shown),
    }
