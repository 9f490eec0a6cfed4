"""The loop that owns a device: step-level batching over the `Denoiser` protocol.

    loop       Engine: submit, step, close; what happens at each step boundary
    decoding   finished images to pixels, beside the steps; previews
    under_way  one image of a request; a watch over calls
    previews   how many previews a shared device has time for
    denoiser   the protocol of what draws
    slots      which images are under way, and whose turn it is
    tickets    a request as its submitter sees it: events, result, cancel
    forecast   how long work is going to take
    sweep      how many images a call is worth, tried at start-up
    observer   where measurements go

Pure asyncio and threads: neither Ray nor torch. The load tests' simulation plays `slots` and
`forecast` with a clock of its own, so what is simulated is what runs.
"""
