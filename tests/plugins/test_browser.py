"""The page in a real browser, on a real Airflow: every view and action, and a viewer who may change nothing."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.plugins import page_airflow

pytestmark = [pytest.mark.airflow, pytest.mark.e2e]

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SYNCS = "/plugin/reverse-etl"
CONTACTS = f"{SYNCS}/syncs/contacts_to_crm"
#: Folder that receives pictures of the page, for the docs: scripts/pictures sets it.
PICTURES = os.environ.get("PAGE_PICTURES")
PATIENCE = 120_000
RECORDS = "https://crm.example.com/contacts"

#: Contrasts of the page that are lower than WCAG's AA asks: of a text 4.5, of a shape or the edge of a control 3.
LOW_CONTRAST = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    context.clearRect(0, 0, 1, 1); context.fillStyle = text; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const found = rgba(getComputedStyle(one).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255, 255];
  };
  const low = [];
  const check = (what, color, back, least) => {
    const [one, two] = [light(rgba(color)), light(back)].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (two + 0.05);
    if (contrast < least) low.push(`${what.slice(0, 40)}: ${contrast.toFixed(2)}`);
  };
  for (const one of document.querySelectorAll("main.re-page *")) {
    const style = getComputedStyle(one);
    const text = [...one.childNodes].filter((node) => node.nodeType === 3).map((node) => node.textContent).join("");
    if (text.trim() && !one.closest("option, style, title")) {
      const box = one.matches("svg text") && one.parentElement.querySelector("rect");
      if (box) check(text, style.fill, rgba(getComputedStyle(box).fill), 4.5);
      else check(text, style.color, behind(one), 4.5);
    }
    if (one.placeholder) check(one.placeholder, getComputedStyle(one, "::placeholder").color, behind(one), 4.5);
    const around = behind(one.parentElement);
    if (one.matches(".re-dot")) check("dot", style.backgroundColor, around, 3);
    if (one.matches("button, select, input[type=search]")) check(`edge of ${text}`, style.borderTopColor, around, 3);
    if (one.matches("svg rect, svg path[stroke]")) {
      const color = style.stroke === "none" ? style.fill : style.stroke;
      check(`shape in ${one.parentElement.textContent}`, color, around, 3);
    }
    if (one === document.activeElement) check("outline of the focus", style.outlineColor, around, 3);
  }
  return low;
}"""
#: What has the keyboard's focus: its name, and whether its outline is seen.
FOCUSED = """() => {
  const one = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(one);
  const seen = one.matches(":focus-visible") && outlineStyle === "solid" && parseFloat(outlineWidth) >= 2;
  return [one.getAttribute("aria-label") || one.textContent.trim(), seen];
}"""
#: Names of what a keyboard reaches, if it has none.
UNNAMED = """() => [...document.querySelectorAll("main.re-page :is(button, a, input, select, svg, [tabindex])")]
  .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim()))
  .map((one) => one.outerHTML.slice(0, 80))"""


