"""One YAML file is one run. This module reads it, follows `extends`, checks every value and says in one line what is wrong.

Three routes lead here and mean the same: run_all.sh PARAMS, papermill -f PARAMS, and a notebook stepped through by hand.
    settings = params.load("params/mini_llama.yaml")        # the runner
    settings = params.from_cell(globals())                  # a notebook, below its parameters cell
"""

import difflib
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from hippo_utils import paths

DEFAULT_RUN = "mini_llama"
# What PyYAML raises on hostile input; besides its own errors, a bad `!!timestamp x` or `!!bool x` ends in Python's.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
RUN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


def _number(value: Any) -> Any:
    """YAML reads 1e-4 as text (it wants 1.0e-4); here it is a number on every route."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _numbers(value: Any) -> Any:
    """The same inside the lists and mappings of a request body, which must be JSON: finite numbers, no dates."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected a finite number")
    if isinstance(value, dict):
        return {name: _numbers(entry) for name, entry in value.items()}
    return [_numbers(entry) for entry in value] if isinstance(value, list) else _number(value)


Number = Annotated[float, BeforeValidator(_number)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]
HYPNOS_BENCHMARKS = ("anecq", "aneqa", "anerc", "private_cases")
HypnosStage = Literal["general", "specific", "general+specific", "general+unfiltered", "general+same", "general+random", "mixed"]
StageName = Literal["base", "CP", "SFT", "CP+SFT", "CP+SFT+DPO", "general", "specific", "general+specific", "general+unfiltered",
                    "general+same", "general+random", "mixed"]
ProtocolName = Annotated[str, Field(pattern=r"^(option_text|step_by_step|letter|generate)(\+(permuted|chat|paper_examples))*$")]
StageFolder = Literal["01_corpus", "02_pretraining", "03_instruction", "04_preference", "05_evaluation", "06_ablations", "07_calibration"]
BenchmarkName = Literal["medmcqa", "medqa", "pubmedqa", "usmle_step1", "usmle_step2", "usmle_step3", "anecq", "aneqa", "anerc", "private_cases"]


class ParamsError(ValueError):
    """A user's mistake in a parameter file, as one sentence on one line."""

    def __init__(self, sentence: str):
        super().__init__(" ".join(sentence.split()))


class Section(BaseModel):
    # strict: `seed: yes` and `layers: 4.0` are mistakes, not 1 and 4
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class Corpus(Section):
    """01: which texts, how many rows of each (null = all there are), and how they are cleaned and audited."""
    world: Literal["medicine", "anesthesia"] | None = Field(description="the embedded mini world; null for real data")
    entities: Annotated[int, Field(ge=12)] | None = Field(None, description="use a part of the mini world only")
    data_root: str | None = Field(None, description="folder that mirrors hub data sets by their id; null = data/ beside outputs/, where `fetch` puts them")
    documents: dict[str, Count | None] = Field(description="texts for continued pre-training, by source")
    general: Count | None = Field(None, description="rows of general text, when the run trains its own base")
    instructions: dict[str, Count | None]
    candidates: dict[str, Count | None]
    mixture: dict[str, Annotated[Number, Field(ge=0)]] = Field(default={}, description="how often continued pre-training takes each document of a source: 0.5 a random half, 0 none (default 1)")
    benchmarks: list[BenchmarkName]
    private_cases: str | None = Field(None, description="local folder (or file) of a hospital's own cases: JSONL or CSV with case and reference; the benchmark private_cases, shown nowhere")
    dirt: Share = Field(0.0, description="share of mini documents that get dirt for the cleaning step to find")
    licences: list[str] = Field(default=["CC0-1.0", "CC-BY-4.0", "MIT", "Apache-2.0"], description="labels of the licences that this run may train on")
    quarantine_share: Share = Field(0.02, description="rows of a data set that may be unusable before the run stops")
    pubmedqa_test: str | None = Field(None, description="file whose keys are PubMedQA's official test ids; null = all items are test items, as in the paper")
    language: Literal["en", "zh"] = Field("en", description="documents in another language are dropped")
    minimum_words: Count = Field(description="of a document; Chinese characters count as words")
    near_duplicate: Share = Field(description="Jaccard similarity of character 5-grams from which two texts count as one")
    deduplicate_instructions: bool = Field(False, description="leave out instructions whose prompt and completion an earlier one has; near copies stay and are counted")
    contamination_ngram: Count = Field(description="words in a row that a training text may not share with a benchmark question")
    contamination_threshold: Share = Field(0.8, description="share of a question's words in such runs from which it is flagged")
    decontaminate: list[str] = Field(default=[], description="sources whose texts are left out when they flag a test item; elsewhere the item stays flagged")
    held_out_share: Annotated[Number, Field(gt=0, lt=0.5)] = Field(description="documents kept aside for perplexity")
    tokenizer: str | None = Field(None, description="hub id or folder of the tokenizer that counts; null = that of pretraining.base")
    vocabulary: Annotated[int, Field(ge=300)] | None = Field(None, description="entries of a tokenizer trained here; null when the base brings one")


    @model_validator(mode="after")
    def _sources_exist(self):
        for part, names, known in (("mixture", self.mixture, self.documents), ("decontaminate", self.decontaminate, {**self.documents, **self.instructions, **self.candidates})):
            if unknown := sorted(set(names) - set(known)):
                raise ValueError(f"{part} names {unknown}, which this run does not read; it reads {', '.join(sorted(known))}")
        if ("private_cases" in self.benchmarks) != (self.private_cases is not None):
            raise ValueError("private_cases (the folder) and the benchmark private_cases belong together: name both or neither")
        return self


