"""What a run made, ready to be given on: adapters, the merged model and the data, each folder with its card.

    python -m hippo_utils.reporting share RUN                             write outputs/<run>/share/
    python -m hippo_utils.reporting share RUN CP+SFT --push-to-hub NAME   another row of the ablation; and send it, which is only done when asked for
    python -m hippo_utils.reporting share RUN --base-model ORG/NAME       a base that lies in a local folder, by its name on the hub

Cards are written from manifests and tables, never by hand. Weights are merged in float32 and compared with the unmerged model before and
after they are stored. What may not be redistributed (hippo_utils/corpus/sources.yaml) is named on the card and left out of the folder.
"""

import dataclasses
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from hippo_utils import manifest, paths, records
from hippo_utils.corpus import hub, licences
from hippo_utils.manifest import Stage, StageError
from hippo_utils.params import Params, resolve
from hippo_utils.reporting.tables import markdown

MERGE_BAR = 1e-3   # largest change of a logit by merging in float32, as in the notebooks
PROTOCOLS = ("option_text", "step_by_step", "letter", "generate")
PAPERS = {"hippocrates": ("Hippocrates: An Open-Source Framework for Advancing Large Language Models in Healthcare", "2404.16621", "en"),
          "hypnos": ("Towards Training A Chinese Large Language Model for Anesthesiology", "2403.02742", "zh")}
# In the manner in which the instructions of 01 are written; a text begins with the tokenizer's own first mark, if it has one.
CHAT_TEMPLATE = ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}"
                 "{% else %}{{ message['content'] }}\nAnswer:{% endif %}{% endfor %}")
CHAT_TEMPLATE_ZH = ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] }}{{ eos_token }}"
                    "{% else %}问：{{ message['content'] }}\n答：{% endif %}{% endfor %}")


@dataclass(frozen=True)
class Licence:
    """A base's licence as the hub names it, and the words that its terms ask to be passed on."""
    name: str
    notice: str


def _llama(version: str, licence: str, built: str = "Llama", begins: str = "Llama") -> Licence:
    return Licence(licence, f"Built with {built}. {version} is licensed under the {version} Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved. "
                            f"Its terms and its Acceptable Use Policy pass on to this model. They ask whoever gives it on to show \"Built with {built}\" "
                            f"and to let the model's name begin with \"{begins}\".")


