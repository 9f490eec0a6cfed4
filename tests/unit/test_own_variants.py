"""Variants by configuration: what an entry makes, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.catalogue import MINIATURE, SD_V1
from serve.config import AppArgs
from serve.own_variants import CatalogueEntry, read_catalogue, with_entries
from serve.variants import Component, Source


def extended(*entries: dict[str, Any], family: Any = SD_V1) -> Any:
    return with_entries(family, [CatalogueEntry.model_validate(entry) for entry in entries])


def test_a_variant_is_its_base_but_for_what_the_entry_says() -> None:
    unet = {"repository": "me/my-style", "revision": "v2", "licence": "mine"}
    family = extended({"name": "my-style", "base": "distilled", "unet": unet, "default_steps": 12})
    made, base = family.variants["my-style"], SD_V1.variants["distilled"]
    assert made.unet == Component(
        folder="unet_my_style",
        component_class="UNet2DConditionModel",
        source=Source("me/my-style", "v2", "unet", "mine"),
        like="unet_distilled",
    )
    assert (made.default_steps, made.vae, made.schedulers) == (12, base.vae, base.schedulers)


def test_it_is_served_only_where_it_is_named() -> None:
    entry = {"name": "mine", "base": "original", "default_steps": 10}
    assert "mine" not in AppArgs.model_validate({"catalogue": [entry]}).served
    named = AppArgs.model_validate({"catalogue": [entry], "variants": "distilled,mine"})
    assert list(named.served) == ["distilled", "mine"]
    assert "mine" in AppArgs.model_validate({"catalogue": [entry], "variants": "all"}).served


def test_a_folder_of_the_family_is_taken_as_it_is() -> None:
    family = extended({"name": "mine", "base": "original", "vae": {"folder": "vae_tiny"}})
    assert family.variants["mine"].vae == SD_V1.variants["distilled-tiny-vae"].vae


def test_an_entry_may_start_from_another_whichever_comes_first() -> None:
    family = extended(
        {"name": "b", "base": "a", "max_steps": 40},
        {"name": "a", "base": "distilled", "unet": {"folder": "unet_a"}, "default_steps": 8},
    )
    made = family.variants["b"]
    assert (made.unet.folder, made.default_steps, made.max_steps) == ("unet_a", 8, 40)
    assert list(family.variants)[-2:] == ["b", "a"]


def test_a_vae_of_another_class_has_the_architecture_of_that_class() -> None:
    vae = {"repository": "me/tiny", "class": "AutoencoderTiny", "subfolder": ""}
    made = extended({"name": "mine", "base": "original", "vae": vae}).variants["mine"].vae
    assert (made.component_class, made.like) == ("AutoencoderTiny", "vae_tiny")
    assert made.source == Source("me/tiny", "main", None, "unknown")


def test_the_options_take_entries_or_the_path_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.yaml"
    path.write_text("- name: mine\n  base: original\n  unet: {folder: unet_mine}\n")
    entry = {"name": "mine", "base": "original", "unet": {"folder": "unet_mine"}}
    inline = AppArgs.model_validate({"catalogue": [entry]})
    assert AppArgs.model_validate({"catalogue": str(path)}) == inline
    assert inline.known.variants["mine"].unet.folder == "unet_mine"


UNET = {"repository": "a/b"}


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        pytest.param(["my-style"], "entry 1: 'my-style' was given; it must be a map", id="text"),
        pytest.param(
            [{"name": "x", "base": "original", "unet": "unet_x"}],
            "entry 1: unet: 'unet_x' was given; it must be a mapping, such as {folder: ...}",
            id="component-as-text",
        ),
        pytest.param(
            [{"name": 15, "base": "original"}],
            "entry 1: name: 15 was given; it must be text, in quotes",
            id="number-as-name",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "schedulers": "pndm"}],
            "entry 1: schedulers: 'pndm' was given; it must be a list",
            id="no-list-of-schedulers",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "default_steps": True}],
            "entry 1: default_steps",
            id="truth-as-a-number",
        ),
        pytest.param(
            [
                {
                    "name": "x",
                    "base": "original",
                    "vae": {"folder": "vae_tiny", "class": "AutoencoderKL"},
                }
            ],
            "x: vae: class: 'vae_tiny' holds AutoencoderTiny",
            id="class-of-a-folder",
        ),
        pytest.param(
            [{"name": f"x{i}", "base": "original"} for i in range(201)],
            "201 entries were given; at most 200 are allowed",
            id="too-many",
        ),
        pytest.param([{"base": "original"}], "entry 1: name: missing", id="no-name"),
        pytest.param(
            [{"name": "x", "base": "original", "unett": UNET}],
            "entry 1: 'unett' is unknown; did you mean 'unet'?",
            id="unknown-key",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "unet": {"repositry": "a/b"}}],
            "entry 1: unet: 'repositry' is unknown; did you mean 'repository'?",
            id="unknown-key-of-a-component",
        ),
        pytest.param(
            [{"name": "My Style", "base": "original"}],
            "entry 1: name: must be at most 50 lower-case letters",
            id="bad-name",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "unet": {"folder": "../x"}}],
            "entry 1: unet.folder: must be letters",
            id="folder-elsewhere",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "unet": {"repository": "https://a"}}],
            "entry 1: unet.repository: must be the name of a repository",
            id="no-repository",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "unet": {"licence": "MIT"}}],
            "entry 1: unet: name a repository, or a folder",
            id="component-from-nowhere",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "unet": UNET | {"class": "AutoencoderKL"}}],
            "x: unet: class: only a vae may be of another one",
            id="class-of-a-unet",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "default_size_px": 100}],
            "entry 1: default_size_px",
            id="size-not-of-eights",
        ),
        pytest.param(
            [{"name": "distilled", "base": "original"}], "distilled: name: is taken", id="taken"
        ),
        pytest.param([{"name": "auto", "base": "original"}], "auto: name: is taken", id="auto"),
        pytest.param(
            [{"name": "x", "base": "original"}] * 2,
            "x: name: two entries have it",
            id="taken-by-another",
        ),
        pytest.param(
            [{"name": "x", "base": "orignal"}],
            "x: base: 'orignal' was given; did you mean 'original'?; allowed in family sd-v1: ",
            id="unknown-base",
        ),
        pytest.param(
            [{"name": "a", "base": "b"}, {"name": "b", "base": "a"}],
            "base: goes in a circle: a -> b -> a",
            id="circle",
        ),
        pytest.param([{"name": "a", "base": "a"}], "goes in a circle: a -> a", id="own-base"),
        pytest.param(
            [{"name": "x", "base": "original", "unet": UNET | {"folder": "unet"}}],
            "x: unet: folder: 'unet' holds something else already",
            id="folder-taken",
        ),
        pytest.param(
            [
                {"name": "x", "base": "original", "unet": UNET | {"folder": "unet_x"}},
                {
                    "name": "y",
                    "base": "original",
                    "unet": {"repository": "c/d", "folder": "unet_x"},
                },
            ],
            "y: unet: folder: 'unet_x' holds something else already",
            id="folder-of-another-entry",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "unet": {"folder": "text_encoder"}}],
            "x: unet: folder: 'text_encoder' holds CLIPTextModel; UNet2DConditionModel is needed",
            id="folder-of-another-kind",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "default_scheduler": "lcm"}],
            "x: default_scheduler: 'lcm'; schedulers allows pndm, ",
            id="scheduler-not-allowed",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "max_steps": 10}],
            "x: default_steps: 25 are over max_steps, 10",
            id="steps",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "max_guidance_scale": 1}],
            "x: guidance_scale: 7.5 is over max_guidance_scale, 1",
            id="guidance",
        ),
        pytest.param(
            [{"name": "x", "base": "original", "max_size_px": 448}],
            "x: default_size_px: 512 is not from min_size_px, 256, to max_size_px, 448",
            id="size",
        ),
    ],
)
def test_a_wrong_entry_is_refused_in_words(
    entries: list[dict[str, Any]], complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump(entries))
    with pytest.raises(ValueError, match=f"catalogue.*{re.escape(complaint)}"):
        AppArgs.model_validate({"family": "sd-v1", "catalogue": str(path)})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param("- name: [", "is not YAML", id="no-yaml"),
        pytest.param("name: x", "must hold a list of variants", id="no-list"),
        pytest.param("", "must hold a list of variants", id="empty"),
        pytest.param("- !!python/object/apply:os.getcwd []", "is not YAML", id="an-object"),
        pytest.param("x" * (1024 * 1024 + 1), "over 1048576 bytes", id="huge"),
        pytest.param("\udcff", "must be text in UTF-8", id="no-utf8"),
        pytest.param("- {name: x, base: a, name: y}", "'name' is there twice", id="two-keys"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused(
    content: str, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "catalogue.yaml"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=complaint):
        read_catalogue(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"catalogue.yaml: can't be read: No such file"):
        read_catalogue(tmp_path / "catalogue.yaml")


def test_without_entries_the_family_is_the_built_in_one() -> None:
    assert extended(family=MINIATURE) is MINIATURE
