import tomllib

import pytest

from serve.generation import VERSION
from serve.variants import MINIATURE, SD_V1, Family
from tests.machine import ROOT

FAMILIES = pytest.mark.parametrize("family", [MINIATURE, SD_V1], ids=lambda one: one.name)


def test_pictures_name_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


@FAMILIES
def test_both_families_serve_the_three_variants_unasked(family: Family) -> None:
    assert list(family.default_variants) == ["original", "distilled", "distilled-tiny-vae"]
    assert all(name == variant.name for name, variant in family.variants.items())


@FAMILIES
def test_variants_share_what_the_real_family_shares(family: Family) -> None:
    original, distilled, tiny = (family.variants[name] for name in family.default_variants)
    for name in ("tokenizer", "text_encoder", "scheduler"):
        assert len({one.components[name].folder for one in (original, distilled, tiny)}) == 1
    assert original.unet.folder != distilled.unet.folder == tiny.unet.folder
    assert original.vae.folder == distilled.vae.folder != tiny.vae.folder


@FAMILIES
def test_default_sizes_lie_within_their_bounds(family: Family) -> None:
    for variant in family.variants.values():
        assert variant.min_size_px <= variant.default_size_px <= variant.max_size_px
        assert all(
            side % 8 == 0
            for side in (variant.min_size_px, variant.default_size_px, variant.max_size_px)
        )


@FAMILIES
def test_a_familys_variants_share_their_safety_checker(family: Family) -> None:
    checkers = {tuple(one.safety_components.values()) for one in family.variants.values()}
    assert len(checkers) == 1
    extra = set(family.components(family.variants, safety_checker=True)) - set(
        family.components(family.variants)
    )
    expected = {"safety_checker", "feature_extractor"} if family is SD_V1 else set()
    assert extra == expected


def test_a_folder_has_one_source() -> None:
    sources: dict[str, set[str]] = {}
    for variant in SD_V1.variants.values():
        for component in variant.components.values():
            assert component.source is not None
            sources.setdefault(component.folder, set()).add(repr(component.sources))
    assert all(len(found) == 1 for found in sources.values())
