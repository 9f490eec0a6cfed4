"""Tables of the reports."""


def table(caption: str, head: list[str], rows: list[list[str]]) -> str:
    """A caption, a blank line and the table, without a line break at the end."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join([caption, "", *lines])
