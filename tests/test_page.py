"""The page of a run: it shows what the manifests vouch for and nothing else, needs no network, and trusts no text."""

import base64
import json
import re
import shutil
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser

import pytest
from hippo_utils import manifest, params, paths
from hippo_utils.reporting import comparison, notebooks, page

PLANTED = "<script>alert('planted')</script><img src=x onerror=alert(1)>"
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
LLAMA = params.load("mini_llama")


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and the text of its scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def is_safe(text: str) -> None:
    """A page that loads nothing, runs no script but its own, and has no handler in any tag."""
    found = Tags(text)
    assert found.scripts == [(page.TEMPLATES / "page.js").read_text(encoding="utf-8")]
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "srcset"], (tag, attributes)
        assert attributes.get("src", "data:").startswith("data:image/png;base64,") or "src" not in attributes, attributes["src"][:80]
        assert not re.match(r"\s*(javascript|data|vbscript):", attributes.get("href") or "", re.I)
    assert not re.search(r"@import|url\(", text.split("</style>")[0])
    policy = next(attributes["content"] for tag, attributes in found.tags if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "http" not in policy and "connect" not in policy


@pytest.fixture
def make(home, monkeypatch):
    """Finish a stage of a run with tables, figures and an executed notebook of the test's own."""
    monkeypatch.setattr(manifest, "_limit_threads", lambda threads: None)

    def make(stage: str, tables: dict[str, str] = {}, figures: tuple[str, ...] = (), outputs: list[dict] = (), prose: str = "prose", settings=LLAMA, later=0):
        opened = manifest.begin(stage, settings)
        (opened.folder / "made.txt").write_text("made")
        for name, text in tables.items():
            opened.figure_path(f"table_{name}.csv").write_text(text, encoding="utf-8")
        for name in figures:
            opened.figure_path(f"fig_{name}.png").write_bytes(base64.b64decode(PIXEL))
        opened.finish()
        now = datetime.now(timezone.utc) - timedelta(seconds=later)
        cells = [{"cell_type": "markdown", "source": [prose]}, {"cell_type": "code", "source": "1 + 1", "outputs": list(outputs)}]
        executed = {"cells": cells, "metadata": {"papermill": {"start_time": (now - timedelta(seconds=9)).isoformat(), "end_time": now.isoformat()}}}
        paths.executed_notebook(settings.run, stage).write_text(json.dumps(executed))
        return paths.figures(settings.run)
    return make


def read(folder, name: str = "index.html") -> str:
    return (folder / name).read_text(encoding="utf-8")


# --- what stands on it -----------------------------------------------------------------------------------------------

def test_a_finished_run_has_its_page_with_everything_on_it(tiny_run):
    folder = tiny_run.figures()
    text = read(folder)
    for stage in manifest.STAGES:
        made = tiny_run.manifest(stage)
        assert f'id="{stage}"' in text and f'id="from-{stage}"' in text
        for name in made["figures"]:
            if name.endswith(".csv") and name.startswith("table_"):
                assert f'id="{name[:-4]}"' in text, name
            if name.endswith(".png"):
                assert base64.b64encode((folder / name).read_bytes()).decode() in text, name
        assert made["versions"]["python"] in text
        notebook = read(folder, f"{stage}.html")
        is_safe(notebook)
        assert "MINI RUN" in notebook and "Not for clinical use" in notebook
    is_safe(text)
    assert text.count('class="status done"') == 7 and "MINI RUN" in text and "Not for clinical use" in text
    assert "CP+SFT is at least 25 points above base" in text and "Published: LLaMA-2 7b" in text and "Two different worlds" in text
    is_safe(read(folder.parent))
    assert 'href="tiny/index.html"' in read(folder.parent)
    assert f"To look at it all:  {folder / 'index.html'}" in tiny_run.printed


def test_a_run_that_is_up_to_date_writes_no_page_and_a_lost_one_is_written_again(tiny):
    file = tiny.figures() / "index.html"
    before, text = file.stat().st_mtime_ns, file.read_text()
    assert "nothing was executed" in tiny("tiny") and file.stat().st_mtime_ns == before
    file.unlink()
    assert "nothing was executed" in tiny("tiny") and file.read_text() == text, "the same files make the same page"


@pytest.mark.parametrize("run", comparison.references())
def test_the_committed_page_is_what_the_committed_results_make(run, tmp_path, monkeypatch):
    """When it fails: python -m hippo_utils.reporting page"""
    shutil.copytree(paths.REFERENCE, tmp_path / "reference")
    committed = read(paths.REFERENCE / run)
    monkeypatch.setattr(paths, "REFERENCE", tmp_path / "reference")
    assert read(page.write(tmp_path / "reference" / run).parent) == committed
    is_safe(committed)
    overview = read(tmp_path / "reference")
    assert read(page.overview(tmp_path / "reference").parent) == overview and f'href="{run}/index.html"' in overview


def test_a_run_of_paper_scale_does_not_call_itself_mini(make):
    settings = LLAMA.model_copy(update={"scale": "paper", "run": "large"})
    text = read(page.write(make("01_corpus", settings=settings)).parent)
    assert "MINI" not in text and "Not for clinical use" in text and "paper scale" in text


def test_claims_come_first_and_those_that_fail_are_shown_as_such(make):
    make("01_corpus", {"claims": "claim,value,holds\nit works,0.123456,True\nit pays,1e-05,False\n", "corpus": "a\n1\n"})
    text = read(page.write(paths.figures("mini_llama")).parent)
    assert text.index('id="claims"') < text.index('id="table_corpus"')
    assert '<td class="status fails">FAILS</td>' in text and '<td class="status holds">holds</td>' in text
    assert ">0.123<" in text and ">1e-05<" in text


@pytest.mark.parametrize("cell, shown", [("0.25", "0.25"), ("0.123456", "0.123"), ("12", "12"), ("1.0", "1"), ("-0.0", "-0"), ("0.00012345", "0.00012"),
                                         ("", ""), ("3e-7", "3e-07"), ("0.000", "0"), ("usmle_step1", "usmle_step1"), ("1.2.3", "1.2.3")])
def test_numbers_for_reading(cell, shown):
    assert page.number(cell) == shown


# --- what does not ---------------------------------------------------------------------------------------------------

def test_markup_in_any_row_name_or_output_is_shown_and_never_run(make):
    outputs = [{"output_type": "stream", "name": "stdout", "text": [PLANTED]},
               {"output_type": "execute_result", "data": {"text/html": [f"<style>td {{color: red}}</style><table onclick='x()'><tr><td>{PLANTED}</td></tr></table>"]}},
               {"output_type": "display_data", "data": {"image/png": f"{PIXEL}\"><script>alert(1)</script>"}},
               {"output_type": "error", "traceback": [PLANTED]}]
    prose = f"{PLANTED} and [a link](javascript:alert(1)) and $x < {PLANTED}$"
    folder = make("01_corpus", {"corpus": f'source,"{PLANTED.replace(chr(34), "")}"\n"{PLANTED}",1\n', "claims": f'claim,status\n"{PLANTED}","{PLANTED}"\n'}, ("corpus",), outputs, prose)
    page.write(folder)
    page.overview(folder.parent)
    for file in (folder / "index.html", folder / "01_corpus.html", folder.parent / "index.html"):
        is_safe(file.read_text())
    assert "&lt;script&gt;alert(" in read(folder) and "&lt;script&gt;alert(" in read(folder, "01_corpus.html"), "it is there to be read"


def test_a_table_that_was_changed_since_is_named_and_not_shown(make):
    folder = make("01_corpus", {"corpus": "source,rows\nhonest,1\n"}, ("corpus",))
    (folder / "table_corpus.csv").write_text("source,rows\nedited,1\n")
    (folder / "table_stray.csv").write_text("of,nobody\nstray,1\n")
    text = read(page.write(folder).parent)
    assert "edited" not in text and "honest" not in text and "stray" not in text
    assert "<strong>table_corpus.csv</strong> is missing or was changed" in text and "table_corpus.csv was changed" in text


def test_a_stage_behind_that_was_made_again_with_other_outputs_is_said(make):
    make("01_corpus")
    folder = make("02_pretraining")
    assert read(page.write(folder).parent).count('class="status done"') == 2
    file = paths.manifest("mini_llama", "01_corpus")
    made = json.loads(file.read_text())
    made["outputs"]["made.txt"]["sha256"] = "0" * 64
    file.write_text(json.dumps(made))
    text = read(page.write(folder).parent)
    assert "01_corpus was made again" in text and text.count("not done") == 5


def test_a_stage_that_begins_again_takes_the_pages_down(make):
    folder = make("01_corpus")
    page.write(folder)
    page.overview(folder.parent)
    assert not manifest.page_due("mini_llama")
    manifest.begin("01_corpus", LLAMA)
    assert not list(folder.parent.rglob("*.html")), "no page shows numbers that are being made again"
    assert manifest.page_due("mini_llama")


def test_texts_of_others_are_not_handed_on(make):
    outputs = [{"output_type": "stream", "name": "stdout", "text": "a patient's text"}, {"output_type": "execute_result", "data": {"text/html": "<td>a patient's text</td>"}},
               {"output_type": "display_data", "data": {"image/png": PIXEL}}]
    corpus = LLAMA.corpus.model_copy(update={"world": None})
    for settings, shown in ((LLAMA, True), (LLAMA.model_copy(update={"corpus": corpus, "run": "real"}), False)):
        for stage in manifest.STAGES[:3]:
            folder = make(stage, outputs=outputs, settings=settings)
        page.write(folder)
        for stage in manifest.STAGES[:3]:
            text = read(folder, f"{stage}.html")
            assert ("a patient" in text) == shown and PIXEL in text and ("2 outputs of text left out" in text) != shown


def test_a_notebook_that_was_executed_before_the_stage_was_made_by_hand_is_not_shown(make):
    folder = make("01_corpus", later=60)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "01_corpus.html").write_text("of an earlier execution")
    text = read(page.write(folder).parent)
    assert not (folder / "01_corpus.html").exists() and "executed</a>" not in text


def test_a_run_without_a_finished_stage_has_no_page(home):
    with pytest.raises(manifest.StageError, match="no finished stage"):
        page.write(paths.figures("mini_llama"))


# --- formulas --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", manifest.STAGES)
def test_every_formula_of_the_notebooks_is_drawn_without_the_network(stage):
    content = json.loads(paths.notebook(stage).read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            html = notebooks.markdown("".join(cell["source"]))
            formulas = re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", re.sub(r"```.*?```|`[^`]*`", "", "".join(cell["source"]), flags=re.S), re.S)
            assert html.count("<math") == len(formulas)
            assert "\\" not in re.sub(r"<pre.*?</pre>|<code>.*?</code>", "", html, flags=re.S), "no TeX is left over"
