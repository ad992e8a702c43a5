"""The live page in a real browser, over real nodes and a real NATS server."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Generator
from importlib import resources
from typing import Any

import pytest
from attrs import frozen
from playwright.sync_api import Browser, Page, expect

from aegis.transport._ports import free_port
from tests.ops.browser import chromium, open_page
from tests.support.node_process import NodeProcess
from tests.test_style import ROOT

TOKEN = "a-token-that-nobody-guesses"
RESOURCES = [f"ACC-{number}" for number in range(1, 9)]

pytestmark = pytest.mark.timeout(180)


@frozen
class Site:
    """Three nodes of one system; the last wants a token."""

    watcher: str
    guarded: str
    active: NodeProcess
    standby: NodeProcess


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "accounts.py").write_text((ROOT / "examples" / "accounts.py").read_text())
    (folder / "ids").write_text("\n".join(RESOURCES))
    environ = {"AEGIS_DATA_DIR": str(folder / "nats"), "AEGIS_LOG_FORMAT": "json"}
    watcher, guarded = free_port(), free_port()
    started: list[NodeProcess] = []

    def start(arguments: str, **more: str) -> NodeProcess:
        node = NodeProcess(arguments, folder=folder, environ={**environ, **more})
        started.append(node)
        return node

    try:
        start(f"accounts.py:Account --instance-id acct-w --admin-port {watcher}").wait_event(
            "node_started"
        )
        active = start("accounts.py:Account --instance-id acct-1 --resource @ids")
        active.wait_event("node_started")
        standby = start(
            "accounts.py:Account --instance-id acct-2 --resource @ids --role standby "
            f"--admin-port {guarded}",
            AEGIS_ADMIN_TOKEN=TOKEN,
        )
        standby.wait_event("node_started")
        yield Site(f"http://127.0.0.1:{watcher}", f"http://127.0.0.1:{guarded}", active, standby)
    finally:
        for node in reversed(started):
            node.end()


def settled(page: Page) -> Page:
    """Wait until the page has all of the system."""
    expect(page.locator("#head .stream")).to_contain_text("live")
    expect(page.locator("#instances tbody tr")).not_to_have_count(0)
    expect(page.locator("#resources tbody tr")).not_to_have_count(0)
    return page


def serious(page: Page) -> list[str]:
    """What axe finds that keeps people from using the page."""
    page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text())
    found: list[dict[str, Any]] = page.evaluate("axe.run()")["violations"]
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def test_the_page_shows_the_system_without_an_error_or_another_site(
    site: Site, browser: Browser
) -> None:
    with open_page(browser, site.watcher) as watched:
        page = settled(watched.page)
        rows = page.locator("#instances tbody tr")
        expect(rows).to_have_count(3)
        expect(rows.filter(has_text="acct-1")).to_contain_text("healthy active")
        expect(page.locator("#problems h2")).to_contain_text("All well")
        expect(page.locator("#resources tbody tr")).to_have_count(len(RESOURCES))
        first = page.locator("#resources tbody tr").first
        expect(first).to_contain_text("account/ACC-1")
        expect(first).to_contain_text("acct-2")
        expect(page.locator("#charts canvas")).to_have_count(3)
        node = page.locator("#nodes details").filter(has_text="acct-1")
        node.locator("summary").click()
        expect(node.locator("tbody tr").filter(has_text="ACC-8")).to_contain_text("running")
        assert watched.errors == []
        assert watched.elsewhere == []


def test_the_resources_are_filtered_by_the_supervisors(site: Site, browser: Browser) -> None:
    with open_page(browser, site.watcher) as watched:
        page = settled(watched.page)
        page.get_by_label("Show resources whose id contains").fill("c-7")
        expect(page.locator("#resources tbody tr")).to_have_count(1)
        expect(page.locator("#resources tbody tr")).to_contain_text("ACC-7")
        page.get_by_label("Condition").select_option("no standby")
        expect(page.locator("#resources")).to_contain_text("None matches.")
        assert watched.errors == []


# What stands on the small screen stands on the large one, too, so its colours are known there.
@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [(1280, 900, "light"), (1280, 900, "dark"), (390, 844, "light")],
)
def test_it_can_be_read_on_any_screen_and_by_everybody(
    site: Site, browser: Browser, width: int, height: int, scheme: str
) -> None:
    with open_page(browser, site.watcher, width=width, height=height) as watched:
        page = watched.page
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")
        assert serious(page) == []


def test_it_can_be_used_by_keyboard_alone(site: Site, browser: Browser) -> None:
    with open_page(browser, site.watcher) as watched:
        page = settled(watched.page)
        page.keyboard.press("Tab")
        expect(page.get_by_text("To what is wrong")).to_be_focused()
        button = page.get_by_role("button", name="Disconnect acct-1")
        for _ in range(20):
            page.keyboard.press("Tab")
            if button.evaluate("one => one === document.activeElement"):
                break
        expect(button).to_be_focused()
        assert button.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Disconnect account@acct-1?")
        expect(dialog.get_by_role("button", name="Leave it")).to_be_focused()
        assert serious(page) == []
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        # It went back to where it was asked, and nothing happened.
        expect(button).to_be_focused()
        expect(page.locator("#instances tbody tr").filter(has_text="acct-1")).to_contain_text("8")


def test_a_node_with_a_token_asks_for_it_and_keeps_it_for_the_tab_alone(
    site: Site, browser: Browser
) -> None:
    with open_page(browser, site.guarded) as watched:
        page = watched.page
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The token was wrong")
        dialog.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        settled(page)
        assert page.evaluate("sessionStorage.getItem('aegis-token')") == TOKEN
        assert page.evaluate("localStorage.length") == 0
        assert page.evaluate("document.cookie") == ""
        page.reload()
        settled(page)
        expect(page.get_by_role("dialog")).to_have_count(0)
        assert watched.elsewhere == []


def test_the_description_of_the_api_can_be_read_and_tried(site: Site, browser: Browser) -> None:
    with open_page(browser, site.watcher, "/api") as watched:
        page = watched.page
        services = page.locator("details").filter(has_text="/api/v1/admin/services").first
        services.locator("summary").click()
        services.get_by_role("button", name="Ask").click()
        expect(services.locator("form pre")).to_contain_text('"service_name": "account"')
        assert serious(page) == []
        assert watched.errors == []
        assert watched.elsewhere == []


# -- what changes: last, since the others look at the system as it was -----------------------


def test_a_page_whose_node_is_silent_says_so_and_comes_back_by_itself(
    site: Site, browser: Browser
) -> None:
    with open_page(browser, site.guarded) as watched:
        page = watched.page
        page.get_by_role("dialog").get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        settled(page)
        site.standby.process.send_signal(signal.SIGSTOP)
        try:
            stream = page.locator("#head .stream")
            expect(stream).to_contain_text("the node has fallen silent")
            expect(stream).to_contain_text("stale since")
            expect(page).to_have_title(re.compile("stale"))
            expect(page.locator("#resources tbody tr")).to_have_count(len(RESOURCES))
        finally:
            site.standby.process.send_signal(signal.SIGCONT)
        expect(stream).to_contain_text("live")
        row = page.locator("#instances tbody tr").filter(has_text="acct-2")
        expect(row).to_contain_text("healthy standby")


def test_a_killed_owner_is_seen_to_be_replaced_within_two_seconds(
    site: Site, browser: Browser
) -> None:
    with open_page(browser, site.watcher) as watched:
        page = settled(watched.page)
        expect(page.locator("#failovers")).to_contain_text("None is known")
        page.evaluate(NOTE_WHEN_SHOWN)
        killed_ms = time.time() * 1000
        site.active.process.kill()
        entry = page.locator("#failovers .log li").first
        expect(entry).to_contain_text("acct-1 → acct-2 died")
        expect(entry).to_contain_text("ACC-1, ACC-2 +6")
        assert page.evaluate("window.shownAt") - killed_ms < 2_000 * slowness()
        expect(entry.locator("svg")).to_have_attribute("aria-label", DURATIONS)
        expect(page.locator("#resources tbody tr").first).to_contain_text("acct-2")
        expect(page.locator("#problems")).to_contain_text("8 resources without a standby")
        assert page.get_by_role("log").get_attribute("aria-live") == "polite"
        assert serious(page) == []
        assert watched.errors == []


def slowness() -> float:
    """Return how many times longer all takes, as others want the processors, too."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


NOTE_WHEN_SHOWN = """
new MutationObserver(() => {
  if (document.querySelector("#failovers .log li")) window.shownAt ??= Date.now();
}).observe(document.body, { childList: true, subtree: true });
"""

DURATIONS = re.compile(r"detected .+, decided .+, fenced .+, replayed .+, covered .+")


def test_a_disconnect_asks_first_says_what_is_lost_and_tells_what_came_of_it(
    site: Site, browser: Browser
) -> None:
    with open_page(browser, site.guarded) as watched:
        page = watched.page
        page.get_by_role("dialog").get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        settled(page)
        page.get_by_role("button", name="Disconnect acct-2").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("It owns 8 resources. Without a standby")
        dialog.get_by_role("button", name="Disconnect acct-2").click()
        expect(dialog).to_contain_text("acct-2 is disconnected.")
        expect(dialog).to_contain_text("Without an owner now: ACC-1")
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_have_count(0)
