"""The page over the shipped miniature and Serve's proxy, in Chromium."""

import io

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import expect

from serve.catalogue import MINIATURE
from tests.chromium import Open
from tests.machine import HANG_S


def test_the_page_shows_the_very_pictures_of_every_variant(miniature: str, open_page: Open) -> None:
    page = open_page(miniature)
    expect(page.locator("#family")).to_have_text("Served here: miniature.")
    page.get_by_label("Seed", exact=True).fill("2")
    page.get_by_role("button", name="Draw with all variants").click()
    for variant in MINIATURE.variants:
        card = page.locator(f'.card[data-model="{variant}"]')
        expect(card).to_have_attribute("data-state", "done", timeout=1000 * HANG_S)
        with page.expect_download() as download:
            card.get_by_role("link").click()
        shown = Image.open(download.value.path())
        reply = httpx.post(
            f"{miniature}/v1/images/generations",
            json={"prompt": "a golden vase with different flowers", "model": variant, "seed": 2},
            headers={"accept": "image/png"},
            timeout=HANG_S,
        )
        alone = Image.open(io.BytesIO(reply.content))
        assert shown.size == alone.size == (96, 96)
        # How far a picture may differ that is drawn beside others.
        assert np.abs(np.asarray(shown, float) - np.asarray(alone, float)).mean() <= 0.5
    expect(page.locator("#bars li")).to_have_count(len(MINIATURE.variants))
    expect(page.get_by_role("slider")).to_be_visible()