class Lora(Section):
    rank: Count
    alpha: Count
    dropout: Share = 0.0
    targets: Literal["all-linear"] | list[str]
    bits: Literal[4] | None = Field(None, description="4 is QLoRA: the frozen weights in 4-bit NF4 (needs bitsandbytes)")
    new_tokens: bool = Field(False, description="also train the embeddings of the tokens that pretraining.new_tokens added, and of no other (bases whose output layer is apart)")

    @field_validator("targets")
    @classmethod
    def _some_targets(cls, targets):
        if not targets:
            raise ValueError("an empty list adapts no layer; expected all-linear or the names of linear layers, such as [q_proj, v_proj]; to train all weights set lora to null")
        return targets


class Training(Section):
    """One training step of the method. Effective batch = batch x accumulation sequences, on however many devices."""
    epochs: Positive
    learning_rate: Positive
    schedule: Literal["cosine", "linear", "constant", "warmup_stable_decay"]
    warmup: Number = Field(description="share of the steps during which the learning rate rises, below 1")
    weight_decay: Annotated[Number, Field(ge=0)] = 0.0
    batch: Count
    accumulation: Count = 1
    max_length: Count = Field(description="tokens per sequence")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(description="auto: what the device computes well in")
    lora: Lora | None = Field(None, description="null trains all weights")
    packing: Literal["across", "documents"] | None = Field(None, description="several texts in a row: `documents` keeps attention inside each, "
                                                           "`across` does not; null: CP packs across, SFT and DPO put one example in a row")
    order: Literal["length", "random"] = Field("length", description="of SFT's rows: those of similar length share a step, which saves padding, or any do. "
                                               "Where length goes with content, as in a small world's questions, a step of one length holds few facts and little is learned")
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    activation_checkpointing: bool = Field(False, description="compute activations twice instead of keeping them: less memory, a third slower")
    liger: bool = Field(True, description="Liger's fused kernels, where they are installed and the device is a GPU")
    devices: Count = Field(1, description="processes per node, one per device; 1 trains in the notebook, more are started by accelerate launch")
    nodes: Count = 1
    accelerate: str = Field("ddp", description="name of the file in params/accelerate/ that says how several processes share the work")
    checkpoint_minutes: Annotated[Number, Field(ge=0)] = Field(10.0, description="a killed run continues from its last checkpoint")

    @field_validator("warmup")
    @classmethod
    def _warmup_is_a_share(cls, warmup):
        if not 0 <= warmup < 1:  # from 1 on, the Trainer reads a number of steps
            raise ValueError(f"expected the share of the steps during which the learning rate rises, below 1 (0.03 is 3 %), got {warmup:g}")
        return warmup

    @model_validator(mode="after")
    def _batch_divides(self):
        processes = self.devices * self.nodes
        if self.batch * self.accumulation % processes:
            raise ValueError(f"the effective batch of {self.batch * self.accumulation} sequences (batch x accumulation) "
                             f"cannot be shared equally by {processes} processes (devices x nodes)")
        if processes > 1 and not (paths.PARAMS / "accelerate" / f"{self.accelerate}.yaml").is_file():
            known = sorted(file.stem for file in (paths.PARAMS / "accelerate").glob("*.yaml"))
            raise ValueError(f"accelerate: {self.accelerate} is no file in params/accelerate/; there are {', '.join(known)}")
        if processes > 1 and self.lora and self.lora.bits and self.accelerate.startswith("fsdp"):  # bitsandbytes' bytes are not sharded: each GPU would hold them all
            raise ValueError(f"accelerate: {self.accelerate} does not share out the 4-bit weights of lora.bits; take accelerate: ddp, or leave lora.bits out")
        return self


class Architecture(Section):
    """A model trained from scratch."""
    family: Literal["llama", "mistral"]
    layers: Count
    width: Count
    feed_forward: Count
    heads: Count
    key_value_heads: Count
    context: Count
    sliding_window: Count | None = None

    @model_validator(mode="after")
    def _shapes_fit(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of key_value_heads {self.key_value_heads}")
        if self.sliding_window and self.family == "llama":
            raise ValueError("sliding_window belongs to family mistral; leave it out for llama")
        return self


class Generator(Section):
    """02: a local model that writes instructions in 03 and judges another's: trained from scratch, apart from all others."""
    architecture: Architecture
    share: Share = Field(description="of the mini world's seen and held-out facts, drawn for each generator by itself: what it has read")
    rows: Count = Field(description="short questions with answers about them")
    training: Training


class Pretraining(Section):
    """02: the base (loaded by name, or trained from scratch), continued pre-training (Hippocrates), the local generators (Hypnos)."""
    base: str | None = Field(None, description="hub id or local folder; null when `architecture` is trained from scratch")
    revision: str | None = None
    new_tokens: Count | None = Field(None, description="Chinese tokens that a loaded base's vocabulary is extended by (Hypnos on LLaMA); null = it stays as it is")
    architecture: Architecture | None = None
    scratch: Training | None = Field(None, description="how the base is trained from scratch")
    cp: Training | None = Field(description="null: not part of this paper")
    generators: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], Generator] = Field(default={}, description="name -> local model that instruction.selfinstruct asks")

    @model_validator(mode="after")
    def _one_base(self):
        if (self.base is None) == (self.architecture is None):
            raise ValueError("give either base (a hub id or folder) or architecture (a model to train from scratch), not both and not neither")
        if self.new_tokens and self.architecture:
            raise ValueError("new_tokens extends the vocabulary of a base that is loaded; one trained from scratch gets a tokenizer of its own (corpus.vocabulary)")
        if (self.architecture is None) != (self.scratch is None):
            raise ValueError("architecture and scratch belong together: the model to train and how to train it")
        pairs = [(self.architecture, step) for step in (self.scratch, self.cp) if self.architecture and step] + [(g.architecture, g.training) for g in self.generators.values()]
        for architecture, training in pairs:
            if training.max_length > architecture.context:
                raise ValueError(f"max_length is larger than the architecture's context of {architecture.context} tokens")
        return self


