"""Stable Diffusion v1, distilled, and with a tiny VAE, behind one endpoint on Ray Serve.

Two kinds of processes serve a request: the ingress, a Serve deployment with FastAPI in it, and
replicas, one for each share of a device. A request's way through both:

     1. http/gate.py        checks headers, API key and the key's limits, before any route
     2. http/images.py      POST /v1/images/generations: reads the body (body.py), checks it
                            (schemas.py), negotiates the kind of answer (negotiation.py)
     3. routing/router.py   picks the variant; for `model: "auto"` by its policy (auto.py)
     4. http/schemas.py     fills in the variant's defaults and the seeds: a `Generation`
     5. routing/router.py   calls a replica, the one with the least work ahead (least_work.py);
                            once more where it dies
     6. replica/replica.py  admits the request, or says when to come back (admission.py)
     7. engine/loop.py      gives each image a slot (slots.py), steps all of them together, and
                            decodes them on a thread of its own (decoding.py)
     8. pipelines/pipeline.py  turns prompt and seed into noise (embeddings.py, trajectories.py),
                            takes one denoising step for many images, decodes latents (vae.py)
     9. replica/encoding.py pixels to PNG, JPEG or WebP
    10. http/images.py      JSON (base64_json.py), bytes, or server-sent events (streaming.py);
                            errors become statuses in http/error_responses.py

A room imports only rooms further down this way, and the words that all share:

    http         the HTTP side of the ingress; http/a1111 is AUTOMATIC1111's API, http/playground
                 the page
    routing      the other half of the ingress: which variant and which replica
    replica      the Ray actor: start-up, admission, drawing, encoding
    engine       the step loop and its rules; needs neither Ray nor torch, only a `Denoiser`
    pipelines    diffusers' models and schedulers on a device, and what makes them fast
    weights      a family folder: download, manifest, check; `python -m serve.weights`
    miniature    the embedded default's weights; miniature/training made them

    app          the composition root: options to deployments to one application
    config       `AppArgs`, the options of `build_app`
    __main__     `python -m serve`: that application on this machine
    settings     environment and command line to settings
    keys         API keys from a file of hashes; `python -m serve.keys new`
    metrics      every metric, named in one place
    variants     the catalogue: which components make a variant
    generation   what is to be drawn, and what came of it
    errors       every error, with its status and code

Imports inside are relative, so that a bare `serve` in a module always means Ray's.
"""
