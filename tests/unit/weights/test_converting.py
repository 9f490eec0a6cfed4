"""Checkpoints are written here in CompVis' layout, by the inverse of what is to be tested."""

import errno
import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from serve.catalogue import MINIATURE, SD_V1
from serve.miniature import WEIGHTS_DIR
from serve.own_variants import CatalogueEntry, with_entries
from serve.pipelines.pipeline import Pipeline
from serve.weights import converting
from serve.weights.__main__ import main
from serve.weights.check import check_family
from serve.weights.layout import UNFINISHED_DIR, architecture_dir
from serve.weights.manifest import read_manifest, write_manifest
from serve.weights.random_values import build_model
from serve.weights.saving import locked
from tests.commands import Done, run_main
from tests.pictures import TOLERANCE, difference, draw, stock_picture
from tests.unit.weights.test_weights import Canary

Tensors = dict[str, torch.Tensor]
Rules = list[tuple[str, str | Callable[[re.Match[str]], str]]]
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."

# From diffusers' names to those of CompVis' openaimodel.py and autoencoder's model.py.
UNET_RULES: Rules = [
    (r"(resnets\.\d\.)norm1", r"\1in_layers.0"),
    (r"(resnets\.\d\.)conv1", r"\1in_layers.2"),
    (r"(resnets\.\d\.)norm2", r"\1out_layers.0"),
    (r"(resnets\.\d\.)conv2", r"\1out_layers.3"),
    (r"time_emb_proj", "emb_layers.1"),
    (r"conv_shortcut", "skip_connection"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
]
VAE_RULES: Rules = [
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.resnets", lambda found: f"up.{3 - int(found[1])}.block"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{3 - int(found[1])}.upsample"),
    (r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"group_norm", "norm"),
    (r"to_([qkv])\.", r"\1."),
    (r"to_out\.0", "proj_out"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
]


def renamed(key: str, rules: Rules) -> str:
    for pattern, target in rules:
        key = re.sub(pattern, target, key)
    return key


def ldm_unet(tensors: Tensors) -> Tensors:
    layers = 2 if "down_blocks.0.resnets.1.norm1.weight" in tensors else 1

    def number(key: str) -> str:
        """CompVis counts through all input blocks, and through all output blocks."""
        if not (match := re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", key)):
            return key
        way, block, kind, layer, rest = match.groups()
        first = int(block) * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            attention = f"up_blocks.{block}.attentions.0.norm.weight" in tensors
            return f"output_blocks.{first + layers}.{1 + attention}.{rest}"
        place = f"{'input' if way == 'down' else 'output'}_blocks"
        at = first + int(layer) + (way == "down")
        return f"{place}.{at}.{0 if kind == 'resnets' else 1}.{rest}"

    return {UNET + number(renamed(key, UNET_RULES)): value for key, value in tensors.items()}


def ldm_vae(tensors: Tensors) -> Tensors:
    return {
        VAE + renamed(key, VAE_RULES): value[:, :, None, None]
        if "mid_block.attentions" in key and value.ndim == 2
        else value
        for key, value in tensors.items()
    }


def ldm_text_encoder(tensors: Tensors) -> Tensors:
    return {f"{TEXT}text_model.{key}": value for key, value in tensors.items()}


LDM = {"unet": ldm_unet, "vae": ldm_vae, "text_encoder": ldm_text_encoder}


def weights(folder: Path, name: str) -> Tensors:
    return load_file(next((folder / name).glob("*.fp16.safetensors")))


def checkpoint(unet: str = "unet", changed: float = 1) -> Tensors:
    """The miniature as a single file, its weights multiplied by `changed`."""
    return {
        key: value * changed
        for part, ldm in LDM.items()
        for key, value in ldm(weights(WEIGHTS_DIR, unet if part == "unet" else part)).items()
    }


def written(tensors: Tensors, path: Path) -> Path:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path


def convert(file: Path, folder: Path, name: str = "my-style", base: str = "original") -> Done:
    return run_main(
        main, "convert", file, folder, "--family", "miniature", "--name", name, "--base", base
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS_DIR, tmp_path / "family"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("base", "unet", "changed"),
    [
        pytest.param("original", "unet", 0.96875, id="all-changed"),
        pytest.param("distilled", "unet_distilled", 1.0, id="own-text-encoder-and-vae"),
    ],
)
def test_a_single_file_is_served_with_the_values_and_the_picture_that_it_was_made_of(
    folder: Path, tmp_path: Path, base: str, unet: str, changed: float
) -> None:
    tensors = checkpoint(unet, changed)
    tensors |= {key: value * 0.96875 for key, value in tensors.items() if key.startswith(UNET)}
    parts = ["unet"] if changed == 1 else list(LDM)
    done = convert(written(tensors, tmp_path / "my.safetensors"), folder, base=base)
    assert done.returncode == 0, done.stderr
    (content,) = yaml.safe_load(done.stdout)
    assert list(content) == ["name", "base", *parts]
    family = with_entries(MINIATURE, [CatalogueEntry.model_validate(content)])
    check_family(folder, family, ["original", "my-style"], hashes=True)
    assert read_manifest(folder).components["unet_my_style"].origin.kind == "local"
    assert (folder / "vae_my_style").exists() == ("vae" in parts)
    for part in parts:
        for key, value in LDM[part](weights(folder, f"{part}_my_style")).items():
            assert torch.equal(value, tensors.pop(key)), key
    assert (not tensors) == (changed != 1)
    pipe = Pipeline.load([family.variants[name] for name in (base, "my-style")], folder, "cpu")
    asked = family.variants["my-style"].generation("a golden vase", [7], 4)
    picture = draw(pipe, asked)
    assert difference(picture, stock_picture(pipe, asked)) <= TOLERANCE
    assert difference(picture, draw(pipe, replace(asked, variant=base))) > TOLERANCE


def test_the_names_of_stable_diffusion_v1_map_one_to_one() -> None:
    named: Tensors = {}
    for part, ldm in LDM.items():
        component = getattr(SD_V1.variants["original"], part)
        with torch.device("meta"):
            model = build_model(component, architecture_dir("sd-v1") / component.folder)
        given = ldm(model.state_dict())
        assert len(given) == len(model.state_dict())
        assert converting._misfit(part, given, model) is None
        named |= given
    assert named[f"{UNET}output_blocks.2.1.conv.weight"].shape == (1280, 1280, 3, 3)
    assert named[f"{UNET}output_blocks.5.2.conv.weight"].shape == (1280, 1280, 3, 3)
    assert named[f"{UNET}input_blocks.3.0.op.weight"].shape == (320, 320, 3, 3)
    assert named[f"{VAE}encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert named[f"{TEXT}text_model.encoder.layers.11.mlp.fc2.weight"].shape == (768, 3072)


def test_what_other_programs_write_into_files_is_accepted(folder: Path, tmp_path: Path) -> None:
    tensors = checkpoint(changed=0.5)
    older = {
        key.replace("text_model.", ""): value.float() if "bias" in key else value
        for key, value in tensors.items()
    }
    unused = {
        f"{TEXT}embeddings.position_ids": torch.arange(77),
        f"{VAE}loss.logvar": torch.zeros(()),
        "model_ema.decay": torch.tensor(0.9),
        "model_ema.diffusion_modelout2bias": torch.zeros(4),
        "betas": torch.zeros(1000, dtype=torch.float64),
        "optimizer.state.0": torch.zeros(3, dtype=torch.int64),
    }
    file = written(older | unused, tmp_path / "x.safetensors")
    for _ in range(2):  # The second run finds the same there.
        assert convert(file, folder).returncode == 0
    for part, ldm in LDM.items():
        for key, value in ldm(weights(folder, f"{part}_my_style")).items():
            assert torch.equal(value, tensors[key]), key


def test_what_a_file_lacks_is_the_bases(folder: Path, tmp_path: Path) -> None:
    tensors = checkpoint(changed=0.5)
    tensors = {key: value for key, value in tensors.items() if not key.startswith(TEXT)}
    done = convert(written(tensors, tmp_path / "x.safetensors"), folder, base="distilled-tiny-vae")
    assert "it fits --base original" in done.stderr
    done = convert(written(tensors, tmp_path / "x.safetensors"), folder)
    assert "text_encoder: not in the file" in done.stderr
    (content,) = yaml.safe_load(done.stdout)
    assert list(content) == ["name", "base", "unet", "vae"]


def test_a_file_that_is_marked_to_predict_v_gets_a_scheduler_that_does(
    folder: Path, tmp_path: Path
) -> None:
    tensors = checkpoint(changed=0.5) | {"v_pred": torch.zeros(0)}
    done = convert(written(tensors, tmp_path / "x.safetensors"), folder)
    (content,) = yaml.safe_load(done.stdout)
    assert content["scheduler"] == {"folder": "scheduler_my_style"}
    config, base = (
        json.loads((folder / name / "scheduler_config.json").read_text())
        for name in ("scheduler_my_style", "scheduler")
    )
    assert config == base | {"prediction_type": "v_prediction"}
    family = with_entries(MINIATURE, [CatalogueEntry.model_validate(content)])
    check_family(folder, family, ["my-style"])


FIRST = f"{UNET}input_blocks.0.0.weight"
KEYS = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        pytest.param({"conditioner.embedders.0.x": ONE}, "of Stable Diffusion XL", id="sdxl"),
        pytest.param({"cond_stage_model.model.ln_final.bias": ONE}, "Diffusion 2", id="sd2"),
        pytest.param({KEYS: torch.zeros(48, 1024)}, "Stable Diffusion 2 (", id="sd2-unet"),
        pytest.param({FIRST: torch.zeros(48, 9, 3, 3)}, "an inpainting", id="inpainting"),
        pytest.param({"ztsnr": torch.zeros(0)}, "is marked 'ztsnr'", id="zero-snr"),
        pytest.param({"lora_unet_mid.alpha": ONE}, "is a LoRA", id="lora"),
        pytest.param({"unet.mid.lora_A.weight": ONE}, "is a LoRA", id="lora-of-peft"),
        pytest.param({FIRST: torch.full((48, 4, 3, 3), torch.nan)}, "NaN", id="nan"),
        pytest.param({FIRST: torch.full((48, 4, 3, 3), 1e5)}, "infinite in fp16", id="too-large"),
        pytest.param(
            {FIRST: torch.zeros(48, 4, 3, 3, dtype=torch.int8)}, "is I8; allowed", id="quantised"
        ),
        pytest.param(
            {f"{UNET}out.2.bias": torch.zeros(5)},
            "unet doesn't fit 'original': conv_out.bias has shape [5], not [4]",
            id="shape",
        ),
        pytest.param({f"{UNET}label_emb.0.0.weight": ONE}, "label_emb.0.0.weight is", id="more"),
        pytest.param({f"{VAE}decoder.norm_out.bias": None}, "vae doesn't fit", id="less-vae"),
        pytest.param(
            {f"{VAE}encoder.mid.attn_1.q.weight": torch.zeros(64, 64, 0, 1)},
            "attn_1.q.weight has shape [64, 64, 0, 1]",
            id="vae-attention",
        ),
        pytest.param(
            {f"{TEXT}text_model.final_layer_norm.bias": None},
            "text_encoder doesn't fit",
            id="less-text-encoder",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path, changes: dict[str, torch.Tensor | None], complaint: str
) -> None:
    content = checkpoint() | changes
    tensors = {key: value for key, value in content.items() if value is not None}
    refused(written(tensors, tmp_path / "x.safetensors"), folder, complaint)


def refused(file: Path, folder: Path, complaint: str, **options: str) -> None:
    before = sorted(folder.rglob("*"))
    done = convert(file, folder, **options)
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_file_that_is_no_checkpoint_is_refused_and_never_unpickled(
    folder: Path, tmp_path: Path
) -> None:
    whole = written(checkpoint(), tmp_path / "whole.safetensors").read_bytes()
    vae = written(weights(WEIGHTS_DIR, "vae"), tmp_path / "vae").read_bytes()
    other = written({"x": ONE}, tmp_path / "other").read_bytes()
    torch.save({"state_dict": {}}, tmp_path / "zip")
    canary = tmp_path / "canary"
    for content, complaint in (
        ((tmp_path / "zip").read_bytes(), "is a pickle"),
        (pickle.dumps(Canary(canary), protocol=2), "is a pickle"),
        (b"x" * 100, "is not safetensors, or truncated"),
        (b"", "is not safetensors, or truncated"),
        (whole[:-1], "is not safetensors, or truncated"),
        (vae, "is a component in diffusers' layout; copy its folder"),
        (other, "lacks unet, vae, text_encoder (no tensor is named model.diffusion_model.*)"),
    ):
        file = tmp_path / "my.safetensors"
        file.write_bytes(content)
        refused(file, folder, f"{file}: ")
        refused(file, folder, complaint)
    assert not canary.exists()
    refused(tmp_path, folder, "is not a file")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        pytest.param({"name": "original"}, "original: name: is taken", id="built-in"),
        pytest.param({"name": "tiny"}, "vae_tiny is a folder of the family", id="its-folder"),
        pytest.param({"name": "My Style"}, "'My Style' was given", id="pattern"),
        pytest.param(
            {"base": "mine"},
            f"base: 'mine' was given; only built-in variants are allowed: "
            f"{', '.join(MINIATURE.variants)}\n",
            id="base",
        ),
    ],
)
def test_a_name_that_cannot_be_a_variants_is_refused(
    folder: Path, tmp_path: Path, options: dict[str, str], complaint: str
) -> None:
    refused(written(checkpoint(), tmp_path / "x.safetensors"), folder, complaint, **options)


def test_a_folder_that_is_no_family_folder_or_full_or_in_use_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(checkpoint(), tmp_path / "x.safetensors")
    (tmp_path / "empty").mkdir()
    for other in (tmp_path / "empty", tmp_path / "nowhere"):
        refused(file, other, "`make weights` writes one")
    done = run_main(main, "convert", file, folder, "--name", "my-style")
    assert "weights of family 'miniature', not of 'sd-v1'" in done.stderr
    with locked(folder):
        refused(file, folder, "another command is writing into it")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    refused(file, folder, "0.0 GB are free")


def test_what_is_converted_is_never_overwritten(tmp_path: Path) -> None:
    folder, file = tmp_path / "family", tmp_path / "x.safetensors"
    random = ("random", folder, "--family", "miniature")
    assert run_main(main, *random).returncode == 0
    assert convert(written(checkpoint(), file), folder).returncode == 0
    before = weights(folder, "vae_my_style")
    refused(written(checkpoint(changed=0.5), file), folder, "holds something else already")
    assert run_main(main, *random).returncode == 0
    assert run_main(main, "verify", folder).returncode == 0
    assert all(torch.equal(before[key], weights(folder, "vae_my_style")[key]) for key in before)


def test_what_can_be_known_is_refused_before_the_values_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(checkpoint(), tmp_path / "x.safetensors")
    monkeypatch.delattr(converting, "_read")

    def read_only(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("serve.weights.converting.Path.mkdir", read_only)
        refused(file, folder, f"{folder / UNFINISHED_DIR}: Permission denied")
    shutil.copytree(folder / "unet", folder / "unet_my_style")
    manifest = read_manifest(folder)
    components = {**manifest.components, "unet_my_style": manifest.components["unet"]}
    write_manifest(folder, manifest.model_copy(update={"components": components}))
    refused(file, folder, f"{folder / 'unet_my_style'}: holds something else already")


def test_the_licence_is_in_the_entry_and_is_kept_by_later_runs(
    folder: Path, tmp_path: Path
) -> None:
    file = written(checkpoint(changed=0.5), tmp_path / "x.safetensors")
    for options, licence in (
        (["--licence", "mine"], "mine"),
        ([], "mine"),
        (["--licence", "b"], "b"),
    ):
        done = run_main(
            main, "convert", file, folder, "--family", "miniature", "--name", "my-style", *options
        )
        (content,) = yaml.safe_load(done.stdout)
        assert {content[part]["licence"] for part in LDM} == {licence}
        assert read_manifest(folder).components["vae_my_style"].origin.licence == licence
        # No progress bars between the lines.
        assert [line.split(":")[0] for line in done.stderr.splitlines()] == list(LDM)


@pytest.mark.parametrize("step", ["save_fp16", "pin", "write_manifest", "Path.rename"])
def test_an_interrupted_run_leaves_nothing_that_is_refused_and_is_completed_by_the_next(
    folder: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(checkpoint(changed=0.5), tmp_path / "x.safetensors")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"serve.weights.converting.{step}", interrupt)
        # As if killed: nothing is cleaned up.
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        assert "interrupted" in convert(file, folder).stderr
    assert (folder / UNFINISHED_DIR).exists()
    check_family(folder, MINIATURE, MINIATURE.variants, hashes=True)
    assert convert(file, folder).returncode == 0
    assert run_main(main, "verify", folder).returncode == 0
    assert not (folder / UNFINISHED_DIR).exists()