class Endpoint(Section):
    """A judge or a generator behind an OpenAI-compatible chat endpoint. Its key is read from the environment and stands in no file."""
    model: str
    base_url: str | None = Field(None, description="null = what the variable OPENAI_BASE_URL says, else OpenAI")
    key_variable: str = Field("OPENAI_API_KEY", description="the environment variable that holds the key")
    request: dict[str, Annotated[JsonValue, BeforeValidator(_numbers)]] = Field({"temperature": 0, "max_tokens": 512}, description="fields of the request body; null leaves one out")
    in_flight: Annotated[int, Field(ge=1, le=256)] = Field(8, description="requests at the same time")
    timeout: Positive = Field(120.0, description="seconds without an answer")
    tries: Count = Field(8, description="of one request that is rate-limited, timed out, broken off or met by a server error")
    backoff: Positive = Field(1.0, description="seconds before the second try; doubled at each further one")
    price_in: Annotated[Number, Field(ge=0)] | None = Field(None, description="per million tokens, in a currency of your choice")
    price_out: Annotated[Number, Field(ge=0)] | None = None
    budget: Positive | None = Field(None, description="in the same currency; asking stops before it is exceeded")

    @model_validator(mode="after")
    def _no_key_and_a_price(self):
        # the sentences do not repeat the value: it may be a key
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", self.key_variable):
            raise ValueError("key_variable is the NAME of an environment variable (capital letters, digits, _), never the key itself")
        if self.base_url and not re.fullmatch(r"https?://[^\s@?#]+", self.base_url):
            raise ValueError("base_url: expected http(s)://host[:port]/path without user name, password or query")
        if self.budget is not None and (self.price_in is None or self.price_out is None):
            raise ValueError("a budget needs price_in and price_out (per million tokens)")
        if self.budget is not None and not {"max_tokens", "max_completion_tokens"} & {name for name, value in self.request.items() if value}:
            raise ValueError("a budget needs request.max_tokens or request.max_completion_tokens: without a limit one reply can cost anything")
        return self

    def asked(self, temperature: float, tokens: int) -> "Endpoint":
        """The same endpoint for another use: temperature and longest reply are set where its request does not leave them out."""
        lengths = [name for name in ("max_tokens", "max_completion_tokens") if self.request.get(name)] or ["max_tokens"]
        fields = {"temperature": temperature} | dict.fromkeys(lengths, tokens)
        return self.model_copy(update={"request": self.request | {name: value for name, value in fields.items() if self.request.get(name, value) is not None}})


class SelfInstruct(Section):
    """03: generators grow the seed tasks, topic by topic (Hypnos)."""
    draws: Count = Field(description="replies that each generator writes on every topic")
    temperature: Positive = 1.0
    tokens: Count = Field(64, description="most tokens of a reply")
    novelty: Share = Field(0.7, description="Jaccard similarity of character pairs from which a question is not new")
    endpoints: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], Endpoint] = Field(default={}, description="name -> generator behind an endpoint (the paper: GPT-3.5-turbo and Claude); "
                                                                                      "they judge each other's rows too. Empty: the local ones of pretraining.generators")
    topics: list[str] = Field(default=[], description="what is asked about; empty: the entities of the mini world that training may see")
    examples: Count = Field(3, description="seed tasks that an endpoint is shown with each request")

    @model_validator(mode="after")
    def _endpoints_differ(self):
        if len({(endpoint.base_url, endpoint.model) for endpoint in self.endpoints.values()}) < len(self.endpoints):
            raise ValueError("endpoints: two names stand for the same model; a model that judges its own rows is what cross-filtering is held against")
        return self


class CrossFilter(Section):
    """03: every generator's rows are scored by the other models (Hypnos)."""
    keep: Share = Field(description="of each generator's rows that can be read and are safe; a share, because a threshold does not carry over between judges")
    tokens: Count = Field(128, description="most tokens of an endpoint's verdict")


