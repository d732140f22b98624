"""An executed notebook's cells as HTML that is safe to open: markup in texts and outputs is text, formulas are MathML."""

import re
import sys

sys.modules.setdefault("rfc3987_syntax", None)  # as in hippo_utils.run: more than a second for nothing

import bleach
from latex2mathml.converter import convert
from markupsafe import Markup, escape
from nbconvert.filters import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td", "div", "p", "span", "b", "strong", "em", "code", "pre", "br"}


def formula(tex: str, display: str = "inline") -> str:
    """TeX as MathML; what cannot be read as TeX is shown as it is."""
    try:
        return convert(tex.strip(), display=display)
    except Exception:  # the library has no error of its own for every mistake
        return f"<code>{escape(tex)}</code>"


class Renderer(IPythonRenderer):
    """nbconvert's Markdown with formulas as MathML, which browsers draw without MathJax."""

    def block_math(self, body: str) -> str:
        return f'<div class="formula">{formula(body, "block")}</div>'

    def inline_math(self, body: str) -> str:
        return formula(body)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A page loads nothing: a picture from elsewhere, such as a badge, is its words."""
        return str(escape(text))


def markdown(text: str) -> Markup:
    """A Markdown cell; raw HTML in it is shown as text and links of other protocols than the web's are dropped."""
    return Markup(MarkdownWithMath(renderer=Renderer(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)).render(text))


def code(text: str) -> Markup:
    return Markup(highlight(text, PythonLexer(), HtmlFormatter(nowrap=True)))


def table(html: str) -> Markup:
    """A DataFrame's HTML with nothing left but the table."""
    return Markup(bleach.clean(re.sub(r"<style.*?</style>", "", html, flags=re.S), tags=TABLE_TAGS, attributes={}, protocols=[]))


def output(entry: dict, texts: bool) -> dict | None:
    """One output of a cell: a picture, a table or text; None for what the page leaves out."""
    data = entry.get("data", {})
    joined = {kind: "".join(value) for kind, value in data.items() if isinstance(value, (str, list))}
    if "image/png" in joined:
        return {"kind": "picture", "data": re.sub(r"[^A-Za-z0-9+/=]", "", joined["image/png"])}
    if not texts:
        return None
    if "text/html" in joined:
        return {"kind": "table", "html": table(joined["text/html"])}
    plain = joined.get("text/plain") or "".join(entry.get("text", "")) or "\n".join(entry.get("traceback", []))
    return {"kind": "text", "html": Markup(ansi2html(plain))} if plain.strip() else None


def cell(content: dict, texts: bool) -> dict:
    """One cell for the template: its prose or code, and its outputs (`texts` = False keeps pictures only)."""
    source = "".join(content["source"])
    if content["cell_type"] != "code":
        return {"kind": "prose", "html": markdown(source), "outputs": [], "left_out": 0}
    shown = [output(entry, texts) for entry in content["outputs"]]
    return {"kind": "code", "html": code(source), "outputs": [entry for entry in shown if entry], "left_out": 0 if texts else sum(entry is None for entry in shown)}
