"""The page in Chromium, from disk: a recording, a microphone, a lesson; and the package as a plain module and through Vite."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge_ser import EmotionRecognizer
from edge_ser.arrays import Float32Array
from tests.needs import need, need_module

pytestmark = pytest.mark.slow
TIMEOUT_MS = 120_000

Open = Callable[..., Any]


@pytest.fixture
def browse() -> Iterator[Open]:
    """Opens an address in Chromium and returns the page; it fails for what the page throws."""
    need("chromium")
    need_module("playwright")
    from playwright.sync_api import sync_playwright

    faults: list[str] = []
    with sync_playwright() as playwright:
        browsers = []

        def browse(url: str, *flags: str, **options: Any) -> Any:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(flags))
            browsers.append(browser)
            page = browser.new_context(**options).new_page()
            page.set_default_timeout(TIMEOUT_MS)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(url)
            return page

        yield browse
        for browser in browsers:
            browser.close()
    assert faults == []


@pytest.fixture
def page_url(built: Path) -> str:
    return (built / "page" / "edge-ser.html").as_uri()


@pytest.fixture(scope="module")
def expected(native_library: Path, samples: Float32Array) -> list[float]:
    """The golden recording's logits."""
    found: list[float] = EmotionRecognizer(backend="native").predict((samples, 16000)).logits.tolist()
    return found


def ready(page: Any) -> Any:
    page.get_by_role("button", name="Listen", disabled=False).wait_for()
    return page


def microphone(recording: Path) -> tuple[str, ...]:
    """Chromium's flags for a microphone that hears a recording, again and again, and is allowed."""
    capture = f"--use-file-for-fake-audio-capture={recording}"
    return ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", capture)


_USE = """
import {{ Recognizer }} from "{module}";
Recognizer.create().then((recognizer) => {{
  window.logits = (samples) => [...recognizer.predict(Float32Array.from(samples)).logits];
}});
"""


def test_a_plain_module_answers_as_native_c(
    browse: Open, built: Path, served: tuple[Path, str], samples: Float32Array, expected: list[float]
) -> None:
    folder, url = served
    shutil.copy(built / "npm" / "edge-ser.js", folder)
    script = _USE.format(module="./edge-ser.js")
    (folder / "index.html").write_text(f'<!doctype html><script type="module">{script}</script>')
    page = browse(f"{url}/index.html")
    page.wait_for_function("() => window.logits !== undefined")
    assert page.evaluate("(samples) => window.logits(samples)", samples.tolist()) == expected