class Instruction(Section):
    """03: the mixture of instruction sources (weight 1 = each row once an epoch) and supervised fine-tuning.

    For Hypnos the mixture is what the second stage reads beside the generated rows, and `general` what the first stage reads.
    """
    mixture: dict[str, Annotated[Number, Field(ge=0)]]
    general: dict[str, Annotated[Number, Field(ge=0)]] = Field(default={}, description="sources of the first stage, general medicine (Hypnos)")
    stages: list[HypnosStage] = Field(default=[], description="which models are trained (Hypnos); for Hippocrates always SFT and CP+SFT")
    selfinstruct: SelfInstruct | None = None
    crossfilter: CrossFilter | None = None
    validation: Annotated[int, Field(ge=0)] = Field(0, description="prompts of the mixture that are kept out of training to measure it; 0 = the exams' development items")
    sft: Training
    general_sft: Training | None = Field(None, description="of the first stage (Hypnos); null = as sft")

    @model_validator(mode="after")
    def _answers_apart(self):
        if "across" in (self.sft.packing, self.general_sft and self.general_sft.packing):
            raise ValueError("sft.packing: with `across` an answer would be learned in sight of other questions; use documents, or leave it out")
        return self


class Dpo(Training):
    beta: Positive
    loss: Literal["sigmoid", "ipo", "hinge", "robust"]

    @model_validator(mode="after")
    def _pairs_are_not_packed(self):
        if self.packing:
            raise ValueError("packing: the pairs of DPO stand in rows of their own; leave it out")
        return self


class LocalJudge(Section):
    """A judge that is a language model on this machine."""
    model: str = Field(description="hub id or local folder")
    revision: str | None = None
    method: Literal["generation", "log_likelihood"] = Field(description="it writes its verdict, or the likeliest letter is taken for it")
    tokens: Count = Field(512, description="most tokens of a reply")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class Preference(Section):
    """04: who judges, and direct preference optimisation."""
    judge: Literal["rubric", "endpoint", "local"]
    endpoint: Endpoint | None = None
    local: LocalJudge | None = None
    template: str = Field("clinician-1", description="the instructions: a file of hippo_utils/judging/templates")
    task: Literal["best", "ranking"] = Field("best", description="pairs are the best answer against each other one (the paper), or all of a ranking")
    orders: Literal["one", "reversed", "rotations", "all"] = Field("rotations", description="in which orders the answers of a question are shown")
    agreement: Literal["majority", "unanimous"] = Field("majority", description="of the orders, for a verdict to count; otherwise it is a tie and makes no pair")
    repeated: Annotated[int, Field(ge=0)] = Field(0, description="questions asked a second time, to see whether the judge agrees with itself")
    injected: Annotated[int, Field(ge=0)] = Field(0, description="questions on which every injection attempt is tried")
    sheet: Annotated[int, Field(ge=0)] = Field(0, description="questions on the blinded sheet for clinicians")
    ratings: list[str] = Field(default=[], description="sheets that came back filled, one file per clinician (--force 04 when a file changes)")
    error_rate: Share = Field(0.0, description="share of the training verdicts that are made wrong on purpose (study_judge_noise)")
    dpo: Dpo

    @model_validator(mode="after")
    def _judge_is_described(self):
        for kind in ("endpoint", "local"):
            if self.judge == kind and getattr(self, kind) is None:
                raise ValueError(f"judge is {kind}, so preference.{kind} must say which model")
        if self.task == "ranking" and self.error_rate:
            raise ValueError("error_rate makes the best answer of a verdict wrong, so it needs task best")
        if self.judge == "rubric" and self.task == "ranking":
            raise ValueError("the rubric gives equal points too often to rank; task ranking needs a judge of kind endpoint or local")
        return self


class Prompting(Section):
    """05: more ways to prompt a model, on the same items."""
    stages: list[StageName]
    shots: list[Annotated[int, Field(ge=1, le=32)]] = Field(default=[], description="numbers of examples beside evaluation.shots")
    samples: Annotated[int, Field(ge=0, le=100)] = Field(0, description="sampled rationales that vote (self-consistency); 0 = none")
    temperature: Positive = 0.7
    limit: Count | None = Field(None, description="test items per benchmark, for votes those of two steps first; null = all")


class Sensitivity(Section):
    """05: one model on the same items under many protocols."""
    stages: list[StageName]
    protocols: list[ProtocolName]
    reply_tokens: Count = Field(24, description="tokens that a model may write as its answer")
    limit: Count | None = Field(None, description="test items per benchmark; null = all")


class Baseline(Section):
    """05: a further model beside the run's own."""
    name: str = Field(description="the row's name; the ledger joins it with the paper's row of that name, such as Meditron 7b")
    model: str = Field(description="hub id or local folder")
    revision: str | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"


class OpenEnded(Section):
    """05: questions answered in free text, and what is held of the answers (Hypnos)."""
    benchmarks: list[Literal["aneqa", "anerc", "private_cases"]]
    stages: Annotated[list[StageName], Field(min_length=1)]
    tokens: Count = Field(200, description="most tokens of an answer, which is written greedily")
    limit: Count | None = Field(None, description="questions per benchmark; null = all")
    judge: Literal["rubric", "endpoint"] | None = Field(None, description="who compares answers in pairs: the mini world's facts, or a model at an endpoint; null = nobody. Nobody is shown private_cases")
    endpoint: Endpoint | None = Field(None, description="the judge's; it is none of the models that generated or filtered the training rows")
    against: StageName = Field("general+specific", description="the model that every other one is compared with")
    template: str = Field("anesthesia-1", description="the judge's instructions: a file of hippo_utils/judging/templates")
    sheet: Annotated[int, Field(ge=0)] = Field(0, description="questions on the blinded sheet for clinicians, with the answers of every model")
    ratings: list[str] = Field(default=[], description="sheets that came back filled, one file per clinician (--force 05 when a file changes)")
    safety: Annotated[int, Field(ge=0)] = Field(0, description="pairs of safety prompts, one to refuse and one to answer (there are 20)")

    @model_validator(mode="after")
    def _judge_fits(self):
        if self.judge == "endpoint" and self.endpoint is None:
            raise ValueError("judge is endpoint, so open_ended.endpoint must say which model")
        if self.judge and self.against not in self.stages:
            raise ValueError(f"against names {self.against}, which open_ended.stages leaves out")
        return self


