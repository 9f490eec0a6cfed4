"""Takes the README's pictures of the page: `python -m tests.browser.screenshots FOLDER`."""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from loadtests.compare.service import own_service
from serve.catalogue import MINIATURE
from tests.chromium import chromium_path


def draw(page: Page, url: str) -> None:
    """What the README's first request asks for, in turn, so that the bars mean something."""
    page.goto(url)
    page.get_by_label("Seed", exact=True).fill("2")
    page.get_by_label("One after another").check()
    page.get_by_role("button", name="Draw with all variants").click()
    for position in (1, 2, 3):
        done = f'.card:nth-child({position})[data-state="done"]'
        page.wait_for_selector(done, timeout=120_000)
    page.evaluate("() => document.activeElement.blur()")


def save(png: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(png)).save(path, "WEBP", quality=80, method=6)
    print(f"{path}: {path.stat().st_size} bytes")


def main(folder: Path) -> None:
    """Start the miniature, take the pictures, and end it."""
    with own_service(",".join(MINIATURE.default_variants)) as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=chromium_path(), args=["--no-sandbox", "--disable-gpu"]
        )
        desktop = chromium.new_page(viewport={"width": 1200, "height": 1000}, color_scheme="light")
        draw(desktop, url)
        bottom = desktop.locator("#compare").bounding_box()
        assert bottom is not None
        height = bottom["y"] + bottom["height"] + 16
        clip = {"x": 0, "y": 0, "width": 1200, "height": height}
        save(desktop.screenshot(full_page=True, clip=clip), folder / "page-desktop.webp")
        phone = chromium.new_page(
            viewport={"width": 390, "height": 960}, color_scheme="dark", device_scale_factor=1.5
        )
        draw(phone, url)
        phone.locator("#pictures-title").evaluate("(title) => title.scrollIntoView()")
        save(phone.screenshot(), folder / "page-phone.webp")
        chromium.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
