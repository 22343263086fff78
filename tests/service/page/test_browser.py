"""The page in a real browser: what a person sees and can do, with a mouse, keys or a reader."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from model_store import ModelStore, Rollout
from tests.service.page.conftest import SHOTS, Shown, Watched, serve
from tests.service.page.stores import grow
from tests.service.systems import png, publish
from tests.service.waiting import eventually

Browse = Callable[..., Watched]
VIEWS = ("map", "tasks", "try")
IMAGE = {"name": "a.png", "mimeType": "image/png", "buffer": png(1)}
LOOKS = (("wide", "light"), ("narrow", "light"), ("narrow", "dark"), ("wide", "dark"))
SIZES = {"wide": {"width": 1280, "height": 800}, "narrow": {"width": 400, "height": 800}}


def counted(page: Page, tasks: str) -> None:
    """Waits until all tasks are there."""
    expect(page.locator("#state")).to_have_text(re.compile(rf"^{tasks} tasks( · \d+ failed)?$"))


def look_over(page: Page, view: str) -> None:
    """Screenshots of a view, and axe-core's findings: none."""
    for size, colours in LOOKS:
        page.set_viewport_size(SIZES[size])
        page.emulate_media(color_scheme=colours)
        page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=SHOTS / f"{view}-{size}-{colours}.png", full_page=True)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("view", VIEWS)
def test_everybody_can_use_each_view(browse: Browse, shown: Shown, view: str) -> None:
    page = browse(shown, bypass_csp=True).open(f"/#{view}")  # which would keep axe-core out, too
    counted(page, "3")
    if view == "try":
        page.locator(".choices input").first.check()
        page.set_input_files("#files", [IMAGE])
        expect(page.locator(".times")).to_be_visible()
    elif view == "map":
        expect(page.locator(".paths .row")).to_have_count(3)
    look_over(page, view)


def test_an_image_is_answered_for_several_tasks_in_one_request(
    browse: Browse, shown: Shown
) -> None:
    window = browse(shown)
    asked: list[str] = []
    window.page.on("request", lambda one: asked.append(one.url) if one.method == "POST" else None)
    page = window.open("/#try")
    counted(page, "3")
    for task in ("leaves", "group/digits"):
        page.get_by_role("checkbox", name=task).check()
    page.set_input_files("#files", [IMAGE, {**IMAGE, "name": "b.png"}])
    for card in page.locator(".card").all():
        expect(card.locator("h2").filter(has_text="leaves")).to_contain_text("version 1")
        expect(card.locator(".bars").nth(1)).to_be_visible()
        expect(card.locator(".times")).to_contain_text("ms in the gateway")
    assert [url.partition("?")[2] for url in asked] == ["task=leaves&task=group%2Fdigits"] * 2
    page.get_by_text("The same call in a program").click()
    expect(page.locator(".codes")).to_contain_text("/classify?task=leaves&task=group%2Fdigits")


def test_a_new_task_appears_and_glows_without_a_reload(browse: Browse, shown: Shown) -> None:
    page = browse(shown).open("/#map")
    counted(page, "3")
    publish(shown.store, "new/one")
    row = page.locator(".row.fresh")
    expect(row).to_have_attribute("aria-label", re.compile("^new/one, cold"))
    shown.store.rm("new/one")
    expect(row).to_have_count(0)
    counted(page, "3")


def test_the_map_can_be_read_with_the_keyboard(browse: Browse, shown: Shown) -> None:
    page = browse(shown).open("/#map")
    counted(page, "3")
    page.locator(".paths [tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    focused = page.locator(".paths :focus")
    expect(focused).to_have_attribute("aria-label", re.compile("^patches: .*, shared by 3 tasks"))
    page.keyboard.press("Enter")
    expect(page.locator(".details h2")).to_have_text("patches")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator(".details")).to_contain_text("Lineage")