class Evaluation(Section):
    """05: every stage, every benchmark, every protocol; all scoring happens here."""
    stages: list[StageName]
    benchmarks: list[BenchmarkName]
    shots: list[Annotated[int, Field(ge=0, le=32)]]
    step_by_step: list[StageName] = Field(description="stages also scored zero-shot behind the step-by-step instruction")
    rationale: list[StageName] = Field(default=[], description="stages that also write a rationale before they answer two-step items")
    rationale_tokens: Count = 64
    limit: Count | None = Field(None, description="test items per benchmark; null = all")
    batch_tokens: Count = Field(description="tokens per forward pass")
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights while scoring")
    backend: Literal["auto", "hflm", "vllm"] = Field("auto", description="auto: shared-context scoring for LLaMA and Mistral, else lm-eval's HFLM")
    allow_truncation: bool = Field(False, description="cut prompts that exceed the model's context, and count them, instead of stopping")
    paper_examples: bool = Field(False, description="few-shot also with examples drawn anew for every item, as the paper did, beside the leak-free ones")
    rationale_benchmarks: list[BenchmarkName] = ["medqa"]
    prompting: Prompting | None = None
    sensitivity: Sensitivity | None = None
    open_ended: OpenEnded | None = Field(None, description="null: not part of this paper")
    baselines: list[Baseline] = []

    @model_validator(mode="after")
    def _parts_fit(self):
        for part, chosen in (("prompting", self.prompting), ("sensitivity", self.sensitivity), ("open_ended", self.open_ended)):
            unknown = sorted(set(chosen.stages) - set(self.stages)) if chosen else []
            if unknown:
                raise ValueError(f"{part}.stages names {unknown}, which evaluation.stages leaves out")
        unknown = sorted(set(self.rationale_benchmarks) - set(self.benchmarks))
        if self.rationale and unknown:
            raise ValueError(f"rationale_benchmarks names {unknown}, which evaluation.benchmarks leaves out")
        names = [baseline.name for baseline in self.baselines]
        if len(set(names)) < len(names) or set(names) & set(self.stages):
            raise ValueError(f"baselines: every name must be another one, and none a stage's; got {', '.join(names)}")
        return self


class Ablations(Section):
    """06: the paper's rows on identical items."""
    shots: Annotated[int, Field(ge=0)]
    resamples: Annotated[int, Field(ge=100)]


class Calibration(Section):
    """07: confidence of the stored predictions."""
    shots: Annotated[int, Field(ge=0)]
    bins: Annotated[int, Field(ge=2)]
    resamples: Annotated[int, Field(ge=100)]
    stages: Annotated[list[StageName], Field(min_length=1)] = Field(["CP", "CP+SFT", "CP+SFT+DPO"], description="columns of the confidence figure, by default the paper's")
    benchmarks: Annotated[list[BenchmarkName], Field(min_length=1)] = Field(["medmcqa", "medqa", "pubmedqa"], description="its rows")
    coverages: Annotated[list[Annotated[Number, Field(gt=0, lt=1)]], Field(min_length=1)] = Field([0.9, 0.95], description="what conformal sets promise")


def _queue_name(name: str | None) -> str | None:
    """A partition or an account, which goes as it is into the head of a job's script."""
    if name is not None and not re.fullmatch(r"[\w.,-]+", name):
        raise ValueError(f"expected letters, digits and . , _ - only, got {_short(name)}")
    return name


class Resources(Section):
    """What one job of a cluster asks for, per node. How many nodes, `nodes` of the stage's training says."""
    gpus: Annotated[int, Field(ge=0)] = 0
    cpus: Count = 4
    memory: Count = Field(16, description="GiB")
    hours: Positive = 4.0
    partition: str | None = None

    @field_validator("partition")
    @classmethod
    def _plain(cls, name: str | None) -> str | None:
        return _queue_name(name)


class Cluster(Section):
    """How ./run_all.sh PARAMS --slurm asks for machines. Changes no result."""
    partition: str | None = None
    account: str | None = None
    options: list[str] = Field(default=[], description="further options of sbatch, such as --qos=long")
    setup: list[str] = Field(default=[], description="shell lines at the start of every job, such as module load cuda")
    offline: bool = Field(False, description="the jobs' nodes reach no network: what they read must be there before")
    device: str | None = Field(None, description="what the GPUs are, by their name in the preflight's table, to check that the run fits before it waits in a queue")
    default: Resources = Resources()
    stages: dict[StageFolder, Resources] = Field(default={}, description="stages that ask for something else than `default`")

    @field_validator("partition", "account")
    @classmethod
    def _plain(cls, name: str | None) -> str | None:
        return _queue_name(name)

    @field_validator("options")
    @classmethod
    def _one_option_a_line(cls, options: list[str]) -> list[str]:
        for option in options:
            if not option.startswith("-") or option.splitlines() != [option]:  # a second line would be one of the job's script
                raise ValueError(f"expected options of sbatch, each on one line that begins with -, such as --qos=long, got {_short(option)}")
        return options


