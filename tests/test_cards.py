"""What is given on: the merged model is the trained one, the cards say what the manifests say, and nothing leaves this machine unasked."""

import dataclasses
import json
import re
import shutil

import pandas as pd
import pytest

from hippo_utils import manifest, paths, records
from hippo_utils.corpus import licences
from hippo_utils.manifest import StageError
from hippo_utils.params import load
from hippo_utils.reporting import __main__ as reporting
from hippo_utils.reporting import cards

ROW = "CP+SFT+DPO"


@pytest.fixture(scope="module")
def shared(tiny_run, tmp_path_factory):
    """The tiny run's last row, shared once: adapters, merged model, data."""
    home = tmp_path_factory.mktemp("cards") / "home"
    shutil.copytree(tiny_run.home, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIPPO_HOME", str(home))
        yield dict(zip(("adapters", "merged", "data"), cards.share("tiny", ROW)))


def stage_of_tiny(home) -> manifest.Stage:
    return manifest.Stage("share", cards.finished("tiny")[0], home, paths.figures("tiny"), {}, 0.0)


def logits(model, ids):
    import torch
    with torch.no_grad():
        return model.eval()(ids).logits


def test_the_merged_model_is_the_trained_one_and_so_are_the_adapters_in_their_order(shared, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from hippo_utils.training import models
    trained, _ = models.load(stage_of_tiny(tmp_path), ROW)
    ids = torch.randint(0, trained.config.vocab_size, (4, 40), generator=torch.Generator().manual_seed(0))
    merged = AutoModelForCausalLM.from_pretrained(shared["merged"])
    assert (logits(merged, ids) - logits(trained, ids)).abs().max() < 1e-4
    snippet = re.search(r"```python\n(.*?)```", (shared["adapters"] / "README.md").read_text(), re.S)[1].replace(shared["adapters"].name, str(shared["adapters"]))
    names: dict = {}
    exec(snippet, names)  # what the card tells people to do
    assert (logits(names["model"], ids) - logits(trained, ids)).abs().max() < 1e-4
    assert isinstance(names["PeftModel"], type(PeftModel)) and re.findall(r"\d-[\w+]+", snippet) == ["1-CP", "2-CP+SFT", "3-CP+SFT+DPO"]
    base = AutoModelForCausalLM.from_pretrained(shared["adapters"] / "base")
    assert (logits(base, ids) - logits(trained, ids)).abs().max() > 1e-2, "and the base is another model"


def test_weights_are_safetensors_and_the_tokenizer_comes_along(shared):
    from transformers import AutoTokenizer
    for kind in ("adapters", "merged"):
        files = [file for file in shared[kind].rglob("*") if file.is_file()]
        assert [file for file in files if file.suffix == ".safetensors"] and not [file for file in files if file.suffix in (".bin", ".pt", ".pkl")]
        assert (shared[kind] / "NOTICE").read_text().strip()
        tokenizer = AutoTokenizer.from_pretrained(shared[kind])
        said = [{"role": "user", "content": "Question: Which is a symptom?"}, {"role": "assistant", "content": "cough"}]
        as_trained = tokenizer("Question: Which is a symptom?\nAnswer: cough" + tokenizer.eos_token)["input_ids"]
        assert tokenizer.apply_chat_template(said, return_dict=True)["input_ids"] == as_trained, "the chat template writes what the model was trained on"
        assert tokenizer.apply_chat_template(said[:1], tokenize=False, add_generation_prompt=True) == "Question: Which is a symptom?\nAnswer:"


def test_the_chat_template_begins_as_the_tokenizer_begins_a_text(tmp_path):
    """LLaMA's tokenizer puts <s> before every text; the template must too, for the chat route adds nothing by itself."""
    from small import make_tokenizer
    from tokenizers.processors import TemplateProcessing
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    cards.save_tokenizer(tokenizer, tmp_path / "saved")
    said = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "cough"}]
    assert tokenizer.apply_chat_template(said, return_dict=True)["input_ids"] == tokenizer("What?\nAnswer: cough" + tokenizer.eos_token)["input_ids"]


