"""Tables of the reports, and the numbers in them."""


def table(caption: str, head: list[str], rows: list[list[str]]) -> str:
    """A caption, a blank line and the table, without a line break at the end."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join([caption, "", *lines])


def number(value: float | None, form: str = ".2f", unknown: str = "-") -> str:
    """In words; `unknown` where there is none."""
    return unknown if value is None else f"{value:{form}}"