class Params(Section):
    run: str
    paper: Literal["hippocrates", "hypnos"]
    scale: Literal["mini", "small", "paper"] = Field(description="results of a mini world, or of a smaller base and less data, are marked on every figure "
                                                     "and never set against the paper's")
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    threads: Count = Field(description="CPU threads per process; part of the parameters because it can change last digits")
    corpus: Corpus
    pretraining: Pretraining
    instruction: Instruction
    preference: Preference | None = Field(description="null: not part of this paper")
    evaluation: Evaluation
    ablations: Ablations
    calibration: Calibration
    cluster: Cluster = Cluster()

    @model_validator(mode="before")
    @classmethod
    def _tokens_are_those_of_the_base(cls, content: Any):
        """01 reads the corpus section only, so the section names the tokenizer too."""
        corpus, pretraining = (content.get("corpus"), content.get("pretraining")) if isinstance(content, dict) else (None, None)
        if isinstance(corpus, dict) and isinstance(pretraining, dict) and corpus.get("tokenizer") is None and pretraining.get("base"):
            return content | {"corpus": corpus | {"tokenizer": pretraining["base"]}}
        return content

    @field_validator("run")
    @classmethod
    def _plain_name(cls, run: str) -> str:
        if not RUN_NAME.fullmatch(run):
            raise ValueError("expected a plain name of small letters, digits, - and _ (it becomes a folder)")
        return run

    @model_validator(mode="after")
    def _sections_fit(self):
        def need(condition: bool, sentence: str):
            if not condition:
                raise ValueError(sentence)

        e, c = self.evaluation, self.corpus
        unknown = sorted(set(e.benchmarks) - set(c.benchmarks))
        need(not unknown, f"evaluation.benchmarks asks for {unknown}, which corpus.benchmarks does not build")
        unknown = sorted(set(self.instruction.mixture) - set(c.instructions))
        need(not unknown, f"instruction.mixture names {unknown}, which corpus.instructions does not build")
        need(set(e.step_by_step) <= set(e.stages), "evaluation.step_by_step names a stage that evaluation.stages leaves out")
        need(set(e.rationale) <= set(e.stages), "evaluation.rationale names a stage that evaluation.stages leaves out")
        need(self.ablations.shots in e.shots, f"ablations.shots is {self.ablations.shots}, which is not among evaluation.shots {e.shots}")
        need(self.calibration.shots in e.shots, f"calibration.shots is {self.calibration.shots}, which is not among evaluation.shots {e.shots}")
        scratch = self.pretraining.architecture is not None
        need(scratch == (c.vocabulary is not None), "corpus.vocabulary and pretraining.architecture belong together: a base trained here needs a tokenizer trained here")
        need(scratch == (c.general is not None), "corpus.general and pretraining.architecture belong together: a base trained here needs general text")
        (self._hippocrates if self.paper == "hippocrates" else self._hypnos)(need)
        return self

    def _hippocrates(self, need):
        i = self.instruction
        need(self.pretraining.cp is not None, "pretraining.cp is null, but continued pre-training is a stage of hippocrates")
        need(self.preference is not None, "preference is null, but preference learning is a stage of hippocrates")
        need(self.corpus.world != "anesthesia", "corpus.world anesthesia belongs to paper hypnos; hippocrates reads medicine, or real data (null)")
        for name, given in (("pretraining.generators", self.pretraining.generators), ("instruction.general", i.general), ("instruction.stages", i.stages),
                            ("instruction.selfinstruct", i.selfinstruct), ("instruction.crossfilter", i.crossfilter), ("instruction.general_sft", i.general_sft),
                            ("evaluation.open_ended", self.evaluation.open_ended)):
            need(not given, f"{name} belongs to paper hypnos; leave it out")
        unknown = sorted(set(self.evaluation.stages) & set(get_args(HypnosStage)))
        need(not unknown, f"evaluation.stages names {unknown}, which paper hypnos trains; hippocrates has base, CP, SFT, CP+SFT, CP+SFT+DPO")
        unknown = sorted(set(self.corpus.benchmarks) & set(HYPNOS_BENCHMARKS))
        need(not unknown, f"corpus.benchmarks names {unknown}, which belong to paper hypnos")

    def _hypnos(self, need):
        c, p, i = self.corpus, self.pretraining, self.instruction
        need(p.cp is None, "pretraining.cp: continued pre-training is not part of hypnos; set it to null")
        need(self.preference is None, "preference learning is not part of hypnos; set preference to null")
        need(c.world != "medicine", "corpus.world medicine belongs to paper hippocrates; hypnos reads anesthesia, or real data (null)")
        need(i.stages, "instruction.stages is empty; hypnos trains general and general+specific at least")
        for name in i.stages:
            before = name.rpartition("+")[0]
            need(not before or before in i.stages, f"instruction.stages names {name}, which builds on {before}; name that too")
        unknown = sorted(set(i.general) - set(c.instructions))
        need(not unknown, f"instruction.general names {unknown}, which corpus.instructions does not build")
        need(i.general or not {"general", "mixed"} & set(i.stages), "instruction.general is empty, but instruction.stages trains on general medicine; say which sources")
        need(i.selfinstruct or set(i.stages) <= {"general"}, "instruction.selfinstruct is null, but instruction.stages trains on generated rows")
        need((i.selfinstruct is None) == (i.crossfilter is None), "instruction.selfinstruct and instruction.crossfilter belong together: what is generated is filtered")
        trains = {training.lora.new_tokens for training in (i.general_sft, i.sft) if training and training.lora}
        need(True not in trains or p.new_tokens, "lora.new_tokens is true, but pretraining.new_tokens adds none")
        need(False not in trains or not p.new_tokens, "pretraining.new_tokens adds tokens whose embeddings instruction's adapters would leave untrained; "
             "set lora.new_tokens to true in instruction.sft (and general_sft), or lora to null to train all weights")
        need(not p.generators or c.world is not None, "pretraining.generators are trained on the facts of a mini world; real data has none: ask endpoints")
        asked = i.selfinstruct.endpoints if i.selfinstruct else {}
        need(not (p.generators and asked), "pretraining.generators and instruction.selfinstruct.endpoints: generators are local or behind endpoints, not both")
        need(i.selfinstruct is None or len(p.generators) + len(asked) > 1,
             "instruction.selfinstruct needs two generators or more (pretraining.generators, or selfinstruct.endpoints): each one's rows are judged by another")
        need(not asked or c.world is not None or i.selfinstruct.topics, "instruction.selfinstruct.topics is empty; without a mini world the run must say what is asked about")
        for place, names in (("evaluation.stages", self.evaluation.stages), ("calibration.stages", self.calibration.stages)):
            unknown = sorted(set(names) - {"base", *i.stages})
            need(not unknown, f"{place} names {unknown}, which instruction.stages does not train")
        unknown = sorted(set(c.benchmarks) - set(HYPNOS_BENCHMARKS))
        need(not unknown, f"corpus.benchmarks names {unknown}, which belong to paper hippocrates; hypnos has {', '.join(HYPNOS_BENCHMARKS)}")
        e, free = self.evaluation, self.evaluation.open_ended
        written = sorted({"aneqa", "anerc", "private_cases"} & set(e.benchmarks))
        need(not written, f"evaluation.benchmarks names {written}, which are answered in free text; name them in evaluation.open_ended.benchmarks")
        unknown = sorted(set(free.benchmarks) - set(c.benchmarks)) if free else []
        need(not unknown, f"evaluation.open_ended.benchmarks asks for {unknown}, which corpus.benchmarks does not build")
        need(not free or free.judge != "rubric" or c.world, "evaluation.open_ended.judge is rubric, which looks things up in the mini world's facts, and corpus.world is null; choose endpoint")
        asked = {endpoint.model for endpoint in (*_endpoints(p), *_endpoints(i))}
        need(not free or not free.endpoint or free.endpoint.model not in asked,
             "evaluation.open_ended.endpoint names a model that also generates or filters training rows; a judge must be none of these")
        unknown = sorted(set(self.calibration.benchmarks) - set(self.evaluation.benchmarks))
        need(not unknown, f"calibration.benchmarks names {unknown}, which evaluation.benchmarks leaves out")

    def hash(self) -> str:
        """sha256 over every value; equal for the three routes."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def seed_for(self, name: str) -> int:
        """A seed for one named use, derived from the run's seed alone and independent of the order of uses."""
        return derive_seed(self.seed, name)


