"""The workbook in a real browser, Chromium without a screen: JupyterLab, the book's explorers."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest
import torch
import torch.nn.functional as F

from topgap_nb import load_profile, optimum, top_gap_loss, top_k_pool
from topgap_nb.store.layout import notebooks_root, project_root

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt install chromium"),
]
# Chromium's own calls home only fail where there is no internet, and cost time.
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
SCREENS = project_root() / "runs" / "screens"
SETTINGS = {
    # Cells outside the window are taken out of the page otherwise, and cannot be looked at.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
CONNECTED = """() => {
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    const kernel = context?.session?.kernel;
    return context?.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
}"""
RUN_ALL = """() => {
    window.finished = false;
    const over = () => { window.finished = true; };
    window.jupyterapp.commands.execute('notebook:run-all-cells').then(over, over);
}"""
EXPLORERS = """
import sys

from topgap_nb import Study, attack_explorer, field_explorer, planted_explorer

study = Study("e", "smoke")
recipe = study.recipe("planted")
few = recipe.open().test.subset(range(3))
networks = {name: runs[0].model for name, runs in study.train(recipe).items()}
---
print("prefix", sys.prefix)
---
field_explorer(networks, few)
---
attack_explorer(networks, few)
---
planted_explorer(networks, recipe.data["image_size"])
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on loopback over two notebooks; gives its address and its token."""
    home = tmp_path_factory.mktemp("lab")
    tour = nbformat.read(notebooks_root() / "00_tour.ipynb", as_version=4)
    given = {"PROFILE": "smoke", **load_profile("smoke").notebooks["00_tour"]}
    for cell in tour.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
    nbformat.write(tour, home / "tour.ipynb")
    parts = [nbformat.v4.new_code_cell(part.strip()) for part in EXPLORERS.split("---")]
    nbformat.write(nbformat.v4.new_notebook(cells=parts, metadata=tour.metadata), home / "e.ipynb")
    for name, content in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {
        **os.environ, "JUPYTER_TOKEN": token, "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        # Threads that wait for each other lose most on a machine that others use too.
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", "--ServerApp.port_retries=0", f"--notebook-dir={home}",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(lambda: _status(f"{address}/api/status?token={token}") == 200, server, home / "log")
        yield address, token
    finally:
        server.terminate()
        server.wait(20)


def _status(address):
    try:
        return urllib.request.urlopen(address, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _wait(ready, server, log, seconds=60):
    start = time.monotonic()
    while not ready():
        assert server.poll() is None, log.read_text()
        assert time.monotonic() - start < seconds, log.read_text()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    SCREENS.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        yield chromium
        chromium.close()


def _leave(page, name):
    if page.is_closed():
        return
    page.screenshot(path=SCREENS / f"{name.removesuffix('.ipynb')}.png")
    page.close()


def open_notebook(browser, lab, name, request):
    """Open a notebook in a fresh window, and run all its cells as "Run All" does."""
    address, token = lab
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    request.addfinalizer(lambda: _leave(page, name))
    # A cold cache on a busy machine; the test goes on as soon as it can.
    page.set_default_timeout(400_000)
    page.goto(f"{address}/lab/tree/{name}?token={token}&reset")
    page.locator(".jp-CodeCell").first.wait_for()
    # A notebook that is run before its kernel answers starts a second one, and loses the first's
    # work: the page shows an idle kernel long before it has one.
    page.wait_for_function(CONNECTED)
    page.evaluate(RUN_ALL)
    page.wait_for_function("() => window.finished")
    prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt").all_inner_texts()
    assert all(re.search(r"\d", prompt) for prompt in prompts), prompts
    assert errors(page) == []
    return page


def move(page, explorer, slider, key, screen):
    """Press a key on a slider of an explorer; the picture must become another."""
    view = page.locator(".jp-OutputArea-output .widget-vbox").nth(explorer)
    handle = view.locator(".noUi-handle").nth(slider)
    return change(view, screen, lambda picture: handle.press(key))


def change(view, screen, act):
    """Do something to an explorer, and wait until its picture is another."""
    picture = view.locator("img")
    picture.wait_for()
    before = picture.get_attribute("src")
    act(picture)
    view.page.wait_for_function(
        "([image, before]) => image.src !== before && image.complete && image.naturalWidth > 100",
        arg=[picture.element_handle(), before],
    )
    view.scroll_into_view_if_needed()
    view.screenshot(path=SCREENS / f"{screen}.png")
    return view


def errors(page):
    return page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()


def test_the_tour_runs_and_its_slider_moves_the_picture(browser, lab, request):
    address, _ = lab
    # Without its token the server lets nobody in.
    assert _status(f"{address}/api/contents") == 403
    page = open_notebook(browser, lab, "tour.ipynb", request)
    page.get_by_text("Right.", exact=True).nth(2).wait_for()
    assert errors(page) == []
    view = move(page, 0, 0, "Home", "tour_k_1")
    assert view.locator(".widget-readout").first.inner_text() == "1"
    move(page, 0, 0, "End", "tour_k_end")
    # Running the cell again puts one new explorer in the place of the old, and it works.
    cell = page.locator(".jp-CodeCell", has=page.locator(".widget-vbox"))
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    page.wait_for_function("() => document.querySelectorAll('.widget-vbox img').length === 1")
    page.locator(".widget-vbox .widget-readout", has_text="47").wait_for()
    move(page, 0, 0, "Home", "tour_rerun")
    assert errors(page) == []


def test_every_other_explorer_answers(browser, lab, request):
    page = open_notebook(browser, lab, "e.ipynb", request)
    page.locator(".jp-OutputArea-output .widget-vbox").nth(2).wait_for()
    # The kernel is that of the environment which started the server.
    assert f"prefix {sys.prefix}" in "".join(
        page.locator(".jp-OutputArea-output").all_inner_texts()
    )
    view = move(page, 0, 0, "Home", "explorer_field")
    assert view.locator(".widget-readout").first.inner_text() == "1"
    # A click on a picture chooses the position under it: here, in the lower half.
    box = view.locator("img").bounding_box()
    place = {"x": 0.5 * box["width"], "y": 0.8 * box["height"]}
    change(view, "explorer_field_clicked", lambda picture: picture.click(position=place))
    assert 14 <= int(view.locator(".widget-readout").first.inner_text()) <= 20
    move(page, 1, 0, "End", "explorer_attack")
    view = move(page, 2, 0, "Home", "explorer_planted")
    assert view.locator(".widget-readout").first.inner_text() == "0.02"
    assert errors(page) == []


def test_a_tab_closed_while_an_explorer_computes_loses_nothing(browser, lab, request):
    page = open_notebook(browser, lab, "e.ipynb", request)
    page.locator(".jp-OutputArea-output .widget-vbox").nth(2).wait_for()
    attack = page.locator(".jp-OutputArea-output .widget-vbox").nth(1)
    attack.locator(".noUi-handle").nth(1).press("End")
    page.close()
    # The kernel lives on; the notebook opened again finds it, and everything answers.
    page = open_notebook(browser, lab, "e.ipynb", request)
    page.locator(".jp-OutputArea-output .widget-vbox").nth(2).wait_for()
    move(page, 1, 0, "End", "explorer_opened_again")
    assert errors(page) == []


@pytest.fixture
def explorers(browser, tmp_path):
    """What the book's page of explorers holds beside its prose, as wide as a phone."""
    static = project_root() / "docs" / "static"
    for name in ("explorers.js", "book.css"):
        shutil.copy(static / name, tmp_path)
    prose = (static.parent / "explorers.md").read_text()
    blocks = re.findall(r"```\{raw\} html\n(.*?)```", prose, flags=re.DOTALL)
    head = (
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="book.css">'
    )
    body = "".join(blocks).replace("_static/", "")
    (tmp_path / "page.html").write_text(f"<!doctype html><html><head>{head}</head>{body}</html>")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((tmp_path / "page.html").as_uri())
    yield page
    page.screenshot(path=SCREENS / "book_explorers.png", full_page=True)
    page.close()


