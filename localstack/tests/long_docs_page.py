"""The page at /docs in a browser: Chromium, driven by WebDriver.

Alone: cd localstack/tests && python3 -m unittest long_docs_page
"""

from __future__ import annotations

import json
import subprocess
import unittest
import urllib.request

from issuer import Issuer
from support import LocalStack, eventually, free_port

SUBMIT = "#operations-Jobs-transcribe"
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,2000"]


class DocsPage(unittest.TestCase):
    def test_an_operation_can_be_tried(self):
        url = self.up()
        browser = Browser(self)
        # The root leads to the page.
        browser.open(url + "/")
        self.tries(browser, url)

    def test_a_token_is_sent_through_a_gateway_with_a_base_path(self):
        issuer = Issuer(self)
        url = self.up(GATEWAY="1", **issuer.settings())
        browser = Browser(self)
        browser.open(url + "/docs")
        browser.click(".auth-wrapper .authorize")
        value = 'input[aria-label="auth-bearer-value"]'
        browser.type(value, issuer.token("ana"))
        browser.click(f".auth-container:has({value}) .authorize")
        browser.click(".auth-container .btn-done")
        self.tries(browser, url)

    def up(self, **settings: str) -> str:
        stack = LocalStack(self, ASR="sim", SIM_LATENCY_MS="20", LONGHAND_POLL_SECONDS="1", **settings)
        stack.succeeds("up")
        return stack.settings()["LONGHAND_URL"]

    def tries(self, browser: Browser, url: str) -> None:
        browser.click(f"{SUBMIT} .opblock-summary-control")
        with urllib.request.urlopen(url + "/openapi.json") as answer:
            description = json.load(answer)
        described = sum(map(len, [*description["paths"].values(), *description["webhooks"].values()]))
        self.assertEqual(browser.run("return document.querySelectorAll('.opblock').length"), described)
        browser.click(f"{SUBMIT} .execute")
        status = browser.text(f"{SUBMIT} .live-responses-table tbody .response-col_status")
        body = browser.text(f"{SUBMIT} .live-responses-table tbody .response-col_description")
        self.assertRegex(status, "^20[02]")
        self.assertIn('"jobStatus"', body)
        self.assertEqual(browser.errors(), [])


class Browser:
    """Chromium. What the page asks for is waited for."""

    def __init__(self, test: unittest.TestCase):
        port = free_port()
        driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        test.addCleanup(driver.wait)
        test.addCleanup(driver.terminate)
        self.base = f"http://127.0.0.1:{port}"
        eventually("chromedriver answers", lambda: driver.poll() is None and self.answers())
        options = {"args": ARGUMENTS}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/session/{session['sessionId']}"
        test.addCleanup(lambda: self.call("", method="DELETE"))

    def answers(self) -> bool:
        try:
            return self.call("/status")["ready"]
        except OSError:
            return False

    def call(self, path: str, body: dict | None = None, method: str | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self.call("/url", {"url": url})

    def run(self, script: str, *arguments: str):
        return self.call("/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, selector: str) -> None:
        script = "return document.querySelector(arguments[0]) !== null"
        eventually(f"{selector} is there", lambda: self.run(script, selector), within=60)

    def click(self, selector: str) -> None:
        self.wait_for(selector)
        self.run("document.querySelector(arguments[0]).click()", selector)

    def type(self, selector: str, text: str) -> None:
        self.wait_for(selector)
        found = self.call("/element", {"using": "css selector", "value": selector})
        self.call(f"/element/{next(iter(found.values()))}/value", {"text": text})

    def text(self, selector: str) -> str:
        self.wait_for(selector)
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def errors(self) -> list[str]:
        """Of the console. Refusals by the page's policy are among them."""
        entries = self.call("/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]


if __name__ == "__main__":
    unittest.main()
