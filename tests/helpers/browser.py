"""Looks at a page with a real browser, where one is installed: what can be counted at a given width."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
"""Path of the browser; None where there is none."""

MEASURE = """
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, width = frame.clientWidth;
    page.querySelectorAll("details").forEach((each) => { each.open = true; });
    let smallest = Infinity, smallestText = "", texts = 0, cut = [];
    const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      const text = walker.currentNode.data.trim();
      if (!text || element.closest("script, style, .hidden")) continue;
      const range = page.createRange();
      range.selectNodeContents(walker.currentNode);
      const place = range.getBoundingClientRect();
      if (!place.width) continue;
      const svg = element.closest("svg");
      const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
      const size = parseFloat(frame.contentWindow.getComputedStyle(element).fontSize) * scale;
      texts += 1;
      if (size < smallest) { smallest = size; smallestText = text; }
      if (place.right > width + 1 && !element.closest(".scroll")) cut.push(text);
    }
    let scrolled = 0, moved = 0;
    for (const table of page.querySelectorAll(".scroll > table")) {
      const box = table.parentElement;
      if (box.scrollWidth <= box.clientWidth + 1) continue;
      box.scrollLeft = box.scrollWidth;
      scrolled += 1;
      const cell = table.tBodies[0].rows[0].cells[0].getBoundingClientRect();
      if (Math.abs(cell.left - box.getBoundingClientRect().left) > 2) moved += 1;
    }
    const ground = frame.contentWindow.getComputedStyle(page.body).backgroundColor;
    const ink = frame.contentWindow.getComputedStyle(page.body).color;
    found[width] = {
      overflow: page.documentElement.scrollWidth - width,
      smallest, smallestText, texts, cut, scrolled, moved, ground, ink,
    };
  }
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
});
"""


def measured(page: str, widths: tuple[int, ...], folder: Path, dark: bool = False) -> dict[int, dict]:
    """What a browser finds in a page at each width, with all of it unfolded.

    Args:
        page: HTML.
        widths: in pixels.
        folder: for temporary files.
        dark: whether the reader prefers dark pages.

    Returns:
        For each width: `overflow` of the page in pixels; `smallest` text in pixels; `texts` that are visible; those
        that are `cut` at the right; tables that `scrolled`, and those whose first column `moved`; `ground` and `ink`.
    """
    frames = (
        f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{html.escape(page)}"></iframe>'
        for width in widths
    )
    wrapper = folder / "frames.html"
    wrapper.write_text(f"<!DOCTYPE html><body>{''.join(frames)}<script>{MEASURE}</script></body>", encoding="utf-8")
    done = subprocess.run(
        [
            *(str(PROGRAM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"),
            *("--virtual-time-budget=20000", "--dump-dom", wrapper.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    return {int(width): values for width, values in json.loads(html.unescape(found[1])).items()}