def test_the_card_says_what_manifests_and_tables_say(shared):
    from huggingface_hub import ModelCard
    card = ModelCard.load(shared["merged"] / "README.md")
    header, text = card.data.to_dict(), card.text
    assert header["license"] == "cc-by-4.0" and header["library_name"] == "transformers" and {"not-for-clinical-use", "mini-run", "arxiv:2404.16621"} <= set(header["tags"])
    assert "model-index" not in header and "base_model" not in header, "a mini run is on no leaderboard, and its base is its own"
    assert "**Not for clinical use.**" in text and "**A mini run.**" in text and "not the benchmarks themselves" in text
    table = pd.read_csv(paths.figures("tiny") / "table_main.csv").query("stages == @ROW and protocol == 'option_text'")
    for row in table.itertuples():
        assert f"| {row.benchmark} | {row.group} | {row.shots} | option_text | {row.n} |" in text
    account = pd.read_csv(paths.figures("tiny") / "table_corpus.csv")
    assert all(source in text for source in account["source"])
    data, alone = text[text.index("## Data"):text.index("## Evaluation")], cards.sources(load("tiny"), "SFT")
    assert set(alone["kind"]) == {"general (base)", "instructions"} and "held out" not in data, "only what this row was trained on"
    for stage in manifest.STAGES:
        assert manifest.file_hash(paths.manifest("tiny", stage))[:12] in text
    assert "| learning_rate | 0.003 | 0.004 | 0.001 |" in text, "the settings of every training, in order"
    change = float(re.search(r"largest change of any logit by any of these merges was ([\d.e+-]+)", text)[1])
    assert 0 <= change < cards.MERGE_BAR and "stored in float32" in text


def test_the_data_come_with_a_card_and_without_what_may_not_be_passed_on(shared, monkeypatch, tmp_path):
    from huggingface_hub import DatasetCard
    card = DatasetCard.load(shared["data"] / "README.md")
    header = card.data.to_dict()
    assert [entry["config_name"] for entry in header["configs"]] == ["documents", "instructions", "preferences"] and header["license"] == "cc-by-4.0"
    for name, kind in (("documents", "document"), ("instructions", "instruction"), ("preferences", "preference")):
        rows = records.read(kind, shared["data"] / f"{name}.parquet")
        assert len(rows) == len(records.read(kind, next(paths.outputs("tiny").glob(f"0*/{name}.parquet")))) and f"| {name}.parquet | {len(rows)} |" in card.text
    assert "**deliberately false**" in card.text and "Left out" not in card.text
    monkeypatch.setattr(licences, "redistributable", lambda source: source != "mini_patients")
    kept, left_out = cards.data(stage_of_tiny(tmp_path), tmp_path)
    assert left_out == ["mini_patients"] and "mini_patients" not in set(records.read("document", tmp_path / "documents.parquet")["source"])
    settings, made = cards.finished("tiny")
    assert "**Left out**, because their terms do not allow passing the text on: mini_patients" in cards.dataset_card(settings, made, kept, left_out)


def test_a_paper_run_is_described_for_the_hub(shared):
    """The header of a card at the paper's scale: the base, its licence, the data sets, and results with their protocol."""
    from huggingface_hub import ModelCard
    settings, made = cards.finished("tiny")
    paper = load("hippo_llama").model_copy(update={"run": "tiny"})
    account = pd.DataFrame([{"kind": "continued pre-training", "source": "pmc_patients", "licence": "CC-BY-NC-SA-4.0", "rows": 5, "words": 9, "tokens": 10}])
    scores = pd.DataFrame([{"run": "tiny", "stages": "CP+SFT", "benchmark": "medqa", "group": "all", "shots": 0, "protocol": "option_text", "n": 1273,
                            "accuracy": 0.4, "ci_low": 0.37, "ci_high": 0.43}])
    facts = {"merging": 1e-6, "storing": 1e-2, "precision": "float16", "probed": 512, "parameters": 10, "device": "cpu", "adapters": ["1-CP", "2-CP+SFT"], "own_base": False,
             "base": paper.pretraining.base, "revision": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cards.pd, "read_csv", lambda file: account if "corpus" in str(file) else scores)
        card = ModelCard(cards.model_card(paper, made, "CP+SFT", cards.licence_of(paper.pretraining.base), facts, merged=False))
    header = card.data.to_dict()
    assert (header["license"], header["base_model"], header["base_model_relation"]) == ("llama2", "meta-llama/Llama-2-7b-hf", "adapter")
    assert header["datasets"] == ["zhengyun21/PMC-Patients"]
    result = header["model-index"][0]["results"][0]
    assert result["metrics"][0]["value"] == 40.0 and "0-shot, option_text, n = 1273" in result["metrics"][0]["name"]
    assert "Copyright (c) Meta Platforms, Inc." in card.text and "may not be used commercially (CC-BY-NC-SA-4.0)" in card.text