class Visit:
    """A user's visit to the page."""

    def __init__(self, page: Any, base: str) -> None:
        self.page = page
        self.base = base
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def login(self, user: str) -> None:
        self.page.goto(f"{self.base}/")
        self.page.fill("input[name=username]", user)
        self.page.fill("input[name=password]", user)
        self.page.press("input[name=password]", "Enter")
        self.page.wait_for_url(lambda url: "login" not in url)

    def open(self, path: str, until: str) -> None:
        self.page.goto(self.base + path)
        self.see(until)

    def see(self, text: str) -> None:
        self.page.locator("main.re-page").get_by_text(text).first.wait_for(timeout=PATIENCE, state="attached")

    def text(self) -> str:
        return str(self.page.locator("main.re-page").inner_text())

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).first.click()

    def confirm(self, name: str) -> None:
        self.press(name)
        self.page.get_by_role("alertdialog").get_by_role("button", name=name, exact=True).click()

    def buttons(self) -> set[str]:
        return set(self.page.locator("main.re-page button").all_inner_texts())

    def tab_to(self, name: str, *, back: bool = False) -> None:
        """Press the tab key until the control of that name has the focus. Each one on the way shows that it has it."""
        for _ in range(80):
            self.page.keyboard.press("Shift+Tab" if back else "Tab")
            focused, seen = self.page.evaluate(FOCUSED)
            if self.page.evaluate("document.activeElement.closest('main.re-page') !== null"):
                assert seen, f"the focus on {focused!r} is not seen"
            if focused == name:
                return
        pytest.fail(f"the tab key does not reach {name!r}")

    def has_focus(self, name: str) -> None:
        focused, _ = self.page.evaluate(FOCUSED)
        assert focused == name

    def check_contrast(self) -> None:
        assert self.page.evaluate(LOW_CONTRAST) == []
        assert self.page.evaluate(UNNAMED) == []

    def check_width(self) -> None:
        """Make the window as narrow as a phone. Only tables and the picture may be scrolled to the side."""
        self.page.set_viewport_size({"width": 400, "height": 800})
        for part in ("main.re-page", ":root"):
            assert self.page.locator(part).evaluate("one => one.scrollWidth <= window.innerWidth")

    def picture(self, name: str) -> None:
        """Keep a picture for the docs, if the script asks for it."""
        self.check_contrast()
        if PICTURES:
            self.page.screenshot(path=f"{PICTURES}/{name}.png")


