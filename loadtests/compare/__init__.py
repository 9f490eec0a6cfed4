"""`python -m loadtests.compare`: which variant to pay for, measured over an endpoint.

The way of a comparison:

    __main__   the command: what to measure, where, and what to write
    service    a service of its own on the miniature, where no endpoint is given
    design     what is measured, how often, for how long at most
    campaign   carries it out, section by section, variants in turn; `search` picks the rates
    auto       `auto` beside each pinned variant at the same rates: what to offer, and its figures
    frontier   cost against quality of steps and schedulers: settings, Pareto line, recommendation;
               `sweep` draws them
    record     what it has measured: raw samples and pictures
    findings   the record's figures, the noise floor, what is decided: pure
    quality    how alike the pictures are; `decoders` compares the VAEs on identical latents
    verdict    the findings in words
    charts     curves, bars and histograms as SVG
    report     report.html, report.md, report.json, samples.csv
    gate       two reports against each other, for CI
"""
