"""The live page in a browser: it shows the numbers of the server without an error."""

import os
import shutil

import pytest

from tests.serve.conftest import rows, wait_for

pytest.importorskip("selenium")
pytestmark = pytest.mark.skipif(
    not (os.environ.get("DLRMJIT_TEST_BROWSER") and shutil.which("chromedriver")),
    reason="takes seconds and a browser: set DLRMJIT_TEST_BROWSER=1 with chromium-driver installed",
)


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for word in ("headless=new", "no-sandbox", "disable-gpu", f"user-data-dir={tmp_path}"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


def test_the_page_shows_throughput_latency_and_workers(browser, client):
    client.post("/predict", {"rows": rows(3)})
    browser.get(f"http://127.0.0.1:{client.port}/")

    def shown(name):
        return browser.find_element("id", name).text

    wait_for(lambda: shown("workers") == "2" and shown("p99") != "-")
    assert shown("model").endswith("model")
    assert float(shown("queries_per_s")) >= 0
    assert float(shown("p99")) > 0
    assert shown("state") == ""
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [entry for entry in severe if "favicon" not in entry["message"]] == []
