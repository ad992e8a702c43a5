"""The tree of actors that a node tells of itself, when it has many."""

from __future__ import annotations

from typing import Any

from aegis._shown_tree import MAX_SHOWN_CHILDREN, shown_tree
from aegis.actors._supervisor import TreeNode
from aegis.transport._codec import encode_value

PLENTY = 100 * 1024 * 1024


def actor(address: str) -> TreeNode:
    return TreeNode(address, "actor", "running")


def system(instances: int, resources: int, name: str = "ACC") -> TreeNode:
    found: list[TreeNode] = []
    for one in range(instances):
        path = f"/services/account/acct-{one:02}"
        held = tuple(actor(f"{path}/{name}-{number:05}") for number in reversed(range(resources)))
        found.append(TreeNode(path, "supervisor", "running", children=held))
    service = TreeNode("/services/account", "supervisor", "running", children=tuple(found))
    return TreeNode("/", "supervisor", "running", children=(service,))


def instances_of(tree: dict[str, Any]) -> list[dict[str, Any]]:
    (service,) = tree["children"]
    found: list[dict[str, Any]] = service["children"]
    return found


def test_of_many_actors_the_first_by_name_are_told_and_how_many_there_are_besides() -> None:
    tree = shown_tree(system(30, 100), most=3, max_bytes=PLENTY)
    instances = instances_of(tree)
    assert len(instances) == 30, "supervisors are all told"
    for instance in instances:
        assert [one["address"][-5:] for one in instance["children"]] == ["00000", "00001", "00002"]
        assert instance["left_out"] == 97


def test_nothing_is_left_out_of_a_small_tree() -> None:
    tree = shown_tree(system(2, 5), most=MAX_SHOWN_CHILDREN, max_bytes=PLENTY)
    assert [len(one["children"]) for one in instances_of(tree)] == [5, 5]
    assert [one["left_out"] for one in instances_of(tree)] == [0, 0]


def test_a_tree_of_ten_thousand_actors_with_long_names_fits_a_message() -> None:
    limit = 512 * 1024
    tree = shown_tree(system(10, 1_000, name="A" * 200), most=MAX_SHOWN_CHILDREN, max_bytes=limit)
    assert limit / 4 < len(encode_value(tree)) <= limit
    for instance in instances_of(tree):
        assert 0 < len(instance["children"]) == 1_000 - instance["left_out"]