def _endpoints(value: Any) -> list[Endpoint]:
    """Every endpoint that a part of the parameters names."""
    if isinstance(value, Endpoint):
        return [value]
    parts = [part for _, part in value] if isinstance(value, BaseModel) else list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [found for part in parts for found in _endpoints(part)]


def derive_seed(seed: int, name: str) -> int:
    """A 31-bit seed that depends on `seed` and `name` only."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big") >> 1


# --- reading files -----------------------------------------------------------------------------------------------

class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (YAML itself would keep the last one without a word)."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {key!r} in line {key_node.start_mark.line + 1} is not a word")
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} appears twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in one YAML file; ParamsError when there is no file, no YAML or no mapping in it."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        near = difflib.get_close_matches(path.stem, [f.stem for f in paths.params_files()], 1, 0.4)
        hint = f"; did you mean params/{near[0]}.yaml?" if near else f"; there are {', '.join(f.stem for f in paths.params_files())}"
        raise ParamsError(f"{paths.shown(path)}: no such file{hint}") from None
    except YAML_ERRORS as error:
        raise ParamsError(f"{paths.shown(path)}: not readable as YAML: {error}") from None
    except OSError as error:
        raise ParamsError(f"{paths.shown(path)}: cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{paths.shown(path)}: expected `key: value` lines, found {type(content).__name__}")
    return content


def merge(below: dict, above: dict) -> dict:
    """Deep merge: mappings are merged key by key, everything else (lists, null) is replaced."""
    merged = dict(below)
    for key, value in above.items():
        merged[key] = merge(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
    return merged


def _extended(content: dict, origin: str, seen: tuple[str, ...] = ()) -> dict:
    """`content` merged over the chain of files that it extends."""
    content = dict(content)
    parent = content.pop("extends", None)
    if parent is None:
        return content
    if not isinstance(parent, str) or not RUN_NAME.fullmatch(parent):
        raise ParamsError(f"{origin}: extends: expected the name of a file in params/ without its ending, got {parent!r}")
    if parent in seen:
        raise ParamsError(f"{origin}: extends: {' -> '.join(seen + (parent,))} goes round in a circle")
    file = paths.PARAMS / f"{parent}.yaml"
    below = _extended(read_yaml(file), paths.shown(file), seen + (parent,))
    return merge(below, content)


def _sentence(error: dict, origin: str) -> str:
    """One pydantic error as one line: where, what was expected, the nearest valid name."""
    place = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        known = _known_keys(place[:-1])
        near = difflib.get_close_matches(place[-1], known, 1, 0.5)
        said = f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known here: {', '.join(known)}"
    elif error["type"] == "missing":
        said = "missing; every run must set it"
    elif error["type"] == "value_error":
        said = str(error["ctx"]["error"])
    else:
        said = f"{error['msg'][0].lower()}{error['msg'][1:]}, got {_short(error['input'])}"
        if error["type"] == "literal_error" and isinstance(error["input"], str):
            near = difflib.get_close_matches(error["input"], re.findall(r"'([^']*)'", error["ctx"]["expected"]), 1, 0.5)
            said += f"; did you mean {near[0]}?" if near else ""
        place = [part for part in place if not part.startswith(("list[", "literal["))]  # branches of a union
    where = ".".join(place) or "the file as a whole"
    return f"{origin}: {where}: {said}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(place: list[str]) -> list[str]:
    model: Any = Params
    for part in place:
        if part not in model.model_fields:  # a name of the user's own, as in cluster.stages
            continue
        annotation = model.model_fields[part].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def resolve(content: dict, origin: str = "parameters") -> Params:
    """Merge `extends`, check everything; ParamsError says in one line what is wrong and where."""
    try:
        return Params.model_validate(_extended(content, origin))
    except ValidationError as error:
        raise ParamsError(_sentence(error.errors()[0], origin)) from None


def params_file(file: str | Path) -> Path:
    """A path as given, or the file of that name in params/."""
    return paths.PARAMS / f"{file}.yaml" if Path(file).suffix != ".yaml" and RUN_NAME.fullmatch(str(file)) else Path(file)


def load(file: str | Path, settings: list[str] = ()) -> Params:
    """Parameters of one run's file (a path, or the name of a file in params/), with `section.key=value` settings on top."""
    path = params_file(file)
    content = read_yaml(path)
    if "variants" in content:
        raise ParamsError(f"{paths.shown(path)}: a study of several runs, not one run; start it with ./run_all.sh {paths.shown(path)}")
    return _resolved(content, {}, settings, paths.shown(path))


