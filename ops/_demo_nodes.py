"""The demo's nodes: real processes, started with ``aegis run`` as anybody would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attrs import define, field

from aegis.contracts import Role
from aegis.errors import ConfigurationError
from aegis.ops._demo_orders import SYMBOLS
from aegis.ops._ledger import ACCOUNTS, BOOKS, PRICING
from aegis.ops._node_processes import NodeProcess

__all__ = ["Node", "account_names", "make_nodes"]


@define(eq=False)
class Node(NodeProcess):
    """One process that runs one service; may be killed and started again."""

    service: str = field(kw_only=True)
    target: str = field(kw_only=True)
    resources: list[str] = field(kw_only=True)
    role: Role = field(kw_only=True, default=Role.ACTIVE)

    async def start(self) -> None:
        """Start the process; does not wait until it serves."""
        arguments = ["run", self.target, "--instance-id", self.name, "--role", self.role]
        arguments += ["--data-dir", str(self.folder / "server")]
        arguments += ["--log-level", "warning", "--log-format", "json"]
        for resource in self.resources:
            arguments += ["--resource", resource]
        self.arguments = arguments
        await super().start()

    def is_partner(self, other: Node) -> bool:
        """Whether the other one holds the same resources: one active, one standing by."""
        return other is not self and other.resources == self.resources != []


def account_names(count: int) -> list[str]:
    """Return the accounts of the demo."""
    return [f"ACC-{number:02}" for number in range(1, count + 1)]


def make_nodes(folder: Path, accounts: list[str]) -> list[Node]:
    """Return the nodes of the demo's exchange; none is started yet.

    Accounts and order books have an active node and one that stands by; pricing keeps no
    state, so its two nodes are both at work.
    """
    trading = examples_folder() / "trading"

    def node(name: str, service: str, target: str, resources: list[str], role: Role) -> Node:
        file = str(trading / target)
        return Node(name, [], folder, service=service, target=file, resources=resources, role=role)

    nodes: list[Node] = []
    for number, role in enumerate((Role.ACTIVE, Role.STANDBY), 1):
        nodes += [
            node(f"accounts-{number}", ACCOUNTS, "accounts.py:Account", accounts, role),
            node(f"order-books-{number}", BOOKS, "order_book.py:OrderBook", list(SYMBOLS), role),
            node(f"pricing-{number}", PRICING, "pricing.py:Pricing", [], Role.ACTIVE),
        ]
    return nodes


def examples_folder() -> Path:
    """Return where the example services are.

    Raises:
        ConfigurationError: this installation has none.
    """
    for folder in _candidates():
        if (folder / "trading" / "order_book.py").is_file():
            return folder
    raise ConfigurationError(
        "the demo's services (examples/trading) are not installed here; run it from a checkout"
    )


def _candidates() -> Iterator[Path]:
    # In a checkout this file is ops/_demo_nodes.py, beside examples/.
    here = Path(__file__).resolve().parent.parent
    yield here / "examples"
    # Installed, it is aegis/ops/_demo_nodes.py. A wheel may carry the examples in a folder
    # that is no package, so that they are still imported as `examples`.
    yield here / "_demo" / "examples"
