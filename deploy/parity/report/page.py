"""The page around the sections, with the whole document in it for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from deploy.parity.report import sections
from deploy.parity.report.style import CSS


def render(document: Mapping[str, Any]) -> str:
    """The HTML of a document of ``verify --layers --json`` (:meth:`deploy.workflows.verify.VerifyReport.to_dict`).

    Names of files, layers and tensors are escaped: they are a stranger's. Bytes of file names that are no UTF-8 are
    shown as ``?``; the JSON has them.
    """
    layers, (verdict,) = document["layers"], document["verdicts"]
    body = [
        sections.heading(document, verdict, layers),
        sections.accuracy(layers),
        sections.fp16_range(layers),
        sections.search(layers["search"]),
        sections.table(layers),
        sections.histograms(layers),
    ]
    name = escape(verdict["name"])
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}: layer by layer</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + f'\n<script type="application/json" id="document">{embedded(document)}</script>\n</body>\n</html>\n'
    )
    return html.encode(errors="replace").decode()


def embedded(document: Mapping[str, Any]) -> str:
    """JSON in ASCII that cannot end the script element it stands in."""
    written = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