def load_runs(file: str | Path, settings: list[str] = ()) -> list[Params]:
    """The runs of a file: one, or for a study one per entry of `variants`, named <run>-<variant>.

    A variant is what a params file is, merged over the rest of the study's file; its own `extends` replaces the study's.
    """
    path = params_file(file)
    content = read_yaml(path)
    if "variants" not in content:
        return [load(file, settings)]
    origin, variants, study = paths.shown(path), content.pop("variants"), content.get("run")
    if not isinstance(variants, dict) or not variants or not all(isinstance(variant, dict | None) for variant in variants.values()):
        raise ParamsError(f"{origin}: variants: expected `name: {{settings}}` lines, got {_short(variants)}")
    runs = []
    for name, variant in variants.items():
        variant = dict(variant or {})
        below = content | ({"extends": variant.pop("extends")} if "extends" in variant else {})
        runs.append(_resolved(below, variant | {"run": f"{study}-{name}"}, settings, f"{origin}: variants.{name}"))
    return runs


def _resolved(content: dict, above: dict, settings: list[str], origin: str) -> Params:
    content = merge(_extended(content, origin), above)
    for setting in settings:
        content = merge(content, as_mapping(setting))
    return resolve(content, origin + ("" if not settings else " with --set"))


def as_mapping(setting: str) -> dict:
    """`a.b=1` as {"a": {"b": 1}}."""
    key, equals, value = setting.partition("=")
    if not equals or not all(re.fullmatch(r"\w+", part) for part in key.split(".")):
        raise ParamsError(f"--set {setting}: expected section.key=value")
    try:
        value = yaml.load(value, Loader=_Loader)
    except YAML_ERRORS as error:
        raise ParamsError(f"--set {setting}: the value is not readable as YAML: {error}") from None
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def from_cell(namespace: dict[str, Any]) -> Params:
    """Parameters of a notebook: what its parameters cell holds, with every empty value left to the params file.

    Papermill fills the cell from a file (-f) or from the runner; by hand it is empty, which means the run mini_llama, or
    names a run, which means the file of that name in params/.
    """
    names = ["extends", *Params.model_fields]
    content = {name: namespace[name] for name in names if namespace.get(name) not in (None, "", {})}
    if "preference" in namespace and namespace["preference"] is None:  # the cell's own value is {}: null was given, and means that there is none
        content["preference"] = None
    if "extends" not in content and not content.keys() >= Params.model_fields.keys():
        content["extends"] = content.get("run", DEFAULT_RUN)
    return resolve(content)