def test_through_vite_and_typescript(
    browse: Open, built: Path, served: tuple[Path, str], samples: Float32Array, expected: list[float], tmp_path: Path
) -> None:
    need("npm")
    folder, url = served
    project = tmp_path / "project"
    project.mkdir()

    def npm(*arguments: str, cwd: Path = project) -> str:
        done = subprocess.run(["npm", *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    packed = npm("pack", "--silent", "--pack-destination", str(project), cwd=built / "npm").strip()
    (project / "package.json").write_text('{"type": "module", "private": true}')
    npm("install", "--no-audit", "--no-fund", f"./{packed}", "vite@6", "typescript@5")
    (project / "index.html").write_text('<!doctype html><script type="module" src="/main.js"></script>')
    (project / "main.js").write_text(_USE.format(module="edge-ser"))
    npm("exec", "--", "vite", "build", "--base", "./", "--outDir", str(folder / "out"), "--emptyOutDir")
    assert not [path for path in (folder / "out").rglob("*") if path.suffix == ".wasm"]
    page = browse(f"{url}/out/index.html")
    page.wait_for_function("() => window.logits !== undefined")
    assert page.evaluate("(samples) => window.logits(samples)", samples.tolist()) == expected

    (project / "main.ts").write_text(
        """
        import { capture, EdgeSerError, Recognizer, Segmenter, type Prediction } from "edge-ser";
        const recognizer: Recognizer = await Recognizer.create();
        const segmenter = new Segmenter(48000);
        const { rateHz, stop } = await capture((samples, rate) => {
            for (const event of segmenter.feed(samples)) if (event.type === "start") console.log(event.start / rate);
        });
        const stream = recognizer.stream(rateHz);
        stream.feed(new Float32Array(16000));
        const early: Prediction | null = stream.estimate;
        const p: Prediction = stream.finish();
        recognizer.adapt(p, "happy");
        const sad: number = p.probabilities["sad"] + (early?.confidence ?? 0) + new EdgeSerError("x").message.length;
        // @ts-expect-error samples are floats
        recognizer.predict([sad]);
        await stop();
        """
    )
    npm("exec", "--", "tsc", "--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "main.ts")


def test_a_recording_is_answered_from_disk_and_nothing_can_be_sent(browse: Open, page_url: str, spoken: Path) -> None:
    page = ready(browse(page_url, viewport={"width": 1280, "height": 900}))
    page.get_by_label("Open a recording").set_input_files(spoken)
    row = page.get_by_role("listitem").get_by_role("button", name=re.compile(r"^Play 0:00, neutral, \d+ %"))
    row.wait_for()
    assert page.locator("#word").inner_text() == "neutral"
    assert int(page.get_by_role("meter", name="neutral").get_attribute("aria-valuenow")) > 50
    total = sum(int(meter.get_attribute("aria-valuenow")) for meter in page.get_by_role("meter").all())
    assert 98 <= total <= 102
    assert page.locator("#said").inner_text().startswith("neutral, ")
    row.press("Enter")
    assert row.get_attribute("aria-current") == "true"
    page.get_by_role("button", name="Try to send something").click()
    page.get_by_text("Refused by the browser: connect-src").wait_for()
    attempts = """async () => {
        const refused = [];
        document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
        await fetch("data:,x").catch(() => 0);
        new Image().src = "https://example.org/voice.png";
        try { new WebSocket("wss://example.org"); } catch {}
        navigator.sendBeacon("https://example.org", "voice");
        const script = document.createElement("script");
        script.textContent = "window.stranger = true";
        document.body.append(script);
        const form = document.createElement("form");
        form.action = "https://example.org";
        document.body.append(form);
        form.submit();
        await new Promise((done) => setTimeout(done, 500));
        return { refused: [...new Set(refused)].sort(), stranger: window.stranger ?? null };
    }"""
    found = page.evaluate(attempts)
    assert found["stranger"] is None
    assert {"connect-src", "form-action", "img-src", "script-src-elem"} <= set(found["refused"])


def test_a_microphone_is_heard(browse: Open, page_url: str, spoken: Path, tmp_path: Path) -> None:
    page = ready(browse(page_url, *microphone(at_48k(spoken, tmp_path)), viewport={"width": 375, "height": 812}))
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.get_by_role("button", name="Listen").press("Enter")
    stop = page.get_by_role("button", name="Stop", exact=True).first
    stop.wait_for()
    page.get_by_role("listitem").get_by_role("button", name=re.compile("neutral")).first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    stop.click()
    page.get_by_role("button", name="Listen", exact=True).wait_for()


def test_a_sentence_is_learnt_kept_saved_and_forgotten(browse: Open, page_url: str, spoken: Path, tmp_path: Path) -> None:
    page = ready(browse(page_url, *microphone(at_48k(spoken, tmp_path))))
    page.get_by_role("button", name="Start the eight sentences").click()
    page.get_by_text("The train leaves at half past seven.").first.wait_for()
    page.get_by_text("1 sentence of yours").wait_for()
    assert page.locator("#lesson-status").inner_text() == "Good."
    assert page.locator("#task-tone").inner_text() == "Say it angrily:"
    page.reload()
    ready(page).get_by_text("sentence").first.wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save to a file").click()
    profile = json.loads(Path(download.value.path()).read_text())
    assert profile["person"]["utterances"][0]["label"] == "neutral"
    page.get_by_role("button", name="Forget me").click()
    assert page.locator("#kept").inner_text() == ""
    assert page.evaluate("localStorage.length") == 0


def test_what_is_no_recording_is_named(browse: Open, page_url: str, tmp_path: Path) -> None:
    (tmp_path / "note.wav").write_text("no sound")
    page = ready(browse(page_url))
    page.get_by_label("Open a recording").set_input_files(tmp_path / "note.wav")
    page.get_by_role("alert").get_by_text("note.wav is no recording that this browser reads").wait_for()


def at_48k(recording: Path, folder: Path) -> Path:
    """Write a recording as Chromium's microphone takes it."""
    samples, _ = soundfile.read(recording, dtype="float32")
    path = folder / "microphone.wav"
    soundfile.write(path, np.interp(np.arange(3 * len(samples)) / 3, np.arange(len(samples)), samples), 48000, subtype="PCM_16")
    return path
