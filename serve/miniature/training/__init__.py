"""How the miniature is made: procedural scenes, a tokenizer, training stages, and what judges it.

In order: `drawing` and `scenes` (pictures and captions), `tokenizer` (its vocabulary),
`architecture` (every component's configuration), `__main__` (the stages), `measure` with `judges`
(what the shipped weights can do) and `contact_sheet`.
"""
