"""Drives the dashboard in headless Chromium: dashboard.py full|empty URL TOKEN FOLDER_FOR_PICTURES

Every check either passes or ends the program with a traceback. Pictures of what was seen are left in the folder.
"""

import json
import pathlib
import sys
import time
import urllib.request

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

STATE, URL, TOKEN, PICTURES = sys.argv[1:5]
AXE = next(pathlib.Path(sys.prefix).glob("lib/python3*/site-packages/axe_playwright_python/axe.min.js"))
HOSTILE = "<img src=x onerror=document.title=1>"


def browser(javascript=True):
    options = webdriver.ChromeOptions()
    for flag in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-prefers-reduced-motion"]:
        options.add_argument(flag)
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = "/usr/bin/chromium"
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


def api(path):
    with urllib.request.urlopen(URL + path, timeout=30) as answer:
        return json.load(answer)


def until(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s for {what}")


def look(driver, name, width, scheme="light"):
    """Sets width and colour scheme, loads the page, keeps a picture, and checks what holds for every look."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.get(URL + "/")
    driver.save_screenshot(f"{PICTURES}/{name}.png")
    high = driver.execute_script("return document.documentElement.scrollHeight")
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": high})
    driver.save_screenshot(f"{PICTURES}/{name}-whole.png")
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width, f"{name}: {wide} px wide on a screen of {width}"
    # Through the debugger, because the page's own policy rightly refuses a foreign script.
    driver.execute_script(AXE.read_text())
    found = driver.execute_async_script("const done = arguments[0]; axe.run().then((r) => done(r.violations))")
    for violation in found:
        print(name, violation["id"], violation["help"], [n["html"][:200] for n in violation["nodes"]][:5])
    assert not found, f"{name}: axe found {len(found)}"


def no_errors(driver):
    errors = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, errors


def values(driver, selector):
    return [float(e.get_attribute("value")) for e in driver.find_elements(By.CSS_SELECTOR, selector)]


def headers():
    with urllib.request.urlopen(URL + "/", timeout=30) as answer:
        size, said = len(answer.read()), answer.headers
    assert size <= 100_000, size
    wanted = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Content-Type": "text/html; charset=utf-8",
    }
    for name, value in wanted.items():
        assert said[name] == value, (name, said[name])
    assert said["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-"), said


def equal_to_the_api(driver):
    driver.get(URL + "/?days=7&device=t01")
    status = api("/api/status")
    assert status["verdict"]["text"].lower() in driver.find_element(By.TAG_NAME, "h1").text.lower()
    powers = {name: power for name, _, power in status["devices"]}
    forecasts = {f["device"]: f["power_w"] for f in status["forecasts"]}
    rows = driver.find_elements(By.CSS_SELECTOR, "#now tbody tr")
    assert len(rows) == len(powers) >= 3, (len(rows), powers)
    for row in rows:
        name = row.find_element(By.TAG_NAME, "th").text
        shown = [float(e.get_attribute("value")) for e in row.find_elements(By.TAG_NAME, "data")]
        assert shown == [w for w in (powers[name], forecasts.get(name)) if w is not None], (name, shown)
    assert status["skill"] in values(driver, "#tiles data")
    runs = api("/api/ml/runs?kind=training")["runs"]
    shown = [e.text.split()[-1] for e in driver.find_elements(By.CSS_SELECTOR, "#nights tbody .badge")]
    assert shown == [run["outcome"] for run in runs], shown
    summary = api("/api/ml/status")["summary_30_days"]
    assert values(driver, "#nights .facts data") == [summary["success"], summary["mean_s"]]
    shown = [e.text for e in driver.find_elements(By.CSS_SELECTOR, "#models tbody th")]
    assert shown == [str(model["version"]) for model in api("/api/ml/models")["models"]], shown
    days = [d for d in api("/api/accuracy?days=7")["accuracy"] if d["device"] is None]
    driver.find_element(By.CSS_SELECTOR, "#mae-data summary").click()
    shown = values(driver, "#mae-data data")
    wanted = [d[key] for d in days for key in ("mae_w", "smart_mae_w", "naive_mae_w", "skill")]
    assert len(days) >= 3 and shown == wanted, (shown, wanted)
    assert len(driver.find_elements(By.CSS_SELECTOR, "#accuracy rect.live")) == len(days) + 1, "bars and their key"
    drawn = driver.find_element(By.CSS_SELECTOR, "#forecast path.actual").get_attribute("d")
    assert drawn.count(" ") > 100, drawn
    received = driver.find_element(By.XPATH, "//dt[.='Messages received']/following-sibling::dd/data")
    assert int(received.get_attribute("value")) <= api("/api/status")["daemon"]["received"]


def inert(driver):
    assert HOSTILE in [e.text for e in driver.find_elements(By.CSS_SELECTOR, "#now tbody th")]
    assert not driver.find_elements(By.TAG_NAME, "img") and driver.title != "1"


def keyboard(driver):
    driver.get(URL + "/")
    reached, order = set(), []
    for _ in range(120):
        webdriver.ActionChains(driver).send_keys(Keys.TAB).perform()
        what = driver.execute_script(
            "const e = document.activeElement, s = getComputedStyle(e);"
            "return e === document.body ? null :"
            "  [e.id || e.className || e.getAttribute('href') || e.getAttribute('name') || e.tagName, e.tagName,"
            "   s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2, e.getBoundingClientRect().top + scrollY]"
        )
        if what is None or (order and what[0] == "skip"):
            break
        assert what[2], f"no outline on {what}"
        reached.add(what[0])
        order.append(what)
    assert order[0][0] == "skip", order[:3]
    for wanted in ["refresh", "#nights", "device", "retrain", "rollback", "token", "token-forget", "SUMMARY", "scroll"]:
        assert wanted in reached, (wanted, sorted(reached))
    # Down the page, but for what stands side by side.
    tops = [top for _, _, _, top in order[9:]]
    assert all(b > a - 150 for a, b in zip(tops, tops[1:]) if a and b), order
    # The skip link and a button by the keyboard alone.
    driver.get(URL + "/")
    webdriver.ActionChains(driver).send_keys(Keys.TAB, Keys.ENTER).perform()
    assert driver.switch_to.active_element.get_attribute("id") == "main"


def without_javascript():
    driver = browser(javascript=False)
    try:
        driver.get(URL + "/?days=7")
        text = driver.find_element(By.TAG_NAME, "main").text
        for wanted in ["Forecast against actual", "t01", "nightwatt models rollback", "nightwatt train", "Nights", "Disk and clock"]:
            assert wanted in text, (wanted, text)
        for gone in ["retrain", "rollback", "manage", "refresh"]:
            assert not driver.find_element(By.ID, gone).is_displayed(), gone
        driver.find_element(By.CSS_SELECTOR, "#forecast summary").click()
        assert driver.find_element(By.CSS_SELECTOR, "#power-data tbody tr").is_displayed()
        driver.find_element(By.LINK_TEXT, "month").click()
        assert "days=30" in driver.current_url
        driver.find_element(By.XPATH, "//select[@name='device']/option[.='t02']").click()
        driver.find_element(By.XPATH, "//button[.='Show']").click()
        assert "days=30" in driver.current_url and "device=t02" in driver.current_url, driver.current_url
        assert "Measured and forecast power of t02" in driver.page_source
    finally:
        driver.quit()


def said(driver, part):
    return until(part, lambda: part in driver.find_element(By.ID, "said").text)


def enter(driver, token):
    driver.find_element(By.ID, "token").send_keys(token, Keys.ENTER)
    said(driver, "kept in this tab")


def changes(driver):
    driver.get(URL + "/")
    runs = lambda: len(api("/api/ml/runs?kind=training")["runs"])
    before = runs()
    driver.find_element(By.ID, "retrain").click()
    said(driver, "needs the station")
    assert driver.switch_to.active_element.get_attribute("id") == "token"
    enter(driver, "this-is-not-the-token")
    driver.find_element(By.ID, "retrain").click()
    said(driver, "Refused:")
    assert runs() == before
    # Two refusals are told on the console by the browser itself.
    driver.get_log("browser")
    enter(driver, TOKEN)
    driver.find_element(By.ID, "retrain").click()
    said(driver, "has begun")
    until("the run", lambda: runs() == before + 1)
    until("its end", lambda: api("/api/ml/status")["running"] is None)
    kept = driver.execute_script("return [sessionStorage.length, localStorage.length, document.cookie, document.body.innerHTML]")
    assert kept[:3] == [1, 0, ""] and TOKEN not in kept[3] and TOKEN not in driver.current_url

    driver.get(URL + "/")
    button = driver.find_element(By.ID, "rollback")
    version = int(button.get_attribute("data-version"))
    live = lambda: api("/api/ml/model/current")["version"]
    was = live()
    button.click()
    driver.switch_to.alert.dismiss()
    assert live() == was
    driver.find_element(By.ID, "rollback").click()
    driver.switch_to.alert.accept()
    said(driver, f"Version {version} is live")
    assert live() == version != was
    row = f"//section[@id='models']//tr[th[.='{version}']]//span[contains(@class,'badge')]"
    until("the page to follow", lambda: "live" in driver.find_element(By.XPATH, row).text)

    driver.find_element(By.ID, "token-forget").click()
    said(driver, "forgotten")
    assert driver.execute_script("return sessionStorage.length") == 0
    no_errors(driver)


def main():
    headers()
    driver = browser()
    try:
        for scheme in ["light", "dark"]:
            look(driver, f"{STATE}-wide-{scheme}", 1280, scheme)
            look(driver, f"{STATE}-phone-{scheme}", 360, scheme)
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.set_window_size(1280, 900)
        if STATE == "empty":
            text = driver.find_element(By.TAG_NAME, "main").text
            for wanted in ["No reading yet", "Learning begins after 14 days of readings; 0 there are", "No night has run yet"]:
                assert wanted in text, (wanted, text)
        else:
            equal_to_the_api(driver)
            inert(driver)
            keyboard(driver)
            no_errors(driver)
            # Before the rollback, which takes its own hint away.
            without_javascript()
            changes(driver)
        no_errors(driver)
    finally:
        driver.quit()
    print("the dashboard holds:", STATE)


main()
