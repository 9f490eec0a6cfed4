import tomllib

import pytest

from serve.catalogue import MINIATURE, SD_V1
from serve.generation import VERSION
from serve.variants import Family
from tests.machine import ROOT

FAMILIES = pytest.mark.parametrize("family", [MINIATURE, SD_V1], ids=lambda one: one.name)


def test_pictures_name_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


@FAMILIES
def test_both_families_serve_the_three_variants_unasked(family: Family) -> None:
    assert list(family.default_variants) == ["original", "distilled", "distilled-tiny-vae"]
    assert all(name == variant.name for name, variant in family.variants.items())


def test_the_distilled_family_is_served_where_it_is_named() -> None:
    named = ["bk-sdm-base", "bk-sdm-tiny", "small-sd", "tiny-sd"]
    both = [name + suffix for name in named for suffix in ("", "-tiny-vae")]
    # Few-step ones last.
    assert list(SD_V1.variants)[3:] == [*both, "original-lcm", "original-lcm-tiny-vae"]
    assert all(SD_V1.variants[name].on_request for name in both)
    for name, size in zip(named, ("base", "tiny") * 2, strict=True):
        variant = SD_V1.variants[name]
        assert variant.unet.architecture == f"unet_bk_{size}"
        assert SD_V1.variants[f"{name}-tiny-vae"].vae.folder == "vae_tiny"
        # Segmind's were distilled from a teacher with a text encoder and a VAE of its own.
        parts = variant.components.values()
        own = [part.folder for part in parts if f"segmind/{name}" in str(part.source)]
        assert len(own) == (3 if name.endswith("-sd") else 0)


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