def test_an_admin_loads_and_unloads_after_being_asked_back(browse: Browse, shown: Shown) -> None:
    page = browse(shown).open("/#tasks:leaves")
    expect(page.locator(".more")).to_contain_text("v1")
    expect(page.get_by_role("button", name=re.compile("^(Load|Unload)$"))).to_have_count(0)
    page.get_by_role("button", name="Token", exact=True).click()
    page.get_by_label("Token", exact=True).fill("b")
    page.get_by_role("button", name="Use").click()
    expect(page.locator(".commands")).to_contain_text("munet store alias 'leaves' stable 1")
    for name in ("Load", "Unload"):
        act = page.get_by_role("button", name=name, exact=True)
        if name == "Load" and not act.count():  # it is in memory already
            continue
        act.click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("logged with the token's name")
        dialog.get_by_role("button", name=name).click()
        expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Load", exact=True)).to_be_visible()


def test_what_failed_comes_first_and_says_why(browse: Browse, shown: Shown) -> None:
    window = browse(shown, strict=False)  # the browser reports the answer 503
    page = window.open("/#try:torn")
    page.set_input_files("#files", [IMAGE])
    expect(page.locator(".card .reason")).to_contain_text("torn")
    expect(page.locator("#state")).to_have_text("3 tasks · 1 failed")
    page.get_by_role("link", name="Tasks").click()
    first = page.locator("tbody tr").first
    expect(first).to_contain_text("torn")
    first.get_by_role("button").click()
    expect(page.locator(".more .reason")).to_contain_text("sha256:")


def test_a_roll_out_is_shown_next_to_the_live_version(browse: Browse, shown: Shown) -> None:
    store, rollouts = shown.store, shown.app.state.runtime.catalog.rollouts
    publish(store, "rolled")
    publish(store, "rolled", own={"head": 2})
    store.rollback("rolled", 1)
    store.alias("rolled", "canary", 2, Rollout(shadow=True))
    page = browse(shown, bypass_csp=True).open("/#try:rolled")
    page.set_input_files("#files", [IMAGE])
    expect(page.locator(".card")).to_contain_text("version 1")
    eventually(lambda: any(one.slot.path for one in rollouts.active.get("rolled", ())))
    page.set_input_files("#files", [IMAGE])
    eventually(lambda: rollouts.numbers("rolled")["canary"]["compared"])
    page.get_by_role("link", name="Tasks").click()
    page.locator("tbody tr").filter(has_text="rolled").get_by_role("button").click()
    table = page.get_by_role("region", name="Roll-outs")
    expect(table).to_contain_text("canary, v2")
    expect(table).to_contain_text("a copy of the rest")
    expect(table).to_contain_text(re.compile("live [12], shadow 1"))
    expect(table).to_contain_text("% of 1")
    look_over(page, "rollout")
    store.rm("rolled")


def test_a_token_without_read_is_told_so(browse: Browse, shown: Shown) -> None:
    window = browse(shown, strict=False)  # the browser reports the answer 403
    page = window.open("/")
    counted(page, "3")
    page.get_by_role("button", name="Token", exact=True).click()
    page.get_by_label("Token", exact=True).fill("s")
    page.get_by_role("button", name="Use").click()
    expect(page.locator("#token-why")).to_contain_text("shop may not read")
    page.get_by_role("button", name="Forget").click()
    counted(page, "3")


def test_the_calls_are_described_for_people_too(browse: Browse, shown: Shown) -> None:
    page = browse(shown).open("/docs")
    expect(page.get_by_text("Classify an image for several tasks")).to_be_visible()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Shown]:
    """10,000 tasks, in memory if that is to be had: to publish them takes minutes on a disk."""
    memory = Path("/dev/shm")
    folder = tmp_path_factory.mktemp("large")
    place = (memory if memory.is_dir() else folder) / folder.name
    try:
        store = ModelStore(place, create=True)
        grow(store, 10_000)
        yield from serve(store, compilations)
    finally:
        shutil.rmtree(place)


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
def test_each_view_shows_10_000_tasks(browse: Browse, large: Shown, view: str) -> None:
    page = browse(large).open(f"/#{view}")
    expect(page.locator("#state")).to_have_text("10,000 tasks", timeout=600_000)
    search = page.locator("main input[type=search]")
    search.fill("plants/set-00006")
    shown = {"map": ".row", "tasks": "tbody tr", "try": ".choices li"}[view]
    expect(page.locator(shown)).to_have_count(1)
    search.fill("")
    expect(page.locator(shown).nth(1)).to_be_visible()
    assert page.locator(shown).count() <= 60
    page.screenshot(path=SHOTS / f"{view}-10000.png")