LICENCES = {  # by the beginning of the hub id
    "meta-llama/Llama-2-": Licence("llama2", "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved. "
                                             "Its terms and its Acceptable Use Policy pass on to this model."),
    "meta-llama/Meta-Llama-3-": _llama("Meta Llama 3", "llama3", "Meta Llama 3", "Llama 3"),
    "meta-llama/Llama-3.1-": _llama("Llama 3.1", "llama3.1"), "meta-llama/Llama-3.2-": _llama("Llama 3.2", "llama3.2"),
    **{name: Licence("apache-2.0", "The base is licensed under the Apache License, Version 2.0; this model changes its weights.")
       for name in ("mistralai/Mistral-7B-v0.", "HuggingFaceTB/SmolLM2-", "TinyLlama/", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-7B")}}
OWN = Licence("cc-by-4.0", "Trained from scratch on this project's synthetic text (CC BY 4.0).")
NO_COPY = "No copy of the base's licence lay beside it. Its terms ask that one is passed on: add it to this folder before you give the folder to anybody."


def licence_of(base: str | None, named: str | None = None) -> Licence:
    """The licence of a base (a folder may have a hub id): of a mini run's own, by the table, or as the README in its folder says; StageError when nothing says it."""
    if base is None:
        return OWN
    for beginning, found in LICENCES.items():
        if (named or base).startswith(beginning):
            return found
    if (Path(base) / "README.md").is_file():
        from huggingface_hub import ModelCard
        if name := ModelCard.load(Path(base) / "README.md").data.to_dict().get("license"):
            return Licence(name, f"The base is licensed under {name}; see the card of the base.")
    raise StageError(f"the licence of the base {base} is not known, so nothing made from it can be shared; name it with --base-model if it is on the hub, "
                     "put its README.md with a `license:` line into its folder, or add it to hippo_utils/reporting/cards.py")


def licence_copies(stage: Stage, folder: Path, licence: Licence) -> Licence:
    """Copy the licence files that lie beside the base, whose terms ask for it; the licence with a notice that says what has to be added where there is none."""
    from hippo_utils.training import memory
    base = stage.settings.pretraining.base
    config = memory.config_file(base, stage.settings.pretraining.revision) if base else None
    beside = sorted(file for file in config.parent.iterdir() if file.is_file()) if config else []
    terms = [file for file in beside if file.name.upper().startswith(("LICENSE", "LICENCE", "USE_POLICY"))]
    for file in terms:
        shutil.copyfile(file, folder / file.name)
    more = [file.read_text(encoding="utf-8", errors="replace").strip() for file in beside if file.name.upper().startswith("NOTICE")]
    if base and not any(file.name.upper().startswith("LICEN") for file in terms):
        more.append(NO_COPY)
    return dataclasses.replace(licence, notice="\n\n".join([licence.notice, *more]))


# --- what a run says of itself ---------------------------------------------------------------------------------------

def finished(run: str) -> tuple[Params, dict[str, dict]]:
    """The parameters and manifests of a finished run; StageError when a stage is not done."""
    made = {stage: manifest.read(run, stage) for stage in manifest.STAGES}
    if missing := [stage for stage, content in made.items() if content is None]:
        raise StageError(f"{run} is not finished: {missing[0]} is not done; run ./run_all.sh params/{run}.yaml first")
    content: dict = {}
    for of_stage in made.values():
        content |= of_stage["parameters"]
    return resolve(content | {"run": run}, f"the manifests of {run}"), made


def provenance(settings: Params, made: dict[str, dict]) -> pd.DataFrame:
    """Where each stage was made: commit, seed, device, time, and the hash of its manifest."""
    return pd.DataFrame([{"stage": stage, "commit": (m["git"]["commit"] or "?")[:12] + (" with changes" if m["git"]["dirty"] else ""), "seed": m["seed"],
                          "device": m["device"], "seconds": m["seconds"], "manifest": manifest.file_hash(paths.manifest(settings.run, stage))[:12]}
                         for stage, m in made.items()])


def sources(settings: Params, row: str | None = None) -> pd.DataFrame:
    """What the run read, or one row of the ablation was trained on, from 01's account: kind, source, where it is from, licence, rows, tokens, and
    whether its text may be passed on."""
    table = pd.read_csv(paths.figures(settings.run) / "table_corpus.csv")
    if row:
        table = table[_trained_on(settings, row, table)].reset_index(drop=True)
    names = table["source"].str.replace(r" \(.*", "", regex=True)
    place = [f"[{hub.catalogue()[name].hub}](https://huggingface.co/datasets/{hub.catalogue()[name].hub})" if name in hub.catalogue() else "this project" for name in names]
    return table[["kind", "source", "licence", "rows", "tokens"]].assign(**{"from": place, "text may be passed on": [licences.redistributable(name) for name in names]})


def _trained_on(settings: Params, row: str, table: pd.DataFrame) -> pd.Series:
    """Which rows of 01's account a row of the ablation was trained on, its base included where that was trained here."""
    from hippo_utils.training import models
    names, how = {name for _, name in models.LINEAGE[row]}, settings.instruction
    parts = [how.general] * bool(names & {"general", "mixed"}) + [how.mixture] * bool(names - {"CP", "CP+SFT+DPO", "general"})
    instructed = {source for part in parts for source, weight in part.items() if weight > 0}
    kinds = {"general (base)"} | {kind for name, kind in (("CP", "continued pre-training"), ("CP+SFT+DPO", "answers to judge")) if name in names}
    return table["kind"].isin(kinds) | ((table["kind"] == "instructions") & table["source"].isin(instructed))


def training_of(settings: Params, row: str) -> pd.DataFrame:
    """The settings of every training that made a row of the ablation, as a table."""
    from hippo_utils.training import models
    p = settings
    of = {name: p.instruction.sft for name in models.LINEAGE} | {"general": p.instruction.general_sft or p.instruction.sft} | {"CP": p.pretraining.cp} | ({"CP+SFT+DPO": p.preference.dpo} if p.preference else {})
    steps = {"base": p.pretraining.scratch} if p.pretraining.scratch else {}
    steps |= {name: of[name] for _, name in models.LINEAGE[row]}
    shown = {name: {key: _plain(value) for key, value in training.model_dump().items() if value is not None} for name, training in steps.items()}
    return pd.DataFrame(shown).rename_axis("setting").reset_index().fillna("")


def _plain(value) -> str:
    return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner is not None) if isinstance(value, dict) else \
        ", ".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)


def evaluation_of(settings: Params, row: str) -> pd.DataFrame:
    """The accuracies of a row of the ablation with their 95 % intervals, from 05's table."""
    table = pd.read_csv(paths.figures(settings.run) / "table_main.csv")
    return table[(table["stages"] == row) & table["protocol"].isin(PROTOCOLS)][["benchmark", "group", "shots", "protocol", "n", "accuracy", "ci_low", "ci_high"]]


# --- folders -----------------------------------------------------------------------------------------------------------

def share(run: str, row: str | None = None, base_model: str | None = None, namespace: str | None = None) -> list[Path]:
    """Write outputs/<run>/share/: the adapters of a row of the ablation (by default the last one evaluated), its merged model, and the data.

    `base_model` is the hub id of a base that lies in a local folder, `namespace` where the folders are sent afterwards: both are checked first.
    """
    from hippo_utils.training import models
    settings, made = finished(run)
    row = row or settings.evaluation.stages[-1]
    if not models.LINEAGE.get(row):
        raise StageError(f"{row}: expected one of {', '.join(name for name, line in models.LINEAGE.items() if line)}")
    base = named_base(settings, base_model)
    licence = licence_of(settings.pretraining.base, base)
    stage = Stage("share", settings, paths.outputs(run) / "share", paths.figures(run), {}, time.time())
    name = f"{run}-{row.lower().replace('+', '-')}"
    folders = {kind: stage.folder / f"{name}{kind}" for kind in ("-adapters", "")} | {"data": stage.folder / f"{run}-data"}
    if namespace is not None:
        for folder in folders.values():
            _check_id(f"{namespace}/{folder.name}", f"--push-to-hub {namespace}: expected the name of a user or an organisation on the hub, to which {folder.name} can be sent")
        if _places(stage, row) and not base and not stage.has("02_pretraining", "base"):
            raise StageError(f"--push-to-hub: the base of {run} is a local folder, and adapters whose base nobody can name are of no use to others; add --base-model ORG/NAME")
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    facts = merge(stage, row, folders[""]) | {"adapters": adapters(stage, row, folders["-adapters"], base), "own_base": stage.has("02_pretraining", "base"),
                                              "base": base, "revision": _revision(settings, base)}
    tokenizer = settings_tokenizer(stage)
    for kind in ("-adapters", ""):
        if facts["adapters"] or kind == "":
            save_tokenizer(tokenizer, folders[kind], settings.corpus.language)
            said = licence_copies(stage, folders[kind], licence)
            (folders[kind] / "NOTICE").write_text(said.notice + "\n", encoding="utf-8")
            (folders[kind] / "README.md").write_text(model_card(settings, made, row, said, facts, merged=kind == ""), encoding="utf-8")
        else:
            shutil.rmtree(folders.pop(kind))
    kept, left_out = data(stage, folders["data"])
    (folders["data"] / "README.md").write_text(dataset_card(settings, made, kept, left_out), encoding="utf-8")
    if licence != OWN:
        print(licence.notice, *[NO_COPY] * (NO_COPY in said.notice))
    for folder in folders.values():
        _check_files(folder)
        print(f"{paths.shown(folder)}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    return list(folders.values())


def named_base(settings: Params, given: str | None = None) -> str | None:
    """The hub id of a run's base, `given` for one in a local folder; None when it was trained here, or when nobody named the folder's."""
    base = settings.pretraining.base
    local = base is not None and (Path(base).is_dir() or Path(base).is_absolute())
    if given is None:
        return None if local else base
    if not local:
        raise StageError(f"--base-model {given}: the base of {settings.run} {f'is {base} on the hub' if base else 'was trained in the run'}; leave the option out")
    _check_id(given if "/" in given else "", f"--base-model {given}: expected the hub id of the base, ORG/NAME, such as meta-llama/Llama-2-7b-hf")
    return given


def _revision(settings: Params, base: str | None) -> str | None:
    """The revision of a base on the hub; a local folder has none."""
    return settings.pretraining.revision if base and base == settings.pretraining.base else None


def _check_id(name: str, sentence: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise StageError(f"{sentence} (letters, digits, -, _ and ., 96 characters in all)") from None


def _check_files(folder: Path) -> None:
    if wrong := [file.name for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]:
        raise StageError(f"{paths.shown(folder)} holds {', '.join(wrong)}; weights are shared as safetensors only")


def settings_tokenizer(stage: Stage):
    """The tokenizer that the run's models were trained with."""
    from transformers import AutoTokenizer
    base = None if stage.has("02_pretraining", "base") else stage.settings.pretraining.base
    return AutoTokenizer.from_pretrained(base or stage.input("02_pretraining", "base"), revision=stage.settings.pretraining.revision if base else None)


def save_tokenizer(tokenizer, folder: Path, language: str = "en") -> None:
    """A tokenizer with a chat template: its own, or the form of the instructions that the model was trained on."""
    tokenizer.chat_template = tokenizer.chat_template or {"en": CHAT_TEMPLATE, "zh": CHAT_TEMPLATE_ZH}[language]
    tokenizer.save_pretrained(folder)


def _places(stage: Stage, row: str) -> list[tuple[str, Path]]:
    """(name, folder) of a row's adapters in the order of their merging; none if all weights were trained."""
    from hippo_utils.training import models
    places = [(name, stage.input(of, name)) for of, name in models.LINEAGE[row]]
    return places if all((place / "adapter_config.json").is_file() for _, place in places) else []


def adapters(stage: Stage, row: str, folder: Path, base: str | None) -> list[str]:
    """Copy the adapters of a row, numbered in the order of their merging; the names of their folders. `base` is its hub id, None if it has none to others."""
    from hippo_utils.training import models
    places, revision = _places(stage, row), _revision(stage.settings, base)
    if places and stage.has("02_pretraining", "base"):  # it was made here (trained, or its vocabulary extended) and is nowhere else
        shutil.copytree(stage.input("02_pretraining", "base"), folder / "base")
        base, revision = "base", None
    names = []
    for number, (name, place) in enumerate(places, 1):
        target = folder / f"{number}-{name}"
        shutil.copytree(place, target, ignore=shutil.ignore_patterns("README.md", models.MARK_FILE))  # the mark names a folder of this machine
        config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
        manifest.write_json(config | {"base_model_name_or_path": base, "revision": revision}, target / "adapter_config.json")
        names.append(target.name)
    return names


def merge(stage: Stage, row: str, folder: Path) -> dict:
    """Merge a row's adapters in float32 and store the model in the precision that its base came in; what the cards say of it.

    merging: largest change of any logit by merging any of the adapters (float32). storing: by storing, read back from the file. StageError above MERGE_BAR.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from hippo_utils.training import memory, models
    model, tokenizer = models.load_pretrained(*models.base_of(stage))  # on the CPU: two models in float32 are more than most GPUs hold
    texts = records.read("document", stage.input("01_corpus", "held_out.parquet"))["text"].head(8)
    length = min(64, *(len(ids) for ids in tokenizer(list(texts))["input_ids"]))
    ids = torch.tensor([ids[:length] for ids in tokenizer(list(texts))["input_ids"]])

    def logits(of_model):
        with torch.no_grad():
            return models.plain(of_model).eval()(ids).logits.float().cpu()

    change = 0.0
    for of, name in models.LINEAGE[row]:
        model = models.trained(model, stage.input(of, name))
        apart = logits(model)
        if not hasattr(model, "merge_and_unload"):
            continue
        model = model.merge_and_unload(safe_merge=True)
        change = max(change, float((logits(model) - apart).abs().max()))
        if change > MERGE_BAR:
            raise StageError(f"merging {name} in float32 changes a logit by {change:.1e}, more than {MERGE_BAR:.0e}; the merged model is not the trained one")
    base = stage.settings.pretraining.base
    config = memory.config_file(base, stage.settings.pretraining.revision) if base else stage.input("02_pretraining", "base") / "config.json"
    stored = json.loads(config.read_text(encoding="utf-8")) if config else {}
    precision = stored.get("dtype") or stored.get("torch_dtype") or "float32"
    model.to(getattr(torch, precision)).save_pretrained(folder)
    count = models.parameters(model)["parameters"]
    del model
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {"merging": change, "storing": float((logits(again) - apart).abs().max()), "precision": precision, "probed": ids.numel(),
            "parameters": count, "device": str(ids.device.type)}


def data(stage: Stage, folder: Path) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Write the records that may be passed on; (records by name, sources that were left out)."""
    files = {"documents": ("document", "01_corpus"), "instructions": ("instruction", "01_corpus"), "preferences": ("preference", "04_preference")}
    kept, left_out = {}, []
    for name, (kind, of) in files.items():
        if not stage.has(of, f"{name}.parquet"):  # preferences are not part of every paper
            continue
        rows = records.read(kind, stage.input(of, f"{name}.parquet"))
        allowed = rows["source"].map(licences.redistributable).astype(bool)
        left_out += sorted(set(rows["source"][~allowed]))
        if allowed.any():
            kept[name] = rows[allowed].reset_index(drop=True)
            records.write(kind, kept[name], folder / f"{name}.parquet")
    return kept, left_out


# --- cards -------------------------------------------------------------------------------------------------------------

def _fill(template: str, **values) -> str:
    found = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), trim_blocks=True, lstrip_blocks=True,
                               undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return found.get_template(template).render(**values)


def model_card(settings: Params, made: dict[str, dict], row: str, licence: Licence, facts: dict, merged: bool) -> str:
    """The README.md of a model: the hub's YAML header, data, training, evaluation, limits, licence and notice."""
    from huggingface_hub import EvalResult, ModelCardData
    title, number, language = PAPERS[settings.paper]
    base, name = facts["base"], f"{settings.run}-{row.lower().replace('+', '-')}"
    read, scores = sources(settings, row), evaluation_of(settings, row)
    results = [EvalResult(task_type="question-answering", dataset_type=hub.catalogue()[score.benchmark].hub, dataset_name=score.benchmark, metric_type="accuracy",
                          metric_value=round(100 * score.accuracy, 2), metric_name=f"accuracy, {score.shots}-shot, {score.protocol}, n = {score.n}")
               for score in scores.itertuples() if settings.scale == "paper" and score.group == "all"]  # a mini run's exams are on no leaderboard
    sets = sorted({hub.catalogue()[source].hub for source in read["source"] if source in hub.catalogue()})
    header = ModelCardData(language=language, license=licence.name, library_name="transformers" if merged else "peft", pipeline_tag="text-generation",
                           base_model=base, base_model_relation=("finetune" if merged else "adapter") if base else None, datasets=sets or None,
                           tags=["medical", settings.paper, f"arxiv:{number}", "not-for-clinical-use", *(["synthetic", "mini-run"] if settings.scale == "mini" else [])],
                           model_name=name if results else None, eval_results=results or None)
    return f"---\n{header.to_yaml()}\n---\n\n" + _fill(
        "model_card.md", name=name, row=row, settings=settings, title=title, number=number, merged=merged, licence=licence, facts=facts, base=base,
        sources=markdown(read), training=markdown(training_of(settings, row)), evaluation=markdown(scores), provenance=markdown(provenance(settings, made)),
        noncommercial=sorted({label for label in read["licence"] if "NC" in label}), hidden=sorted(set(read["source"][~read["text may be passed on"]])),
        versions=made["03_instruction"]["versions"])


def dataset_card(settings: Params, made: dict[str, dict], kept: dict[str, pd.DataFrame], left_out: list[str]) -> str:
    """The README.md of a run's data: the hub's YAML header, what each file holds, licences, what was left out and why."""
    from huggingface_hub import DatasetCardData
    title, number, language = PAPERS[settings.paper]
    read = sources(settings)
    rows = sum(map(len, kept.values()))
    size = next(label for limit, label in ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (float("inf"), "1M<n<10M")) if rows < limit)
    labels = sorted({label for name in ("documents", "instructions") if name in kept for label in kept[name]["licence"]})
    header = DatasetCardData(language=language, license=labels[0].lower() if len(labels) == 1 else "other", size_categories=size,
                             task_categories=["text-generation", "question-answering"], pretty_name=f"{settings.run}: training data",
                             tags=["medical", settings.paper, f"arxiv:{number}", "not-for-clinical-use", *(["synthetic"] if settings.scale == "mini" else [])],
                             configs=[{"config_name": name, "data_files": f"{name}.parquet"} for name in kept])
    contents = pd.DataFrame([{"file": f"{name}.parquet", "rows": len(part), "sources": ", ".join(sorted(set(part["source"]))), "columns": ", ".join(part.columns)} for name, part in kept.items()])
    wrong = sorted(set(read["source"][read["source"].str.contains("deliberately false")]))
    return f"---\n{header.to_yaml()}\n---\n\n" + _fill("dataset_card.md", settings=settings, title=title, number=number, contents=markdown(contents), sources=markdown(read),
                                                       left_out=left_out, labels=labels, wrong=wrong, provenance=markdown(provenance(settings, made)))


# --- the hub -------------------------------------------------------------------------------------------------------------

def push(folders: list[Path], namespace: str) -> None:
    """Send shared folders to private repositories of a user or organisation on the hub; opening them to others is done there, by hand."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError
    api = HfApi()
    try:
        for folder in folders:
            kind = "dataset" if folder.name.endswith("-data") else "model"
            repository = api.create_repo(f"{namespace}/{folder.name}", repo_type=kind, private=True, exist_ok=True).repo_id
            if not api.repo_info(repository, repo_type=kind).private:  # it was there, and stays as it was
                raise StageError(f"{repository} is on the hub already and public; make it private there, or send {paths.shown(folder)} with "
                                 f"`hf upload {repository} {paths.shown(folder)} --repo-type {kind}` if everybody is to see it")
            api.upload_folder(repo_id=repository, folder_path=folder, repo_type=kind, commit_message="Shared from its manifests")
            print(f"sent to {repository} ({kind}, private)")
    except (HTTPError, OSError, RuntimeError) as error:  # no connection is no OSError here
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise StageError(f"the hub did not take {folder.name}: {said}; on a machine that reaches it, log in with `hf auth login` as someone who may write to {namespace}, "
                         f"and send what lies in {paths.shown(folder.parent)} with the same command or `hf upload`") from None
    except ValueError as error:  # the hub reads the header of a card before it takes the files
        raise StageError(f"the hub did not take {folder.name}: {' '.join(str(error).split())[:300]}; correct the header of {paths.shown(folder / 'README.md')} and "
                         f"send the folder with `hf upload {namespace}/{folder.name} {paths.shown(folder)} --repo-type {kind}`") from None
