"""The published architectures, value for value, and random weights for them."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from transformers import CLIPTokenizer

from serve.catalogue import MINIATURE, SD_V1
from serve.miniature import WEIGHTS_DIR
from serve.own_variants import read_catalogue, with_entries
from serve.pipelines.pipeline import Pipeline
from serve.weights.check import check_family
from serve.weights.layout import architecture_dir
from serve.weights.manifest import read_manifest
from serve.weights.random_values import build_model
from tests.fakes import generation
from tests.pictures import draw
from tests.unit.weights.test_weights import cli

ARCHITECTURE = architecture_dir("sd-v1")
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("unet", 859_520_964),
        ("unet_distilled", 482_346_884),
        ("unet_bk_base", 579_384_964),
        ("unet_bk_tiny", 323_384_964),
        ("vae", 83_653_863),
        ("vae_tiny", 1_222_532 + 1_222_531),
        ("text_encoder", 123_060_480),
    ],
)
def test_the_published_architectures_have_their_parameters(name: str, parameters: int) -> None:
    component = SD_V1.components(SD_V1.variants)[name]
    with torch.device("meta"):
        model = build_model(component, ARCHITECTURE / name)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_tokenizer_is_clips() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(ARCHITECTURE / "tokenizer")
    assert len(tokenizer) == 49_408
    assert tokenizer.model_max_length == 77
    # The published CLIP's tokens of this caption.
    expected = [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("a photo of a cat").input_ids == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random") / "miniature"
    assert cli("random", path, "--family", "miniature", "--seed", 7) == 0
    return path


def test_a_random_family_is_complete_and_loads(folder: Path) -> None:
    check_family(folder, MINIATURE, MINIATURE.default_variants, hashes=True)
    pipe = Pipeline.load([MINIATURE.variants["distilled-tiny-vae"]], folder, "cpu")
    # Not finite would be an error.
    asked = generation(variant="distilled-tiny-vae", num_inference_steps=2)
    assert draw(pipe, asked).std() > 0


def test_it_has_the_shapes_but_not_the_values_of_the_trained_one(folder: Path) -> None:
    random, trained = load_file(folder / UNET), load_file(WEIGHTS_DIR / UNET)
    assert {n: v.shape for n, v in random.items()} == {n: v.shape for n, v in trained.items()}
    assert {v.dtype.name for v in random.values()} == {"float16"}
    name = "conv_in.weight"
    assert abs(random[name] - trained[name]).max() > 0.01


def test_the_seed_decides_the_values(folder: Path, tmp_path: Path) -> None:
    pinned = []
    for seed in (7, 8):
        arguments = ["--family", "miniature", "--variants", "distilled-tiny-vae", "--seed", seed]
        assert cli("random", tmp_path / str(seed), *arguments) == 0
        pinned.append(read_manifest(tmp_path / str(seed)).components["unet_distilled"].files)
    assert pinned[0] == read_manifest(folder).components["unet_distilled"].files
    assert pinned[0] != pinned[1]


def test_its_manifest_says_that_the_values_are_random(folder: Path) -> None:
    manifest = read_manifest(folder)
    origin = manifest.components["unet"].origin
    assert (origin.kind, origin.seed) == ("random", 7)
    assert manifest.components["tokenizer"].origin.kind == "shipped"
    for variant in map(MINIATURE.variants.get, MINIATURE.default_variants):
        assert "random values" in (manifest.note(variant) or "")
        assert read_manifest(WEIGHTS_DIR).note(variant) is None


def test_own_variants_have_the_architecture_of_their_base(tmp_path: Path) -> None:
    catalogue, folder = tmp_path / "my.yaml", tmp_path / "family"
    catalogue.write_text(
        "- {name: mine, base: distilled, unet: {folder: unet_mine},"
        " tokenizer: {repository: me/words}}"
    )
    arguments = ["--family", "miniature", "--catalogue", catalogue]
    assert cli("random", folder, *arguments, "--variants", "mine") == 0
    family = with_entries(MINIATURE, read_catalogue(catalogue))
    manifest = check_family(folder, family, ["mine"], hashes=True)
    assert {"unet_mine", "tokenizer_mine"} < set(manifest.components)
    paths = folder / "unet_mine", WEIGHTS_DIR / "unet_distilled"
    made, base = (load_file(path / Path(UNET).name) for path in paths)
    assert {n: v.shape for n, v in made.items()} == {n: v.shape for n, v in base.items()}
    # A later run that doesn't know them leaves them.
    assert cli("random", folder, "--family", "miniature", "--seed", 3) == 0
    assert read_manifest(folder).components["unet_mine"] == manifest.components["unet_mine"]
    assert cli("verify", folder) == 0


def test_it_is_never_written_over_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, mine = tmp_path / "trained", tmp_path / "mine"
    shutil.copytree(WEIGHTS_DIR, trained)
    mine.mkdir()
    (mine / "mine.txt").write_text("x")
    for folder, complaint in ((trained, "choose another folder"), (mine, "an empty folder")):
        assert cli("random", folder, "--family", "miniature") == 1
        assert complaint in capsys.readouterr().err
    assert cli("verify", trained) == 0
    assert [path.name for path in mine.iterdir()] == ["mine.txt"]
