"""A family folder: what must lie in it, where its files come from, and what is refused.

    FOLDER/manifest.json
    FOLDER/{tokenizer,text_encoder,scheduler,unet,unet_distilled,vae,vae_tiny}/
    FOLDER/{safety_checker,feature_extractor}/    only where they were asked for

Each sub-folder is what diffusers' or transformers' `save_pretrained` writes. Weights are
safetensors only: a pickle anywhere in the folder is refused, because loading one runs its code.

    layout         where a family and its components lie; light enough for the pipelines
    manifest       what each file is: bytes, sha256, repository, revision, licence
    check          what a server refuses, and `verify`
    hub            downloads a family with huggingface_hub; `hub_errors` says what went wrong
    random_values  the published architectures with random values, for timing
    saving         how models are written into a family folder
    __main__       `python -m serve.weights download|random|adopt|verify`
    architectures  the published models' configurations, and CLIP's tokenizer

Nothing is imported here: servers need neither the hub's client nor what makes random values.
"""
