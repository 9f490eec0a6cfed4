"""The loop that owns a device: step-level batching over the `Denoiser` protocol.

    loop       Engine: submits jobs, steps them, admits and drops at step boundaries
    decoding   prepares jobs and turns finished images into pixels, beside the steps; previews
    under_way  one image of a request; a stopwatch for calls into the device
    previews   the time budget of previews on a shared device
    denoiser   the protocol of what draws
    slots      which images are under way, and whose turn it is
    tickets    a submitted request: events, result, cancellation
    forecast   how long work takes
    sweep      finds at start-up how many images a call is worth
    observer   receives the engine's measurements

Pure asyncio and threads: neither Ray nor torch. `slots` and `forecast` know neither clock nor
device, so a simulation can run the same rules with a virtual clock.
"""
