"""What the doctor says of high availability: who could take over, and how it would be noticed."""

from __future__ import annotations

from typing import Any

import pytest

from aegis.ops import _doctor, _doctor_mail, _doctor_server
from aegis.ops._doctor_host import FAIL, OK, WARN
from aegis.ops._doctor_mail import Unclaimed
from aegis.transport import NatsTransport
from tests.support.mail_services import Book
from tests.support.nats import NatsServer
from tests.support.system import Backend, System


def resource(name: str, *states: str) -> dict[str, Any]:
    standbys = [{"instance_id": f"b-{i}", "state": state} for i, state in enumerate(states)]
    return {"service_name": "account", "resource_id": name, "standbys": standbys}


def test_resources_without_a_healthy_standby_are_counted_and_one_is_named() -> None:
    resources = [
        resource("A-1", "healthy"),
        resource("A-2"),
        resource("A-3", "unhealthy"),
        resource("A-4", "unhealthy", "healthy"),
    ]
    (check,) = _doctor._standbys(resources)
    assert (check.status, check.found) == (WARN, "2 of 4 resources have none, as account/A-2")
    assert "--role standby" in check.advice
    (check,) = _doctor._standbys(resources[:1])
    assert check.status == OK
    assert _doctor._standbys([]) == []


@pytest.mark.parametrize(
    ("names", "status", "found"),
    [
        ([], WARN, "nobody can lead: nothing fails over"),
        (["n-1"], WARN, "n-1 alone can lead: without it nothing fails over"),
        (["n-1", "n-2"], OK, "2 nodes can lead"),
    ],
)
def test_a_single_candidate_to_lead_is_a_warning(names: list[str], status: str, found: str) -> None:
    check = _doctor._candidates(names)
    assert check.status == status
    assert check.found.startswith(found)
    assert ("--supervisor-only" in check.advice) == (status == WARN)


def test_without_the_system_account_the_death_of_a_node_is_noticed_by_timeout_only() -> None:
    check = _doctor_server._system_account(None)
    assert check.status == WARN
    assert "by timeout only" in check.found
    assert "--system-user" in check.advice


@pytest.mark.parametrize(
    ("replicas", "lagging", "clustered", "status", "found"),
    [
        (1, [], False, OK, "1"),
        (1, [], True, WARN, "1, on a cluster of servers"),
        (3, [], True, OK, "3"),
        (3, ["s-2"], True, FAIL, "3, of which s-2 cannot be reached or trail behind"),
    ],
)
def test_replicas_are_judged_by_the_servers_there_are(
    replicas: int, lagging: list[str], clustered: bool, status: str, found: str
) -> None:
    peers = [{"name": name, "current": name not in lagging} for name in ("s-1", "s-2")]
    cluster = {"replicas": peers if replicas > 1 else []}
    info = {"cluster": "three"} if clustered else {}
    check = _doctor_server._replicas({"num_replicas": replicas}, cluster, info)
    assert (check.status, check.found) == (status, found)


def test_messages_for_what_nobody_has_ever_owned_are_counted_with_the_oldest_age() -> None:
    check = _doctor_mail.judge([])
    assert check.status == OK
    many = [Unclaimed(f"nobody/N-{number}", 2, 7200.0) for number in range(7)]
    check = _doctor_mail.judge(many)
    assert check.status == WARN
    assert check.found.startswith("14 messages wait for what nobody has ever owned: nobody/N-0 ")
    assert "nobody/N-4 (2, the oldest 2 h old), and 2 more" in check.found
    assert "start an owner" in check.advice
    check = _doctor_mail.judge([Unclaimed("nobody/N-1", 1, 59.0)])
    assert check.found.startswith("1 message waits")
    assert check.found.endswith("nobody/N-1 (1, the oldest 59 s old)")
    assert "3 d old" in _doctor_mail.judge([Unclaimed("a/b", 1, 3 * 86_400)]).found


def test_a_send_to_a_service_that_nobody_ever_registered_is_kept_and_listed(
    nats_server: NatsServer,
) -> None:
    async def scenario(system: System) -> None:
        assert isinstance(system.transport, NatsTransport)
        assert await _doctor_mail.mail(system.transport, system.subjects) == []
        await system.start_node((Book, ["B-1"]))
        read = await system.cluster.send(Book, "note", {"line": "read"}, resource_id="B-1")
        await system.cluster.result(read)
        await system.cluster.send(Book, "note", {"line": "a"}, resource_id="B/2")
        kept = await system.cluster.send(Book, "note", {"line": "b"}, resource_id="B/2")
        await system.cluster.send("nobody", "note", {"line": "x"}, resource_id="N-1")
        (check,) = await _doctor_mail.mail(system.transport, system.subjects)
        assert check.status == WARN
        assert "3 messages wait for what nobody has ever owned: book/B/2 (2, the" in check.found
        assert "nobody/N-1 (1, the oldest 0 s old)" in check.found
        await system.start_node((Book, ["B/2"]))
        assert await system.cluster.result(kept) == 2
        (check,) = await _doctor_mail.mail(system.transport, system.subjects)
        assert check.found.startswith("1 message waits")

    Backend(nats_server.url).run(scenario)
