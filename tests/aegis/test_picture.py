"""The picture of a system that has more than one page of resources."""

from __future__ import annotations

from aegis._inspect import Inspector
from aegis.actors._registration import MAX_PAGE
from aegis.ops._admin_views import tree_view
from tests.support.services import Vault
from tests.support.system import Backend, System

NAMES = [f"V-{number:04}" for number in range(MAX_PAGE // 2 + 1)]


def test_of_many_resources_the_first_of_each_instance_are_asked_for() -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Vault, NAMES), instance_id="one")
        await system.start_node((Vault, NAMES), instance_id="two", role="standby")
        asked = await system.overhear("ipc.resource.query")
        inspector = Inspector(system.transport, system.subjects)
        tree = tree_view(await inspector.picture(held=3), 3)
        assert len(asked) == 2, "one page for each instance"
        (service,) = tree.services
        assert [one.left_out for one in service.instances] == [len(NAMES) - 3] * 2
        for one, role in zip(service.instances, ("active", "standby"), strict=True):
            assert [held.resource_id for held in one.held] == NAMES[:3]
            assert {held.role for held in one.held} == {role}
            assert {held.state for held in one.held} == {"running"}
        whole = await inspector.picture()
        assert [one["resource_id"] for one in whole.resources] == NAMES
        assert (await inspector.picture(held=0)).resources == []

    async def run(system: System) -> None:
        await scenario(system)

    Backend(None).run(run)
