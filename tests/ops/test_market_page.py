"""The market page in a real browser: feeds that say what the test wants, over real nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen
from playwright.sync_api import Browser, Page, expect

from aegis import Role
from aegis.marketdata._page_view import MARKET_PAGE, page_view
from aegis.ops._admin_pages import STATIC
from aegis.transport._ports import free_port
from tests.ops.browser import chromium, open_page
from tests.ops.test_live_page import serious
from tests.support.http import ask
from tests.support.node_process import NodeProcess

TOKEN = "a-token-that-nobody-guesses"
PAGE = "/pages/market"

SERVICE = '''
import json
import time
from pathlib import Path
from typing import Any

from aegis import AegisActor, query
from aegis.marketdata._page_view import MARKET_PAGE

class Feed(AegisActor):
    """Tells what stands in a file, with ticks that go on."""

    service = "feed"
    admin_page = MARKET_PAGE

    @query
    async def market_page(self) -> dict[str, Any]:
        told = json.loads(Path(f"{self.instance_id}.json").read_text())
        since = int(50 * (time.time() - told.pop("since")))
        told["news"] += 6 * since
        told["sample"][0] += 6 * since
        for exchange in told["exchanges"]:
            exchange["news"] += since
        return told
'''

pytestmark = pytest.mark.timeout(180)


def exchange(name: str, **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "exchange": name,
        "phase": "open",
        "wanted": 200,
        "covered": 200,
        "ratio": 1.0,
        "missing": [],
        "missing_count": 0,
        "stalled": [],
        "stalled_count": 0,
        "silent": False,
        "quiet_seconds": 0.2,
    }
    return plain | changes


@define
class Facts:
    """The owner of a gateway, as the page sees it."""

    feed: str
    role: Role = Role.STANDBY
    epoch: int = 0
    restarts: int = 0
    status: dict[str, Any] = field(factory=dict[str, Any])
    failure: dict[str, Any] | None = None
    state: str = "ready"
    alive: bool = True
    pid: int | None = 4711
    calendar_days_left: int | None = None

    def figures(self) -> dict[str, Any]:
        return {"ticks": {one["exchange"]: {"published": 0} for one in self.status["exchanges"]}}


def facts(feed: str, *exchanges: dict[str, Any], **changes: Any) -> Facts:
    publishes = feed == "a"
    reports = [*exchanges] or [exchange(name) for name in ("CZCE", "DCE", "SHFE")]
    status = {
        "state": "ready",
        "publishing": publishes,
        "lag_p50": 0.004,
        "lag_p99": 0.031,
        "contracts": 1100,
        "disconnects": 0,
        "bridge": {"depth": 3},
        "exchanges": reports,
    }
    known = Facts(feed, Role.ACTIVE if publishes else Role.STANDBY, 7 if publishes else 0)
    known.status = status | changes
    known.state = str(known.status["state"])
    return known


WELL = facts("a")
ILL = facts(
    "a",
    exchange(
        "CZCE",
        covered=150,
        ratio=0.75,
        missing=[f"CZCE.SR{701 + n}" for n in range(50)],
        missing_count=50,
    ),
    exchange("DCE", silent=True, quiet_seconds=31.0),
    exchange("SHFE", stalled=["SHFE.rb2701"], stalled_count=1),
    lag_p99=4.2,
)
NOT_READY = facts("b", state="connecting", failure={"reason": "no front answers"})


@frozen
class Site:
    """Two feeds, each with its page; the second wants a token."""

    folder: Path
    port: int
    guarded: int
    second: NodeProcess

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell(self, *feeds: Facts) -> None:
        """Let feeds say something else from now on."""
        for one in feeds:
            path = self.folder / f"{one.feed}.json"
            path.with_suffix(".new").write_text(json.dumps({**page_view(one), "since": 0}))
            path.with_suffix(".new").replace(path)


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    folder = tmp_path_factory.mktemp("market")
    (folder / "feeds.py").write_text(SERVICE)
    environ = {"AEGIS_DATA_DIR": str(folder / "nats"), "AEGIS_LOG_FORMAT": "json"}
    ports = [free_port(), free_port()]
    started: list[NodeProcess] = []
    try:
        for name, port in zip("ab", ports, strict=True):
            more = {"AEGIS_ADMIN_TOKEN": TOKEN} if name == "b" else {}
            arguments = f"feeds.py:Feed --instance-id {name} --admin-port {port}"
            node = NodeProcess(arguments, folder=folder, environ=environ | more)
            started.append(node)
            node.wait_event("node_started")
        yield Site(folder, ports[0], ports[1], started[1])
    finally:
        for node in reversed(started):
            node.end()


@pytest.fixture(autouse=True)
def all_well(site: Site) -> None:
    site.tell(WELL, facts("b"))


def settled(page: Page) -> Page:
    """Wait until the page has all of both feeds, and rates of them."""
    expect(page.locator("#head .stream")).to_contain_text("live")
    expect(page.locator("#feeds tbody tr")).to_have_count(2)
    expect(page.locator("#exchanges tbody tr")).to_have_count(3)
    rate = page.locator("#feeds tbody tr").first.locator("td.number").first
    expect(rate).to_have_text(re.compile(r"^(29|30|31)\d$"))
    return page


def test_the_page_shows_feeds_and_exchanges_without_an_error_or_another_site(
    site: Site, browser: Browser
) -> None:
    with open_page(browser, site.origin, PAGE) as watched:
        page = settled(watched.page)
        expect(page.locator("#problems h2")).to_have_text("All well: a publishes, 1 feed stands by")
        first, second = page.locator("#feeds tbody tr").all()
        expect(first).to_contain_text("publishes")
        expect(first).to_contain_text("31 ms")
        expect(second).to_contain_text("standby")
        shfe = page.locator("#exchanges tbody tr").filter(has_text="SHFE")
        expect(shfe).to_contain_text("100 % 200 of 200")
        expect(shfe.locator("td.number").first).to_have_text(re.compile(r"^(49|50|51)"))
        expect(page.locator("#charts canvas")).to_have_count(3)
        # The rate of the samples, which the server keeps, is that of the last seconds, too.
        expect(page.locator("#charts b").first).to_have_text(re.compile(r"^(2[5-9]|3[0-5])\d$"))
        expect(page.locator("#contracts")).to_contain_text("None.")
        page.get_by_role("link", name="System").click()
        expect(page.get_by_role("link", name="Market")).to_have_attribute("href", PAGE)
        assert watched.errors == []
        assert watched.elsewhere == []


def test_what_is_wrong_stands_first_and_is_named(site: Site, browser: Browser) -> None:
    with open_page(browser, site.origin, PAGE) as watched:
        page = settled(watched.page)
        site.tell(ILL, NOT_READY)
        problems = page.locator("#problems")
        expect(problems.locator("h2")).to_have_text("3 things must be looked at now")
        texts = problems.locator("li").all_inner_texts()
        assert ["critical" in text for text in texts] == [True, True, True, False, False]
        expect(problems).to_contain_text("a: CZCE: 50 of 200 contracts are missing (75.0% covered)")
        expect(problems).to_contain_text("a: DCE: no tick for 31 s though it is open")
        expect(problems).to_contain_text(
            "b could not take over: it is connecting: no front answers"
        )
        expect(page.locator("#exchanges tbody tr").filter(has_text="DCE")).to_contain_text("silent")
        contracts = page.locator("#contracts")
        expect(contracts).to_contain_text("50 missing at CZCE")
        expect(contracts).to_contain_text("SR701")
        expect(contracts).to_contain_text("and 20 more")
        expect(contracts).to_contain_text("rb2701")
        assert serious(page) == []
        assert watched.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_it_can_be_read_on_any_screen_and_by_everybody(
    site: Site, browser: Browser, scheme: str, width: int, height: int
) -> None:
    site.tell(ILL, NOT_READY)
    with open_page(browser, site.origin, PAGE, width=width, height=height) as watched:
        page = watched.page
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")
        assert serious(page) == []


def test_it_can_be_used_by_keyboard_alone(site: Site, browser: Browser) -> None:
    site.tell(facts("b", exchange("DCE", covered=0, ratio=0.0, phase="break", missing_count=200)))
    with open_page(browser, site.origin, PAGE) as watched:
        page = settled(watched.page)
        page.keyboard.press("Tab")
        expect(page.get_by_text("To what is wrong")).to_be_focused()
        choice = page.get_by_label("Whose view of the exchanges")
        for _ in range(6):
            page.keyboard.press("Tab")
            if choice.evaluate("one => one === document.activeElement"):
                break
        expect(choice).to_be_focused()
        assert choice.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        page.keyboard.press("b")
        expect(page.locator("#exchanges tbody tr")).to_have_count(1)
        expect(page.locator("#exchanges h2")).to_contain_text("as b has them")
        # It is another's view: what is wrong stays what is wrong with the feed that publishes.
        expect(page.locator("#problems h2")).to_contain_text("All well")


def test_a_page_without_facts_needs_no_token_and_what_it_tells_does(site: Site) -> None:
    assert ask(site.guarded, PAGE).status == 200
    assert ask(site.guarded, f"{PAGE}/market.js").media_type == "text/javascript"
    assert ask(site.guarded, f"{PAGE}/../../etc/passwd").status == 404
    assert ask(site.guarded, "/pages/other").status == 404
    for path in ("/api/v1/admin/pages", "/api/v1/admin/pages/market/live"):
        assert ask(site.guarded, path).status == 401
    links = ask(site.port, "/api/v1/admin/pages").json
    assert links == {"pages": [{"name": "market", "title": "Market", "path": PAGE}]}
    assert ask(site.port, "/api/v1/admin/pages/markt/live").json["near"] == ["market"]


@pytest.mark.parametrize("path", sorted(MARKET_PAGE.folder.iterdir()), ids=lambda path: path.name)
def test_its_files_refer_to_nothing_elsewhere_and_to_nothing_that_is_not_there(path: Path) -> None:
    text = path.read_text()
    assert "http://" not in text
    assert "https://" not in text
    for start, folder in (("/static/", STATIC), (f"{PAGE}/", MARKET_PAGE.folder)):
        for part in text.split(f'"{start}')[1:]:
            assert (folder / part.partition('"')[0]).is_file(), part


# -- what changes: last --------------------------------------------------------------------


def test_a_feed_that_is_gone_is_missed(site: Site, browser: Browser) -> None:
    with open_page(browser, site.origin, PAGE) as watched:
        page = settled(watched.page)
        site.second.process.kill()
        expect(page.locator("#problems")).to_contain_text("No feed stands by.")
        expect(page.locator("#feeds tbody tr")).to_have_count(1)
        assert watched.errors == []
