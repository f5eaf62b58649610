"""
Real pages in a real browser: headless Chromium, driven over WebDriver, against servers started as a user would.

    def test_two_people(serve, open_page):
        server = serve("shop:app", cwd=tmp_path)
        ann, bob = open_page(server.url), open_page(server.url)

Nothing here is monkey-patched: the servers are processes of their own.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

from tests.support import ROOT, Program, free_port, script, wait_until

SCREENSHOTS = Path(__file__).parent / "screenshots"
AXE = ROOT / "tests/node/node_modules/axe-core/axe.min.js"

_FLAGS = (
    "--headless",
    "--no-sandbox",  # a container's root may run it too
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-search-engine-choice-screen",
    "--hide-scrollbars",
)
_DESKTOP = (1280, 800)
_FINDER = """
const [selector, text] = arguments;
return [...document.querySelectorAll(selector)].find(
  (element) => element.checkVisibility() && (text === null || element.textContent.includes(text)),
) ?? null;
"""


class Page:
    """
    A browser window of its own: its cookies and storage are shared with no other page.

    Attributes:
        driver: Selenium's driver, for whatever has no method here.
    """

    def __init__(self, profile: str, *flags: str) -> None:
        options = ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = Chrome(options, Service(shutil.which("chromedriver")))
        self.driver.set_page_load_timeout(90)
        self.driver.set_script_timeout(90)

    def reset(self) -> None:
        """Become as good as new."""
        self.errors()
        with contextlib.suppress(Exception):  # about:blank has no storage
            self.js("localStorage.clear(); sessionStorage.clear()")
        self.driver.get("about:blank")
        self.cdp("Network.clearBrowserCookies")
        self.cdp("Emulation.setEmulatedMedia", features=[])
        self.size(*_DESKTOP)

    # What it looks like

    def size(self, width: int, height: int, *, phone: bool = False, scale: float = 1.0) -> None:
        """Set the size of the view in CSS pixels; a phone has a touch screen and heeds the viewport meta tag."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        self.cdp("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, **features: str) -> None:
        """Set what the user prefers: `prefer(color_scheme="dark", reduced_motion="reduce")`."""
        named = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.cdp("Emulation.setEmulatedMedia", features=named)

    def screenshot(self, name: str) -> Path:
        """Take a picture of what is visible, for people to look at: `tests/browser/screenshots/NAME.png`."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        path.write_bytes(self.driver.get_screenshot_as_png())
        return path

    # What is on it

    def open(self, url: str) -> Page:
        """Go to an address and wait until it is loaded."""
        self.driver.get(url)
        return self

    def find(self, selector: str, text: str | None = None, timeout_s: float = 45.0) -> WebElement:
        """Wait for a visible element, by CSS selector and, where given, by a text that it holds."""
        what = f"{selector} {text or ''} on the page:\n"
        try:
            element: WebElement = wait_until(lambda: self.js(_FINDER, selector, text), timeout_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}{self.js('return document.body.innerText')}\n{self.errors()}") from None
        return element

    def shows(self, selector: str, text: str | None = None) -> bool:
        """Whether such an element is visible now."""
        return self.js(_FINDER, selector, text) is not None

    def until(self, expression: str, *arguments: Any, timeout_s: float = 45.0) -> Any:
        """Wait until a JavaScript expression is true and return its value; it finds the arguments in `arguments`."""
        return wait_until(lambda: self.js(f"return ({expression})", *arguments), timeout_s, expression)

    def js(self, code: str, *arguments: Any) -> Any:
        """Run JavaScript; what it returns, a promise's value included."""
        return self.driver.execute_script(code, *arguments)

    def cdp(self, command: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def errors(self) -> list[str]:
        """What the browser complained about since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def accessibility_violations(self) -> list[str]:
        """Check the page as it is now with axe-core, by WCAG 2.2 AA and best practices."""
        if not self.js("return 'axe' in window"):
            self.js(AXE.read_text(encoding="utf-8"))
        result = self.js("return axe.run(document, { resultTypes: ['violations'] })")
        return [
            f"{violation['id']}: {violation['help']}: {node['target']} {node['failureSummary']}"
            for violation in result["violations"]
            for node in violation["nodes"]
        ]


class Server:
    """A server in a process of its own, which can be stopped and started again at the same address."""

    def __init__(self, command: Callable[[int], list[str]], port: int, cwd: Path, environment: dict[str, str]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/"
        self._command = command
        self._cwd = cwd
        self._environment = environment
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.program = Program(*self._command(self.port), cwd=self._cwd, **self._environment)
        try:
            wait_until(self._answers, 30, "the server answers")
        except AssertionError as error:
            output = self.program.output
            self.program.stop()
            raise AssertionError(f"{error}\n{output}") from None

    def stop(self) -> int:
        """Stop it as an operator would and return its exit code."""
        return self.program.stop()

    def _answers(self) -> bool:
        assert self.program.process.poll() is None, "it has ended"
        try:
            with urllib.request.urlopen(f"{self.url}health", timeout=30):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except OSError:
            return False


@pytest.fixture(scope="session", autouse=True)
def _run_dir(tmp_path_factory):
    """Commands of the tests must not find servers of the person who runs them."""
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHAVEL_RUN_DIR", str(folder))
        yield


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """
    `serve("shop:app", "--option", cwd=folder, NAME="value")` starts `alpha websocket:serve` with an application, options and
    environment variables; `serve(command=lambda port: [...])` starts something else.
    """
    started: list[Server] = []

    def start(
        target: str | None = None,
        *options: str,
        command: Callable[[int], list[str]] | None = None,
        cwd: Path = ROOT,
        **environment: str,
    ) -> Server:
        def alpha(port: int) -> list[str]:
            app = ["--app", target] if target else []
            return [script("alpha"), "websocket:serve", *app, "--host", "127.0.0.1", "--port", str(port), *options]

        started.append(Server(command or alpha, free_port(), cwd, environment))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def _windows() -> Iterator[Callable[[int], Page]]:
    # Starting Chromium takes a second or two: windows are used again by the next test.
    windows: list[Page] = []
    with tempfile.TemporaryDirectory(prefix="alphavel-chromium-", ignore_cleanup_errors=True) as profiles:

        def window(number: int) -> Page:
            if number == len(windows):
                windows.append(Page(f"{profiles}/{number}"))
            return windows[number]

        yield window
        for page in windows:
            page.driver.quit()


@pytest.fixture
def open_page(_windows: Callable[[int], Page]) -> Iterator[Callable[..., Page]]:
    """`open_page(url)` opens an address in a window that no other page of the test shares."""
    opened: list[Page] = []

    def open_(url: str = "about:blank") -> Page:
        page = _windows(len(opened))
        opened.append(page)
        page.reset()
        return page.open(url)

    yield open_
    for page in opened:
        page.driver.get("about:blank")
