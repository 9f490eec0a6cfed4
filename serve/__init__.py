"""Stable Diffusion v1, distilled, and with a tiny VAE, behind one endpoint on Ray Serve.

The way of a request, one line per module; each imports only what stands below it:

    api          HTTP routes
    browsers     round everything: what a browser is told with every answer
    webui        routes under /sdapi/v1 for AUTOMATIC1111's clients, where they are switched on
    answers      what every route answers where it fails: errors to statuses
    gate         before any route: headers, API keys, places; the body's arrival
    docs         the page at `/docs`: Swagger UI over the API's description
    playground   the page at `/`: static files that use the API from the browser
    negotiation  what an Accept header asks for
    streaming    pictures as server-sent events, with heartbeats
    base64_json  pictures inside JSON, copied once
    sdapi        AUTOMATIC1111's dialect: its txt2img request to `schemas`' and back
    schemas      a body to a checked request; a request and a variant to a `Generation`
    policies     which variant answers for `auto`
    shadow       repeats some requests on a second variant, to compare
    router       picks the variant, calls a replica, tries once more where one dies
    deployments  VariantReplica: the actor round an engine
    engine       the loop that owns a device and steps all its requests together
    pipelines    a replica's variants on a device: begin, one denoising step, decode, preview
    images       pixels to PNG, JPEG or WebP
    infotext     a picture's parameters as text

What the pipelines are made of, each importing only what stands below it:

    vae            latents to pixels: finished images and previews, beside the steps
    safety         which pictures nobody may see: the published safety checker, where it is on
    compile        what makes a UNet fast before the first request, and the report of it
    graphs         a UNet call recorded per batch size and replayed, with the padding hidden
    components     a family folder's models, each loaded once
    embeddings     prompts to embeddings, and a cache of them
    trajectories   one image under way: its scheduler, its latents, its plan
    devices        which device, copies, streams and events, its memory
    optimisations  what may be done to be faster, each with a switch

Beside the way:

    app          the composition root: arguments to deployments to one application
    __main__     `python -m serve`: that application on this machine
    metrics      every metric, named in one place
    denoiser     what an engine asks of the pipelines: the protocol between the two
    generation   what is to be drawn and what came of it: the words between router and pictures
    variants     the catalogue: which components make a variant
    weights      a family folder: downloading, pinning and checking it, and random values
    keys         API keys from a file of hashes; `python -m serve.keys new`
    settings     environment and command line to settings
    errors       one tree; each class carries its status and code
    miniature    the embedded default: a small trained family, its scenes and its training

Imports inside are relative, so that a bare `serve` in a module always means Ray's.
"""
