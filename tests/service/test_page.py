"""The page at / and /docs, in a real browser before a real server."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Page, Route, expect

from tests.service.browser import chromium
from tests.service.flowers import FLOWERS, draw
from tests.service.images import encoded
from tests.service.server import ROOT, Server, serving
from tests.service.test_errors import PNG_HEADER_OF_10_GIGAPIXELS

MODEL: Final = ROOT / "models" / "flowers17.onnx"
AXE: Final = (files("axe_playwright_python") / "axe.min.js").read_text()
NARROW: Final = {"width": 360, "height": 740}
WIDE: Final = {"width": 1280, "height": 860}
KEY: Final = "the-key-of-the-tests"
LIMIT: Final = 60_000  # bytes, of the guarded server
# What a card could try: markup, a script's address, a picture from elsewhere.
NASTY: Final = """# Card <img src=x onerror="document.title='broken'">

<script>document.title = "broken"</script> and [press](javascript:document.title='broken') and
[a page](https://example.org/a) and [a file](../README.md), `code <b>`, **strong**.

- one
- two <i>

| kind | right |
|---|---|
| <u>a</u> | 9 % |

```
curl <b>
```
"""
Start = Callable[..., Page]
expect.set_options(timeout=20_000)  # ms; on a machine that does other things too


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "stderr"
    with serving(log, MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two models, one with a nasty card; wants a key; takes little."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "models").mkdir()
    for name, card in (("first", "# A model for tests\n"), ("second", NASTY)):
        shutil.copy(MODEL, folder / "models" / f"{name}.onnx")
        (folder / "models" / f"{name}.md").write_text(card)
    keys = folder / "keys"
    keys.write_text(hashlib.sha256(KEY.encode()).hexdigest())
    settings = {"models": folder / "models", "api_keys_file": keys, "max_body_bytes": LIMIT}
    with serving(folder / "stderr", None, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def pictures(site: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every flower, a corrupt file, one that is no picture; `sure` and `unsure` by what the server says."""
    folder = tmp_path_factory.mktemp("pictures")
    found: dict[str, Path] = {}
    for name in FLOWERS:
        found[name] = folder / f"{name}.jpg"
        found[name].write_bytes(encoded(draw(name)))
        best = ask(site, found[name])["predictions"][0]["probability"]
        found["sure" if best >= 0.5 else "unsure"] = found[name]
    assert {"sure", "unsure"} <= found.keys(), "the model is sure of all the flowers drawn, or of none"
    found["corrupt"] = folder / "corrupt.jpg"
    found["corrupt"].write_bytes(found["daisy"].read_bytes()[:3000])
    found["text"] = folder / "letter.txt"
    found["text"].write_text("no picture")
    return found


@pytest.fixture
def start(browser: Browser) -> Iterator[Start]:
    """Opens a page in a context of its own. In the end: nothing was asked of anybody else, nothing broke
    the page's policy, no script failed.
    """
    opened: list[BrowserContext] = []
    wrong: list[str] = []

    def start(server: Server, path: str = "/", **options: Any) -> Page:
        options = {"viewport": WIDE, "reduced_motion": "reduce", **options}
        context = browser.new_context(**options)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        context.on("request", lambda request: _check(request.url, server.address))
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("console", lambda message: _console(message.type, message.text))
        page.goto(server.address + path)
        return page

    def _check(url: str, address: str) -> None:
        if urlsplit(url).scheme not in {"blob", "data"} and not url.startswith(f"{address}/"):
            wrong.append(f"asked {url}")

    def _console(kind: str, text: str) -> None:
        # The browser reports answers of 4xx and 5xx by itself; the page says them in words.
        expected = re.match(r"Failed to load resource: (the server responded|net::ERR_INTERNET_DIS)", text)
        if kind in {"error", "warning"} and not expected:
            wrong.append(f"{kind}: {text}")

    yield start
    for context in opened:
        context.close()
    assert not wrong


def ask(server: Server, picture: Path) -> dict[str, Any]:
    answer: dict[str, Any] = server.client.post("/predict", files={"file": picture.read_bytes()}).json()
    return answer


def small(name: str) -> FilePayload:
    data = encoded(draw(name).resize((90, 78)), "PNG")
    return {"name": f"{name}.png", "mimeType": "image/png", "buffer": data}


def shown(label: str) -> re.Pattern[str]:
    return re.compile(re.escape(label.replace("_", " ")), re.IGNORECASE)


def check_accessible(page: Page) -> None:
    """axe-core's rules, WCAG and good practice, in both themes, which differ in contrast alone; and nothing
    is wider than the window.
    """
    page.evaluate(AXE)
    everything = {"resultTypes": ["violations"]}
    contrasts = everything | {"runOnly": ["color-contrast"]}
    for scheme, options in (("light", everything), ("dark", contrasts)):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
        found = page.evaluate("(options) => axe.run(options).then(({violations}) => violations)", options)
        assert not found, scheme + json.dumps(
            [(v["id"], [(n["html"], n["failureSummary"]) for n in v["nodes"]]) for v in found], indent=1
        )
    assert page.viewport_size  # not innerWidth, which grows on a phone that zooms out to show all
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


# ---------------------------------------------------------------- what the server sends


def test_files_are_revalidated_and_under_a_strict_policy(site: Server) -> None:
    page = site.client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'name="max-body-bytes" content="20000000"' in page.text
    names = [path.name for path in (ROOT / "service" / "static").iterdir()]
    for path in ["/", "/docs", *(f"/static/{name}" for name in names if not name.endswith(".html"))]:
        response = site.client.get(path, headers={"Accept-Encoding": "identity"})
        assert response.status_code == 200, path
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-cache"
        head = site.client.head(path, headers={"Accept-Encoding": "identity"})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == response.headers["etag"]

        squeezed = site.client.get(path, headers={"Accept-Encoding": "gzip"})
        assert squeezed.headers["content-encoding"] == "gzip"
        assert squeezed.content == response.content
        assert squeezed.headers["etag"] != response.headers["etag"]

        again = site.client.get(
            path, headers={"Accept-Encoding": "identity", "If-None-Match": response.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/static/nothing.js", "/static/index.html", "/static/../app.py", "/static/"]
)
def test_nothing_else_is_a_file(site: Server, path: str) -> None:
    assert site.client.get(path).json()["code"] == "not_found"


def test_docs_come_from_here(site: Server, start: Start) -> None:
    page = start(site, "/docs")
    page.get_by_text("/predict", exact=True).click()
    expect(page.locator(".responses-table").first).to_be_visible()


# ---------------------------------------------------------------- one picture


def test_a_picture_is_picked(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    expect(page.locator("#lead")).to_contain_text("17 kinds")
    page.set_input_files("#files", pictures["sure"])
    answer = ask(site, pictures["sure"])
    first, second = answer["predictions"][:2]

    expect(page.locator("#answer")).to_have_text(shown(first["label"]))
    rows = page.locator(".bars li")
    expect(rows).to_have_count(5)
    for row, prediction in zip(rows.all(), answer["predictions"], strict=True):
        expect(row.locator(".label")).to_have_text(shown(prediction["label"]))
        said = row.locator(".value").inner_text().replace("\u202f", "").removesuffix("%")
        assert float(said) == pytest.approx(prediction["probability"] * 100, abs=0.06)
    expect(page.locator(".timing")).to_contain_text(re.compile(r"Answered in \d[\d.]*\sms"))
    for stage in ("decode", "queue", "inference"):
        expect(page.locator(".timing")).to_contain_text(re.compile(rf"{stage}\s*\d[\d.]*\sms"))
    expect(page.locator("figcaption").first).to_contain_text(re.compile("600 . 520, JPEG"))
    assert page.locator(".photo").evaluate("image => image.naturalWidth") == 600
    expect(page.locator("#say")).to_contain_text(shown(first["label"]))
    expect(page.locator("#say")).to_contain_text(shown(second["label"]))
    expect(page.locator(".hint")).to_have_count(0)
    check_accessible(page)


def test_a_picture_is_picked_before_the_models_are_known(
    site: Server, start: Start, pictures: dict[str, Path]
) -> None:
    page = start(site, "/health")
    held: list[Route] = []
    page.route("**/models", lambda route: held.append(route))
    page.goto(site.address + "/")
    page.set_input_files("#files", pictures["daisy"])
    expect(page.locator("#lead")).to_have_text("One moment.")
    held[0].continue_()
    expect(page.locator("#answer")).to_have_text("daisy")


def test_a_doubtful_answer_says_so(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.set_input_files("#files", pictures["unsure"])
    expect(page.locator(".hint")).to_contain_text("The model is unsure.")
    expect(page.locator(".hint")).to_contain_text("a flower even for a cat")
    expect(page.locator("#say")).to_contain_text("The model is unsure.")
    check_accessible(page)


def test_a_picture_is_dropped(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    expect(page.locator("#files")).to_be_enabled()
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(pictures["daisy"])], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 500, "data": data})
        if kind == "dragOver":
            expect(page.locator("body")).to_have_class(re.compile("dragging"))
    expect(page.locator("#answer")).to_have_text(
        shown(ask(site, pictures["daisy"])["predictions"][0]["label"])
    )
    expect(page.locator("body")).not_to_have_class(re.compile("dragging"))


def test_a_picture_is_pasted(site: Server, start: Start) -> None:
    page = start(site, permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#files")).to_be_enabled()
    page.evaluate(
        """async (bytes) => {
            const picture = new Blob([new Uint8Array(bytes)], {type: "image/png"});
            await navigator.clipboard.write([new ClipboardItem({"image/png": picture})]);
        }""",
        list(encoded(draw("dandelion").resize((60, 52)), "PNG")),
    )
    page.keyboard.press("Control+V")
    expect(page.locator(".bars li")).to_have_count(5)
    expect(page.locator("figcaption").first).to_contain_text(re.compile("60 . 52, PNG"))


def test_what_was_looked_at(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.set_input_files("#files", pictures["sure"])
    switch = page.get_by_role("switch", name="What it looked at")
    labels = [prediction["label"] for prediction in ask(site, pictures["sure"])["predictions"]]
    with page.expect_request(re.compile(rf"/explain\?label={labels[0]}&format=png$")):
        switch.click()
    heat = page.get_by_role("img", name=f"what speaks for {labels[0].replace('_', ' ')}")
    expect(heat).to_be_visible()
    assert heat.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [224, 224]
    whole, seen = page.locator(".frame").bounding_box(), heat.bounding_box()
    assert whole
    assert seen
    assert seen["width"] == pytest.approx(whole["height"] * 224 / 256, abs=1)
    assert seen["height"] == pytest.approx(seen["width"], abs=1)
    expect(page.locator("#say")).to_contain_text("Heat map")
    check_accessible(page)

    with page.expect_request(re.compile(rf"/explain\?label={labels[1]}&")):
        page.get_by_label("Heat map for").select_option(labels[1])
    expect(page.get_by_role("img", name=f"speaks for {labels[1].replace('_', ' ')}")).to_be_visible()

    switch.click()
    expect(page.locator(".heat")).to_have_count(0)
    expect(switch).to_have_attribute("aria-checked", "false")


def test_the_card(site: Server, start: Start) -> None:
    page = start(site)
    expect(page.get_by_role("heading", name="What it must not be used for")).to_be_visible()
    expect(page.locator("#card table").first).to_contain_text("one crop")
    (one_crop, *_others) = site.client.get("/models").json()[0]["metrics"]
    right = f"{100 * one_crop['top1']:.1f}\u202f% of {one_crop['images']} pictures"
    expect(page.locator("#facts")).to_contain_text(right)


@pytest.mark.parametrize("name", ["daisy.jpg", """it's "a" \\ daisy; no, (two).jpg"""])
def test_the_curl_line_does_the_same(
    site: Server, start: Start, pictures: dict[str, Path], tmp_path: Path, name: str
) -> None:
    picture = tmp_path / name
    picture.write_bytes(pictures["daisy"].read_bytes())
    page = start(site, permissions=["clipboard-read", "clipboard-write"])
    page.set_input_files("#files", picture)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    line = page.evaluate("navigator.clipboard.readText()")
    out = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=True).stdout
    assert json.loads(out)["predictions"] == ask(site, picture)["predictions"]


# ---------------------------------------------------------------- errors, in words


def test_a_corrupt_picture(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.set_input_files("#files", pictures["corrupt"])
    expect(page.locator("#answer")).to_have_text("This picture is damaged")
    expect(page.locator("#result")).to_contain_text("Save or download it once more.")
    expect(page.locator("#say")).to_contain_text("damaged")
    check_accessible(page)

    page.set_input_files("#files", pictures["daisy"])
    expect(page.locator(".bars li")).to_have_count(5)


def test_no_picture_at_all(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.set_input_files("#files", pictures["text"])
    expect(page.locator("#answer")).to_have_text("This is no picture that the server can read")
    expect(page.locator("#result")).to_contain_text("Save it as JPEG or PNG first.")
    expect(page.locator(".frame")).to_contain_text("cannot be shown")
    check_accessible(page)


def test_too_many_pixels(site: Server, start: Start, tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(PNG_HEADER_OF_10_GIGAPIXELS)
    page = start(site)
    page.set_input_files("#files", tmp_path / "huge.png")
    expect(page.locator("#answer")).to_have_text("This picture is too large")
    expect(page.locator("#result")).to_contain_text("100000x100000")
    expect(page.locator("#result")).to_contain_text("Choose a smaller copy of it.")


def test_the_server_is_gone_and_comes_back(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    expect(page.locator("#files")).to_be_enabled()
    page.context.set_offline(True)
    page.set_input_files("#files", pictures["daisy"])
    expect(page.locator("#answer")).to_have_text("The server cannot be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".bars li")).to_have_count(5)


def test_a_busy_server_is_asked_again(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    refused: list[bool] = []

    def once(route: Route) -> None:
        if refused:
            route.continue_()
        else:
            refused.append(True)
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"code": "overloaded"})

    page = start(site)
    page.route("**/predict", once)
    page.set_input_files("#files", pictures["daisy"])
    expect(page.locator(".kicker")).to_have_text("The server is busy; asking again in 1 s.")
    expect(page.locator(".bars li")).to_have_count(5)


# ---------------------------------------------------------------- several pictures


def test_several_pictures_make_a_grid(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    chosen = [
        pictures[name] for name in ("daisy", "corrupt", "unsure", "sunflower", "bluebell", "dandelion")
    ]
    page = start(site)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/predict" in request.url else None)
    page.set_input_files("#files", chosen)
    tiles = page.locator(".tile")
    expect(tiles).to_have_count(6)
    expect(page.locator(".tile .value")).to_have_count(5)
    for tile, picture in zip(tiles.all(), chosen, strict=True):
        expect(tile).to_contain_text(picture.name)
        if picture != pictures["corrupt"]:
            expect(tile).to_contain_text(shown(ask(site, picture)["predictions"][0]["label"]))
    expect(tiles.nth(1)).to_contain_text("This picture is damaged")
    expect(tiles.nth(2)).to_contain_text("unsure")
    expect(page.locator("#say")).to_contain_text("5 of 6 pictures answered, 1 not")
    expect(page.locator("#progress")).to_be_hidden()
    assert len(asked) == 6
    check_accessible(page)

    tiles.nth(3).get_by_role("button").press("Enter")
    expect(page.locator("#answer")).to_be_focused()
    expect(page.locator(".bars li")).to_have_count(5)
    check_accessible(page)
    page.get_by_role("button", name="All pictures").click()
    expect(tiles.nth(3).get_by_role("button")).to_be_focused()
    assert len(asked) == 6, "what is known is not asked again"


# ---------------------------------------------------------------- hands, eyes, windows


def test_narrow_with_touch(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site, viewport=NARROW, has_touch=True, is_mobile=True)
    camera = page.get_by_label("Take a photograph")
    expect(camera).to_be_visible()
    assert camera.get_attribute("capture") == "environment"
    expect(page.locator("#card h3")).to_be_visible()
    check_accessible(page)

    camera.set_input_files(pictures["sure"])
    expect(page.locator(".bars li")).to_have_count(5)
    answer = page.locator("#answer").bounding_box()
    assert answer
    assert answer["y"] + answer["height"] < NARROW["height"], "seen without scrolling"
    check_accessible(page)
    for control in page.locator("button:visible, select:visible, .pick:visible").all():
        box = control.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 24, "WCAG 2.2, target size"

    page.set_input_files("#files", [pictures["daisy"], pictures["corrupt"], pictures["unsure"]])
    expect(page.locator(".tile .value")).to_have_count(2)
    check_accessible(page)


def test_the_camera_is_offered_to_touch_alone(site: Server, start: Start) -> None:
    page = start(site)
    expect(page.locator("#card h3")).to_be_visible()
    expect(page.locator("#camera")).to_be_hidden()
    check_accessible(page)


def test_by_keyboard_alone(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.on("filechooser", lambda chooser: chooser.set_files(pictures["sure"]))
    expect(page.locator("#files")).to_be_enabled()

    def tab_to(what: str) -> None:
        """By Tab, and every stop on the way shows that it has the focus."""
        for _ in range(12):
            page.keyboard.press("Tab")
            visible = page.evaluate(
                """() => {
                    const here = document.activeElement;
                    const outlined = here.type === "file" ? here.labels[0] : here;
                    return getComputedStyle(outlined).outlineStyle !== "none";
                }"""
            )
            assert visible, page.evaluate("document.activeElement.outerHTML")
            if page.evaluate("what => document.activeElement.matches(what)", what):
                return
        raise AssertionError(f"no way to {what}")

    tab_to("#theme")
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    tab_to("#files")
    page.keyboard.press("Enter")
    expect(page.locator(".bars li")).to_have_count(5)
    tab_to(".switch")
    page.keyboard.press("Space")
    expect(page.locator(".heat")).to_be_visible()
    tab_to(".looked select")
    tab_to(".curl button")
    page.keyboard.press("Enter")
    expect(page.locator("#say")).to_contain_text("curl line")
    tab_to(".curl pre")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_is_the_system_s_until_one_is_chosen(site: Server, start: Start, system: str) -> None:
    page = start(site, color_scheme=system)
    other = {"light": "dark", "dark": "light"}[system]
    papers = {"light": "rgb(251, 250, 246)", "dark": "rgb(21, 22, 19)"}
    expect(page.locator("body")).to_have_css("background-color", papers[system])
    button = page.get_by_role("button", name="Dark theme")
    expect(button).to_have_attribute("aria-pressed", str(system == "dark").lower())
    button.click()
    expect(page.locator("body")).to_have_css("background-color", papers[other])
    page.reload()
    expect(page.locator("body")).to_have_css("background-color", papers[other])


# ---------------------------------------------------------------- keys, models, a card that tries things


def test_a_key_is_asked_for_and_kept_in_the_tab(guarded: Server, start: Start) -> None:
    page = start(guarded)
    field = page.get_by_label("API key")
    expect(field).to_be_visible()
    expect(page.locator("#drop")).to_be_hidden()
    check_accessible(page)

    field.fill("schlüssel")
    field.press("Enter")
    expect(page.locator("#key-wrong")).to_contain_text("accents")
    field.fill("a wrong one")
    field.press("Enter")
    expect(page.locator("#key-wrong")).to_contain_text("does not know this key")
    check_accessible(page)

    field.fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(field).to_be_hidden()
    expect(page.locator("#files")).to_be_focused()
    assert page.evaluate("[sessionStorage.length, JSON.stringify(localStorage), document.cookie]") == [
        1,
        "{}",
        "",
    ]

    page.locator("#files").set_input_files(small("daisy"))
    expect(page.locator(".bars li")).to_have_count(5)
    line = page.locator(".curl code").inner_text()
    assert '"Authorization: Bearer $API_KEY"' in line
    assert KEY not in page.content()

    page.get_by_role("button", name="Forget key").click()
    expect(field).to_be_visible()
    expect(page.locator("#result")).to_be_hidden()
    assert page.evaluate("sessionStorage.length") == 0


@pytest.fixture
def admitted(guarded: Server, start: Start) -> Page:
    page = start(guarded)
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("API key").press("Enter")
    expect(page.locator("#files")).to_be_enabled()
    return page


def test_the_filters_of_the_first_layer(admitted: Page) -> None:
    """With a key: an address alone, as of a plain picture, would not get them."""
    picture = admitted.get_by_role("img", name=re.compile("first convolution"))
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 0
    check_accessible(admitted)


def test_a_file_above_the_limit_is_not_sent(admitted: Page) -> None:
    asked: list[str] = []
    admitted.on("request", lambda request: asked.append(request.url))
    admitted.set_input_files(
        "#files", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": bytes(LIMIT + 1)}
    )
    expect(admitted.locator("#answer")).to_have_text("This file is too large")
    expect(admitted.locator("#result")).to_contain_text("the server takes 60 kB at most")
    assert not [url for url in asked if "/predict" in url]


def test_a_model_is_chosen(admitted: Page) -> None:
    choice = admitted.get_by_role("combobox", name="Model")
    expect(choice.locator("option")).to_have_text(["first", "second"])
    picture = small("red")
    choice.select_option("second")
    with admitted.expect_request(re.compile(r"/predict\?model=second$")):
        admitted.set_input_files("#files", picture)
    with admitted.expect_request(re.compile(r"/predict\?model=first$")):
        choice.select_option("first")
    expect(admitted.locator("#card")).to_have_text("A model for tests")
    expect(admitted.locator(".curl code")).to_contain_text("/predict?model=first'")
    check_accessible(admitted)


def test_a_card_is_text_whatever_it_says(admitted: Page) -> None:
    admitted.get_by_role("combobox", name="Model").select_option("second")
    card = admitted.locator("#card")
    expect(card.locator("h3")).to_have_text("""Card <img src=x onerror="document.title='broken'">""")
    expect(card).to_contain_text('<script>document.title = "broken"</script>')
    assert card.locator("script, img, i, u, b").count() == 0
    assert [a.get_attribute("href") for a in card.locator("a").all()] == ["https://example.org/a"]
    expect(card.locator("li")).to_have_text(["one", "two <i>"])
    expect(card.locator("th")).to_have_text(["kind", "right"])
    expect(card.locator("td")).to_have_text(["<u>a</u>", "9 %"])
    expect(card.locator("pre")).to_have_text("curl <b>")
    expect(card.locator("strong")).to_have_text("strong")
    assert "broken" not in admitted.title()
    check_accessible(admitted)