def test_the_books_explorers_compute_what_the_package_does(explorers):
    torch.manual_seed(0)
    maps = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    maps[:, 2:] = maps[:, 1:2]
    flat = [maps[0, i].flatten().tolist() for i in (0, 1)]
    for k, weight, reading in [(4, 1.0, "mean"), (36, 0.2, "positions"), (1, 3.0, "sum")]:
        setting = [k, weight, reading]
        found = explorers.evaluate("([a, b, ...s]) => topgap.state(a, b, ...s)", [*flat, *setting])
        logits = top_k_pool(maps, k)
        terms = top_gap_loss(logits, maps, torch.tensor([0]), weight, reading)
        assert found["crossEntropy"] == pytest.approx(terms.cross_entropy.item())
        assert found["loss"] == pytest.approx(terms.total.item())
        assert found["p"] == pytest.approx(logits.softmax(1)[0, 0].item())
        best, theirs = (
            optimum(k, (6, 6), 8, weight, reading),
            explorers.evaluate("(s) => topgap.optimum(...s)", setting),
        )
        ours = {"residual": best.residual, "value": best.value, "loss": best.loss}
        assert theirs == pytest.approx(ours)
    for gap in (-3.0, 0.0, 5.0, 20.0, 60.0, 120.0):
        logits = torch.tensor([[gap / 2, -gap / 2]], requires_grad=True)
        loss = F.cross_entropy(logits, torch.tensor([0]))
        loss.backward()
        slope = (logits.grad[0, 0] - logits.grad[0, 1]).item() / 2
        found = explorers.evaluate("(gap) => topgap.singlePrecision(gap)", gap)
        assert found["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-12)
        assert found["slope"] == pytest.approx(slope, rel=1e-4, abs=1e-40)


def test_the_books_explorers_answer_on_a_phone(explorers):
    maps, attack = explorers.locator(".explorer").nth(0), explorers.locator(".explorer").nth(1)
    words = maps.locator(".explorer-words")
    # Maps that settle end where the package says.
    maps.get_by_role("button", name="noise").click()
    maps.get_by_role("button", name="let it settle").click()
    best = optimum(4, (6, 6), 8, 1.0)
    explorers.wait_for_function(
        "(value) => document.querySelector('.explorer-words').textContent.startsWith(value)",
        arg=f"Score {best.value:.3f}",
    )
    assert f"the loss {best.loss:.3f}" in words.inner_text()
    # A drag lifts one position, and only through its share of the k.
    maps.get_by_role("button", name="clear").click()
    board = maps.locator("canvas").first
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    explorers.mouse.move(box["x"] + 60, box["y"] + 60)
    explorers.mouse.down()
    explorers.mouse.move(box["x"] + 60, box["y"] + 12)
    explorers.mouse.up()
    assert words.inner_text().startswith("Score 1.000")
    maps.locator("input").first.fill("1")
    assert words.inner_text().startswith("Score 4.000")
    maps.locator("select").select_option("sum")
    assert "the score 0.000" in words.inner_text()
    # Larger logits stop the attack on cross-entropy, and not that on the margin.
    words = attack.locator(".explorer-words")
    assert "attack on cross-entropy breaks the image" in words.inner_text()
    attack.locator("input").fill("3")
    assert "attack on cross-entropy does not break the image" in words.inner_text()
    assert explorers.evaluate("() => topgap.alongMargin().at(-1) > topgap.BREAKS")
    # Nothing is wider than the phone.
    assert explorers.evaluate("() => document.documentElement.scrollWidth") <= 390
