"""A real browser, headless Chromium, driven over its DevTools protocol: for the tests of the live pages."""

import itertools
import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

websockets = pytest.importorskip("websockets.sync.client", reason="the browser is driven over a WebSocket")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
POLICY_ISSUE = "ContentSecurityPolicyIssue"
PATIENCE = 60.0
TOO_WIDE = (
    "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, .numbers, .table, thead') && "
    "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
)
"""Elements that reach over the right edge and lie in nothing that scrolls."""


@dataclass
class Tab:
    """One page of the browser, driven over the DevTools protocol; keeps what the console says."""

    socket: object
    session: str = ""
    complaints: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    numbers: object = field(default_factory=lambda: itertools.count(1))

    def call(self, method, **parameters):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        self.socket.send(json.dumps({**message, **({"sessionId": self.session} if self.session else {})}))
        while True:
            answer = json.loads(self.socket.recv(timeout=PATIENCE))
            if answer.get("id") == number:
                return answer.get("result", {})
            self._note(answer)

    def _note(self, event):
        parameters = event.get("params", {})
        if event["method"] == "Network.requestWillBeSent":
            self.asked.append(parameters["request"]["url"])
        if event["method"] == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])
        issue = parameters.get("issue", {}).get("code")
        if (
            event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")
            or issue == POLICY_ISSUE
        ):
            self.complaints.append(json.dumps(parameters)[:500])

    def value(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer.get("result", {}).get("value")  # nothing while one page gives way to another

    def text(self):
        return self.value("document.body.innerText") or ""

    def wait(self, expression):
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, (
                f"{expression} never became true; the page says: {self.text()[:400]}"
            )
            time.sleep(0.1)

    def open(self, url, *, width=1280):
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=phone
        )
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def follow(self, link):
        self.value(f"window.old = true, document.querySelector({json.dumps(link)}).click()")
        self.wait("!window.old && document.readyState === 'complete'")


@contextmanager
def browser(profile):
    command = [
        *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"),
        *(f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking", "about:blank"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        lines = iter(process.stderr.readline, "")
        address = next(found[1] for line in lines if (found := re.search(r"listening on (ws://\S+)", line)))
        with websockets.connect(address, max_size=None) as socket:
            yield socket
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stderr.close()


@contextmanager
def new_tab(socket):
    """A fresh page that reports errors of the console, of scripts and of the content security policy."""
    page = Tab(socket, numbers=itertools.count(int(time.monotonic() * 1000)))
    target = page.call("Target.createTarget", url="about:blank")["targetId"]
    page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
        page.call(f"{domain}.enable")
    yield page
    page.session = ""
    page.call("Target.closeTarget", targetId=target)
