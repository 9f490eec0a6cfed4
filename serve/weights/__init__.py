"""Family folders: what they must hold, where their files come from, and what is refused.

    FOLDER/manifest.json
    FOLDER/{tokenizer,text_encoder,scheduler,unet,unet_distilled,vae,vae_tiny}/
    FOLDER/{safety_checker,feature_extractor}/    optional

Each sub-folder is what diffusers' or transformers' `save_pretrained` writes. Weights are
safetensors only: a pickle anywhere in the folder is refused, because loading one runs code.

    layout         paths of families and components; standard library only
    manifest       each file's bytes, sha256, repository, revision and licence
    check          the checks of a server at start, and of `verify`
    hub            downloads a family with huggingface_hub
    hub_errors     translates huggingface_hub's errors
    merging        a LoRA into a UNet, when weights are downloaded
    converting     component folders of a single-file checkpoint
    random_values  the published architectures with random values, for timing
    saving         writes models into a family folder
    __main__       `python -m serve.weights download|random|adopt|verify|convert`
    architectures  the published models' configurations, and CLIP's tokenizer

Nothing is imported here: servers need neither the hub's client nor random values.
"""