def test_no_base_is_shared_without_its_licence(tmp_path):
    assert cards.licence_of("meta-llama/Llama-2-7b-hf").name == "llama2" and "LLAMA 2 Community License" in cards.licence_of("meta-llama/Llama-2-7b-hf").notice
    assert cards.licence_of("mistralai/Mistral-7B-v0.1").name == "apache-2.0" and cards.licence_of(None).name == "cc-by-4.0"
    with pytest.raises(StageError, match="the licence of the base nobody/nothing is not known"):
        cards.licence_of("nobody/nothing")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A base")
    assert cards.licence_of(str(tmp_path)).name == "mit"


def test_a_merge_that_changes_the_model_is_not_shared(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "MERGE_BAR", -1.0)
    with pytest.raises(StageError, match="merging CP in float32 changes a logit by"):  # the first merge of the row, and not its last alone
        cards.merge(stage_of_tiny(tmp_path), ROW, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_adapters_of_a_base_whose_vocabulary_was_extended_come_with_that_base(shared, tmp_path):
    """Its embeddings have rows that the base of that name on the hub does not have."""
    stage = stage_of_tiny(tmp_path)
    loaded = stage.settings.pretraining.model_copy(update={"base": "meta-llama/Llama-2-7b-hf", "revision": "abc"})
    stage = dataclasses.replace(stage, settings=stage.settings.model_copy(update={"pretraining": loaded}))
    assert cards.adapters(stage, "CP", tmp_path / "given", loaded.base) == ["1-CP"] and (tmp_path / "given" / "base" / "model.safetensors").is_file()
    named = json.loads((tmp_path / "given" / "1-CP" / "adapter_config.json").read_text())
    assert (named["base_model_name_or_path"], named["revision"]) == ("base", None)


def test_only_what_is_finished_and_exists_is_shared(shared, home, capsys):
    assert reporting.main(["share", "tiny"]) == 2 and "tiny is not finished: 01_corpus is not done" in capsys.readouterr().err


def test_an_unknown_row_is_answered_with_those_there_are(shared, capsys):
    assert reporting.main(["share", "tiny", "CP+DPO"]) == 2 and "CP+DPO: expected one of CP, SFT" in capsys.readouterr().err


def test_nothing_is_sent_unless_asked_for_and_then_to_private_repositories(shared, monkeypatch, capsys):
    import huggingface_hub
    sent = []

    class Hub:
        private = True

        def create_repo(self, name, repo_type, private, exist_ok):
            sent.append((name, repo_type, private))
            return type("Repository", (), {"repo_id": name})

        def repo_info(self, name, repo_type):
            return self

        def upload_folder(self, repo_id, folder_path, repo_type, commit_message):
            sent.append((repo_id, repo_type, sorted(file.name for file in folder_path.iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(cards, "share", lambda *_: list(shared.values()))
    assert reporting.main(["share", "tiny"]) == 0 and not sent
    assert reporting.main(["share", "tiny", "--push-to-hub", "someone"]) == 0
    assert [entry[:2] for entry in sent[::2]] == [("someone/tiny-cp-sft-dpo-adapters", "model"), ("someone/tiny-cp-sft-dpo", "model"), ("someone/tiny-data", "dataset")]
    assert all(private for _, _, private in sent[::2]) and all("README.md" in files for _, _, files in sent[1::2])

    sent.clear()
    monkeypatch.setattr(huggingface_hub, "HfApi", type("Opened", (Hub,), {"private": False}))
    assert reporting.main(["share", "tiny", "--push-to-hub", "someone"]) == 2 and len(sent) == 1, "nothing goes where everybody sees it"
    assert "someone/tiny-cp-sft-dpo-adapters is on the hub already and public; make it private" in capsys.readouterr().err

    for error, words in ((huggingface_hub.errors.LocalTokenNotFoundError("no token"), "log in with `hf auth login`"),
                         (ValueError("Invalid metadata in README.md.\n- no such licence"), "Invalid metadata in README.md. - no such licence; correct the header of")):
        monkeypatch.setattr(huggingface_hub, "HfApi", type("Locked", (Hub,), {"create_repo": raises(error)}))
        assert reporting.main(["share", "tiny", "--push-to-hub", "someone"]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


def raises(error):
    def method(*_, **__):
        raise error
    return method


def test_a_hub_that_cannot_be_reached_is_a_sentence(shared, monkeypatch, capsys):
    import huggingface_hub
    monkeypatch.setattr(cards, "share", lambda *_: list(shared.values()))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: huggingface_hub.hf_api.HfApi(endpoint="http://127.0.0.1:9", token="hf_none"))
    assert reporting.main(["share", "tiny", "--push-to-hub", "someone"]) == 2
    assert re.fullmatch(r"error: the hub did not take tiny-cp-sft-dpo-adapters: .*refused; on a machine that reaches it, .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("options, words", [(["--push-to-hub", "my org"], "--push-to-hub my org: expected the name of a user or an organisation"), (["--push-to-hub", "a/b"], "--push-to-hub a/b: exp"),
                                            (["--push-to-hub", ""], "--push-to-hub : expected"), (["--base-model", "a/b"], "the base of tiny was trained in the run; leave the option out")])
def test_names_that_the_hub_does_not_take_are_refused_before_anything_is_merged(shared, monkeypatch, capsys, options, words):
    monkeypatch.setattr(cards, "merge", raises(AssertionError("merged")))
    assert reporting.main(["share", "tiny", *options]) == 2 and words in capsys.readouterr().err


# --- a base in a local folder ------------------------------------------------------------------------------------------

@pytest.fixture
def local(tiny_run, tmp_path, monkeypatch):
    """The tiny run as if its base had been loaded from somebody's folder, which holds its licence."""
    home, folder = tmp_path / "home", tmp_path / "scratch" / "alice" / "base"
    shutil.copytree(tiny_run.home, home)
    monkeypatch.setenv("HIPPO_HOME", str(home))
    made, settings = manifest.read("tiny", "02_pretraining"), cards.finished("tiny")[0]
    place = paths.stage_folder("tiny", "02_pretraining")
    shutil.copytree(place / "base", folder)
    shutil.rmtree(place / "base")
    for name, text in {"README.md": "---\nlicense: mit\n---\n", "LICENSE.txt": "the terms", "USE_POLICY.md": "the policy", "NOTICE": "Copyright of the base's makers"}.items():
        (folder / name).write_text(text)
    loaded = settings.pretraining.model_copy(update={"base": str(folder), "architecture": None, "scratch": None})
    (place / "base.json").write_text(json.dumps({"base": str(folder), "revision": None}))
    outputs = {name: entry for name, entry in made["outputs"].items() if not name.startswith("base/")} | {"base.json": manifest.entry(place / "base.json")}
    manifest.write_json(made | {"outputs": outputs}, paths.manifest("tiny", "02_pretraining"))
    settings, found = settings.model_copy(update={"pretraining": loaded}), cards.finished("tiny")[1]
    monkeypatch.setattr(cards, "finished", lambda run: (settings, found))
    return folder


def test_the_folder_of_a_local_base_is_named_nowhere_and_its_licence_comes_along(local, tmp_path, capsys):
    import torch
    from huggingface_hub import ModelCard

    from hippo_utils.training import models
    given, merged, _ = cards.share("tiny", "CP+SFT")
    for file in [file for folder in (given, merged) for file in folder.rglob("*") if file.suffix != ".safetensors" and file.is_file()]:
        assert "alice" not in file.read_text(encoding="utf-8"), file
    for folder in (given, merged):
        card = ModelCard.load(folder / "README.md")
        assert "base_model" not in card.data.to_dict() and card.data.license == "mit" and "Base: a local copy of a model whose hub id was not given." in card.text
        assert (folder / "LICENSE.txt").read_text() == "the terms" and (folder / "USE_POLICY.md").is_file() and "Copyright of the base's makers" in (folder / "NOTICE").read_text()
    assert json.loads((given / "2-CP+SFT" / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    snippet = re.search(r"```python\n(.*?)```", (given / "README.md").read_text(), re.S)[1]
    names: dict = {}
    exec(snippet.replace("FOLDER/OF/THE/BASE", str(local)).replace(given.name, str(given)), names)  # what the card tells people to do
    ids = torch.arange(40)[None]
    trained, _ = models.load(stage_of_tiny(tmp_path), "CP+SFT")
    assert (logits(names["model"], ids) - logits(trained, ids)).abs().max() < 1e-4
    assert cards.NO_COPY not in capsys.readouterr().out


def test_a_local_base_is_called_by_the_name_that_is_given(local, capsys):
    from huggingface_hub import ModelCard
    (local / "LICENSE.txt").unlink()
    given, merged, _ = cards.share("tiny", "CP+SFT", "meta-llama/Meta-Llama-3-8B", "someone")
    for folder, relation in ((given, "adapter"), (merged, "finetune")):
        header = ModelCard.load(folder / "README.md").data.to_dict()
        assert (header["license"], header["base_model"], header["base_model_relation"]) == ("llama3", "meta-llama/Meta-Llama-3-8B", relation)
        for file in ("NOTICE", "README.md"):
            text = (folder / file).read_text()
            assert cards.NO_COPY in text and "Built with Meta Llama 3" in text and 'begin with "Llama 3"' in text
    assert json.loads((given / "1-CP" / "adapter_config.json").read_text())["base_model_name_or_path"] == "meta-llama/Meta-Llama-3-8B"
    assert cards.NO_COPY in capsys.readouterr().out


def test_adapters_of_a_local_base_are_not_sent_without_its_name(local, monkeypatch):
    monkeypatch.setattr(cards, "merge", raises(AssertionError("merged")))
    with pytest.raises(StageError, match="adapters whose base nobody can name are of no use to others; add --base-model ORG/NAME"):
        cards.share("tiny", "CP+SFT", None, "someone")
    for wrong in ("llama", "a/b/c", "/scratch/alice/base", "my org/base"):
        with pytest.raises(StageError, match=f"--base-model {wrong}: expected the hub id of the base, ORG/NAME"):
            cards.share("tiny", "CP+SFT", wrong)


def test_of_a_hypnos_row_only_its_own_stages_are_listed(monkeypatch):
    """The first stage read general medicine, the second the specialty, and no row a source of weight 0."""
    settings = load("mini_hypnos")
    account = pd.DataFrame([{"kind": kind, "source": source, "licence": "CC-BY-4.0", "rows": 1, "tokens": 1} for kind, source in (
        ("tokenizer only", "zh_medicine"), ("general (base)", "zh_general"), ("held out", "zh_medicine"), *(("instructions", name) for name in settings.corpus.instructions))])
    monkeypatch.setattr(cards.pd, "read_csv", lambda file: account)
    first, second = ({name for name, weight in part.items() if weight} for part in (settings.instruction.general, settings.instruction.mixture))
    for row, expected in {"general": first, "specific": second, "mixed": first | second, "general+specific": first | second}.items():
        assert set(cards.sources(settings, row)["source"]) == expected | {"zh_general"}
    settings = settings.model_copy(update={"instruction": settings.instruction.model_copy(update={"mixture": dict.fromkeys(second, 0)})})
    assert set(cards.sources(settings, "specific")["source"]) == {"zh_general"}


def test_cards_are_valid_json_free_of_this_machine(shared):
    """No path of this machine stands in what is given on."""
    for file in [file for folder in shared.values() for file in folder.rglob("*") if file.suffix in (".md", ".json") or file.name == "NOTICE"]:
        text = file.read_text(encoding="utf-8")
        assert str(paths.home()) not in text and str(paths.ROOT) not in text, file
        if file.suffix == ".json":
            json.loads(text)
