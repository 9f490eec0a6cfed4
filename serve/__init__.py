"""Stable Diffusion v1, distilled, and with a tiny VAE, behind one endpoint on Ray Serve.

Behind Serve's proxy, two kinds of processes serve a request: the ingress, a Serve deployment with
FastAPI in it, and replicas, one per share of a device. A request's path through both:

     1. http/gate.py        checks headers, API key and the key's limits, before any route
     2. http/images.py      POST /v1/images/generations: reads the body (body.py), checks it
                            (schemas.py), negotiates the kind of answer (negotiation.py), checks
                            that the key may use the model, and draws a seed where none was given;
                            http/edits.py, POST /v1/images/edits: before that, reads a form
                            (multipart.py), and decodes its picture (uploads.py)
     3. routing/router.py   picks the variant, for `model: "auto"` by a policy (auto.py); the
                            variant's defaults complete the request to a `Generation`, to whose
                            size http/edit_schemas.py scales an edit's picture
     4. routing/replicas.py calls the replica with the least work ahead (least_work.py); the router
                            retries once if it dies
     5. replica/replica.py  admits the request, or refuses it with a Retry-After (admission.py)
     6. engine/loop.py      gives each image a slot (slots.py), steps all of them together, and
                            decodes them on a thread of its own (decoding.py), which first encodes
                            what an edit starts from
     7. pipelines/pipeline.py  makes embeddings of the prompt (embeddings.py) and noise of the seed,
                            takes one denoising step for many images, decodes latents (vae.py);
                            edits.py starts from a picture, and keeps what the mask leaves out
     8. replica/drawing.py  collects the pictures as they are done, encoded as PNG, JPEG or WebP
                            (encoding.py)
     9. http/images.py      answers with JSON (base64_json.py), bytes, or server-sent events
                            (streaming.py); http/error_responses.py turns errors into statuses

The packages, each importing only those further down its path:

    http         the HTTP side of the ingress; http/a1111 is AUTOMATIC1111's API, http/playground
                 the page
    routing      the other half of the ingress: which variant and which replica
    replica      the Ray actor: start-up, admission, drawing, encoding
    engine       the step loop and its rules; needs neither Ray nor torch, only a `Denoiser`
    pipelines    diffusers' models and schedulers on a device, and what makes them fast

Above them:

    __main__     `python -m serve`: the application on this machine
    app          the composition root: options to deployments to one application
    config       `AppArgs`, the options of `build_app`; http/options.py, replica/options.py,
                 routing/auto.py and pipelines/optimisations.py hold the groups that these read

Below them, for all:

    generation   what is to be drawn, and what came of it
    replica_info what a replica says of itself: device, memory, optimisations
    own_variants variants by configuration, over those of the catalogue
    catalogue    the built-in families and their variants
    variants     what a variant is made of: components, defaults, bounds
    weights      a family folder: download, manifest, check; `python -m serve.weights`
    miniature    the embedded default's weights; miniature/training made them
    metrics      every metric, named in one place; only routing and replica use it
    keys         API keys from a file of hashes; `python -m serve.keys new`
    settings     environment and command line to settings
    errors       every error, with its status and code

Imports inside the package are relative, so that a bare `serve` in a module always means Ray's.
"""
