"""The table of differences in docs/serving.md, made from ``differences.toml``; ``make conformance-page`` writes it."""

from __future__ import annotations

from commands import REPOSITORY

from conformance.suite import justified, recorded

PAGE = REPOSITORY / "docs" / "serving.md"
START, END = "<!-- differences: made by tests/conformance/page.py -->\n", "<!-- end of the differences -->\n"


def table() -> str:
    """One row for each reason."""
    rows = ["| case | Triton | ours | why |", "|---|---|---|---|"]
    for row in justified():
        cases = " · ".join(row["cases"]).replace("|", "\\|")
        rows.append(f"| {cases} | {row['triton']} | {row['ours']} | {row['reason']} |")
    different = sum(len(row["cases"]) for row in justified())
    head = f"{len(recorded('ours'))} cases, {len(recorded('ours')) - different} answered alike, {different} not:\n\n"
    return head + "\n".join(rows) + "\n"


def renewed(text: str) -> str:
    """The page with the table as it must be."""
    before, rest = text.split(START)
    return f"{before}{START}{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")