@contextmanager
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("needs Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def visitor(chromium: Any, base: str, user: str) -> Iterator[Visit]:
    page = chromium.new_page(viewport={"width": 1280, "height": 800}, timezone_id="UTC", locale="en-GB")
    visit = Visit(page, base)
    visit.login(user)
    yield visit
    assert visit.errors == []
    page.close()


@pytest.mark.long
def test_the_page_shows_a_sync_and_obeys_a_keyboard(tmp_path: Path) -> None:
    """The shortest way through the page, in both themes. The test of the whole page is slow."""
    with (
        browser() as chromium,
        page_airflow.running(tmp_path, records=RECORDS, approval=False) as (_, base),
        visitor(chromium, base, "ada") as visit,
    ):
        _needs_no_mouse(visit)
        _links_to_the_records(visit)
        _fits_each_theme_and_a_phone(visit)


@pytest.mark.slow
def test_the_page(tmp_path: Path) -> None:
    """Behind a prefix, with 500 syncs beside those in every state."""
    with browser() as chromium, page_airflow.running(tmp_path, prefix="/air", many=500) as (_, base):
        for check in (_lists_all_syncs, _acts_on_a_sync, _shows_others):
            with visitor(chromium, base, "ada") as visit:
                check(visit)
        with visitor(chromium, base, "eve") as visit:
            _lets_a_viewer_look(visit)
        with visitor(chromium, base, "ada") as visit:
            _fits_a_phone(visit)
        with visitor(chromium, base, "ada") as visit:
            _follows_theme_and_language(visit)


@pytest.mark.slow
def test_the_tutorial(tmp_path: Path) -> None:
    """The form of its connection, and the graph of its DAG, in Airflow's own pages."""
    with browser() as chromium, page_airflow.tutorial(tmp_path) as base, visitor(chromium, base, "ada") as visit:
        visit.page.set_default_timeout(PATIENCE)
        _shows_the_form(visit)
        _shows_the_graph(visit)


def _shows_the_form(visit: Visit) -> None:
    page = visit.page
    page.goto(f"{visit.base}/connections")
    page.get_by_role("button", name="Add Connection").first.click()
    page.get_by_role("combobox").last.click()
    page.keyboard.type("HubSpot")
    page.get_by_text("HubSpot (Reverse ETL)").first.wait_for()
    page.keyboard.press("Enter")
    page.get_by_text("Access token").first.wait_for()
    form = page.get_by_role("dialog")
    form.locator("input").first.fill("hubspot")
    if PICTURES:
        form.screenshot(path=f"{PICTURES}/connection.png")


def _shows_the_graph(visit: Visit) -> None:
    page = visit.page
    page.set_viewport_size({"width": 900, "height": 460})
    page.goto(f"{visit.base}/dags/activate_contacts")
    page.get_by_role("button", name="Show Graph").click()
    page.get_by_role("button", name="Collapse Details Panel").click()
    for task in ("models", "dbt_build", "contacts"):
        page.locator(".react-flow__node").get_by_text(task, exact=True).wait_for()
    page.add_style_tag(content=".react-flow__minimap { display: none }")  # it covers a task
    page.wait_for_timeout(1_000)  # the panel moves out of the way
    page.locator(".react-flow__controls-fitview").click()
    page.wait_for_timeout(2_000)  # the graph moves into its place
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/graph.png")


def _needs_no_mouse(visit: Visit) -> None:
    keyboard = visit.page.keyboard
    visit.open(SYNCS, "4 of 4 syncs")
    visit.tab_to("Search syncs")
    keyboard.type("crm")
    visit.see("1 of 4 syncs")
    visit.tab_to("contacts_to_crm")
    keyboard.press("Enter")
    visit.see("5 rejected")
    for text in ("model, built, 3 tests passed", "source, getting stale", "BIGINT"):
        assert text in visit.page.locator("main.re-page").text_content()
    visit.tab_to("Full resync")
    keyboard.press("Enter")
    visit.see("Sends every valid row again.")
    visit.has_focus("Full resync")
    visit.tab_to("Cancel")
    keyboard.press("Escape")
    visit.has_focus("Full resync")
    assert visit.page.get_by_role("alertdialog").count() == 0
    visit.tab_to("Preview", back=True)
    keyboard.press("Enter")
    visit.see("Preview: 0 rows would be sent.")
    visit.has_focus("Preview")
    visit.tab_to("model customers")
    visit.tab_to("Mapping")


def _links_to_the_records(visit: Visit) -> None:
    """From the button, and from the box of the destination."""
    page = visit.page
    page.context.route(f"{RECORDS}**", lambda route: route.fulfill(body="the records"))
    for name in ("Records at the destination", "destination contacts_to_crm"):
        with page.expect_popup() as opened:
            page.get_by_label(name).or_(page.get_by_role("link", name=name)).first.click()
        opened.value.wait_for_url(RECORDS)
        opened.value.close()


def _fits_each_theme_and_a_phone(visit: Visit) -> None:
    for path, text in (
        (SYNCS, "4 of 4 syncs"),
        (CONTACTS, "Guards and policy"),
        (f"{SYNCS}/syncs/invoices_to_erp", "Its log"),
    ):
        visit.open(path, text)
        for theme in ("light", "dark"):
            visit.page.evaluate("theme => { document.documentElement.className = theme }", theme)
            visit.check_contrast()
        visit.check_width()


def _lists_all_syncs(visit: Visit) -> None:
    page = visit.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/v2/" in request.url else None)
    visit.open(SYNCS, "504 of 504 syncs")
    text = visit.text()
    for word in ("failing", "attention", "running", "never run", "paused"):
        assert word in text
    assert page.locator("main.re-page tbody tr").count() == 50
    # No request for a row: six answers with 100 assets, and a few of the other kinds.
    assert len([url for url in asked if "/assets?" in url]) == 6
    assert len([url for url in asked if re.search(r"assets/events|taskInstances|/dags\?", url)]) <= 6
    visit.press("Show 50 more")
    assert page.locator("main.re-page tbody tr").count() == 100
    page.get_by_label("Search syncs").fill("erp")
    visit.see("1 of 504 syncs")
    page.get_by_label("Search syncs").fill("nothing like it")
    visit.see("No sync fits the filters.")
    page.get_by_label("Search syncs").fill("")
    page.get_by_label("Filter by DAG").select_option("many_3")
    visit.see("100 of 504 syncs")
    page.get_by_label("Filter by DAG").select_option("")
    page.set_viewport_size({"width": 1280, "height": 420})
    visit.picture("syncs")


def _acts_on_a_sync(visit: Visit) -> None:
    page = visit.page
    page.set_viewport_size({"width": 1280, "height": 1030})
    visit.open(CONTACTS, "5 rejected")
    # From the state store of the asset, or before Airflow 3.3 from XCom.
    visit.see("attention since")
    for text in ("model, built, 3 tests passed", "source, getting stale", "BIGINT"):
        assert text in page.locator("main.re-page").text_content()
    visit.press("List rejected rows")
    visit.see("Listed in")
    assert "wrong_value" in visit.text()
    file = page.locator("main.re-page svg a[aria-label='model customers']").get_attribute("href")
    assert file == "https://git.example.com/acme/shop/blob/8c1f2d90ab34/models/customers.sql"
    page.get_by_label("Choose rejected row 14").check()
    visit.press("Dismiss 1 chosen")
    visit.see("1 rejection dismissed in")
    visit.see("dismissed")
    visit.picture("sync")
    visit.press("Preview")
    visit.see("Preview: 0 rows would be sent.")
    visit.press("Release all")
    visit.see("5 rejections released in")
    visit.see("No rejected row")
    visit.confirm("Full resync")
    visit.see("Full resync: 34 rows accepted, 5 rejected, 0 invalid. It took")
    # The row of the run names the DAG that did it.
    visit.see("reverse_etl_maintenance")
    visit.press("Run now")
    visit.see("Run now: the DAG people ended with success. It took")
    visit.see("The sync has run since this list was made.")
    # A link inside the page does not load it again.
    page.evaluate("window.kept = true")
    started = time.monotonic()
    page.get_by_role("link", name="All syncs").click()
    page.locator("main.re-page tbody tr").nth(49).wait_for()
    seconds = time.monotonic() - started
    # A second on an idle machine.
    assert seconds < 4, seconds
    if PICTURES:
        print(f"50 rows after {seconds:.2f} seconds")
    assert page.evaluate("window.kept")


def _shows_others(visit: Visit) -> None:
    visit.open(f"{SYNCS}/syncs/invoices_to_erp", "Its log")
    assert "missing" in visit.text()
    visit.open(f"{SYNCS}/syncs/never_ran", "No commit yet.")
    visit.open(f"{SYNCS}/syncs/sync_0_00", "The DAG many_0 is paused")
    visit.open(f"{SYNCS}/syncs/nothing", "No DAG has a sync named nothing")
    visit.open(f"{SYNCS}/syncs/prices_to_shop", "Approve or reject this plan")
    visit.page.get_by_role("link", name="Approve or reject this plan").click()
    visit.page.get_by_text("Send 39 changes of prices_to_shop").first.wait_for(timeout=PATIENCE)


def _lets_a_viewer_look(visit: Visit) -> None:
    visit.open(CONTACTS, "More actions need the right to edit people and reverse_etl_maintenance.")
    assert visit.buttons() == set()
    assert "p7@x.org" not in visit.text()
    status = visit.page.evaluate(
        """async () => (await fetch(document.baseURI + "api/v2/dags/reverse_etl_maintenance/dagRuns", {
            method: "POST", headers: { "Content-Type": "application/json" },
            body: JSON.stringify({ logical_date: null, conf: { sync: "contacts_to_crm", action: "reset" } }),
        })).status"""
    )
    assert status == 403


def _fits_a_phone(visit: Visit) -> None:
    for path, text in ((SYNCS, "504 of 504 syncs"), (CONTACTS, "Guards and policy")):
        visit.open(path, text)
        visit.check_width()
    # A long text is read without scrolling to the side.
    words = visit.page.get_by_role("table", name="Reasons").get_by_role("cell").last.bounding_box()
    assert words["x"] + words["width"] <= 400
    visit.picture("phone")


def _follows_theme_and_language(visit: Visit) -> None:
    visit.page.evaluate("localStorage.setItem('theme', 'dark'); localStorage.setItem('i18nextLng', 'de')")
    visit.page.set_viewport_size({"width": 1280, "height": 700})
    visit.open(CONTACTS, "Guards and policy")
    assert re.search(r"\d\d\.\d\d\.\d{4}, \d\d:\d\d", visit.text())
    visit.picture("dark")
