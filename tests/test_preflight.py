"""The preflight: its counts are exact, its memory is what is measured, and what does not fit stops before anything starts."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT, executed
from small import make_model, make_tokenizer

from hippo_utils import manifest, paths
from hippo_utils.params import Lora, Params, ParamsError, Training, load, load_runs, resolve
from hippo_utils.training import memory, preflight
from hippo_utils.training.memory import DEVICES, GIB, Device

CPU = Device("a CPU", 64, 0.02, gpus=0)
_spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / "preflight.py")
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)

# As the authors' cards and Transformers count them.
PARAMETERS = {"meta-llama/Llama-2-7b-hf": 6_738_415_616, "meta-llama/Llama-2-13b-hf": 13_015_864_320, "mistralai/Mistral-7B-v0.1": 7_241_732_096,
              "meta-llama/Meta-Llama-3-8B": 8_030_261_248, "meta-llama/Llama-3.2-1B": 1_235_814_400, "HuggingFaceTB/SmolLM2-135M": 134_515_008,
              "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": 1_100_048_384, "HuggingFaceTB/SmolLM2-360M": 361_821_120,
              "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384, "Qwen/Qwen2.5-0.5B": 494_032_768, "Qwen/Qwen2.5-1.5B": 1_543_714_304, "Qwen/Qwen2.5-7B": 7_615_616_512}


# --- counts ----------------------------------------------------------------------------------------------------------

def test_the_table_of_bases_has_their_parameters():
    assert {name: shape.parameters() for name, shape in memory.BASES.items()} == PARAMETERS


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("targets", ["all-linear", ["gate_proj", "up_proj", "down_proj"], ["q_proj", "v_proj"]], ids=["all", "mlp", "qv"])
def test_parameters_are_those_of_the_real_model(family, targets, tmp_path):
    from hippo_utils.training import models
    lora = Lora(rank=4, alpha=8, targets=targets)
    model = make_model(make_tokenizer(tmp_path), family=family)
    shape = memory.from_config(model.config.to_dict(), "this one")
    training = Training(epochs=1, learning_rate=1e-3, schedule="constant", warmup=0.0, batch=1, max_length=64, precision="float32")
    assert (shape.parameters(), memory.trainable(shape, training)) == (model.num_parameters(), model.num_parameters())
    counted = models.parameters(models.add_lora(model, lora))
    adapted = training.model_copy(update={"lora": lora})
    assert memory.trainable(shape, adapted) == counted["trainable"]
    assert shape.parameters() + counted["trainable"] == counted["parameters"]


def test_steps_and_tokens_of_a_whole_run_are_exact(tiny_run, monkeypatch):
    """What 02 to 04 printed when they trained, against what is foreseen from 01's account and 04's pairs."""
    monkeypatch.setenv("HIPPO_HOME", str(tiny_run.home))
    settings = load("tiny")
    plan = preflight.plan(settings)
    assert all(step.exact for step in plan)
    said = [re.findall(r"^(\d+) steps, ([\d,]+) tokens", paths.log("tiny", stage).read_text(), re.M) for stage in ("02_pretraining", "03_instruction", "04_preference")]
    trained = [(int(steps), int(tokens.replace(",", ""))) for lines in said for steps, tokens in lines]
    assert [step.steps for step in plan] == [steps for steps, _ in trained]
    assert [step.tokens for step in plan[:-1]] == [tokens for _, tokens in trained[:-1]]
    from transformers import AutoTokenizer

    from hippo_utils import records
    pairs = records.read("preference", paths.stage_folder("tiny", "04_preference") / "preferences.parquet").query("split == 'train'")
    tokenizer = AutoTokenizer.from_pretrained(paths.stage_folder("tiny", "01_corpus") / "tokenizer")
    both = [tokenizer(p + a + tokenizer.eos_token)["input_ids"] for name in ("chosen", "rejected") for p, a in zip(pairs["prompt"], pairs[name])]
    assert (plan[-1].rows, plan[-1].tokens) == (len(pairs), sum(map(len, both)))
    assert plan[0].shape.parameters() == int(re.search(r"embed_tokens\): Embedding\((\d+)", paths.executed_notebook("tiny", "02_pretraining").read_text())[1]) * 64 + (
        plan[0].shape.layers * plan[0].shape.layer() + 64)


def test_before_anything_ran_counts_are_foreseen_and_said_to_be(home, capsys):
    plan = preflight.plan(load("hippo_llama"))
    assert not any(step.exact for step in plan)
    cp = plan[0]
    assert cp.name == "CP" and abs(cp.tokens / 298e6 - 1) < 0.01, "the paper's 298M tokens"
    assert abs(plan[1].rows - 696_000) < 1000, "the paper's 696K instructions"
    assert cp.steps == -(-cp.rows // 16)
    preflight.report(load("hippo_llama"), DEVICES["h200"])
    assert "foreseen" in capsys.readouterr().out


# --- memory ------------------------------------------------------------------------------------------------------------

SMALL = dict(layers=4, width=192, feed_forward=512, heads=6, key_value_heads=3)


@pytest.mark.parametrize("name", ["all weights", "all weights, 2 passes a step", "CP", "CP, all linear maps", "SFT", "DPO"])
def test_memory_is_what_is_measured(name, monkeypatch):
    """All tensors alive at the peak of two real training steps (the benchmark does the same with 100M parameters and more)."""
    monkeypatch.setattr(benchmark, "LENGTH", 128)
    step, loss, changes = benchmark.CASES[name]
    found = benchmark.case(step, loss, changes, SMALL, vocabulary=4000)
    assert abs(found["foreseen"] / found["tensors"] - 1) < 0.2, found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all weights", "CP", "SFT", "DPO"])
def test_memory_of_a_model_of_100m_parameters_is_within_a_fifth(name):
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "preflight.py"), "--one", name, "110M"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parameters"] > 100e6 and abs(found["foreseen"] / found["tensors"] - 1) < 0.2, found


def test_what_saves_memory_saves_memory_in_the_model():
    step = preflight.plan(load("hippo_llama"))[0]
    a100 = DEVICES["a100-40"]

    def need(training=step.training, device=a100) -> dict[str, int]:
        return memory.peak(step.shape, training, device, step.loss)

    usual, half = need(), need(step.training.model_copy(update={"batch": 4, "accumulation": 4}))
    assert half["activations"] * 2 == usual["activations"] and half["weights"] == usual["weights"]
    assert need(device=CPU)["weights"] > 1.9 * usual["weights"], "float32 on the CPU, 16 bit on a GPU"
    whole = need(step.training.model_copy(update={"lora": None}))
    assert whole["optimiser"] == 8 * step.shape.parameters() and usual["optimiser"] < 0.01 * whole["optimiser"]


# --- verdicts ----------------------------------------------------------------------------------------------------------

def test_a_device_that_is_too_small_is_said_before_anything_starts(toy):
    printed = toy("toy", "--set", "pretraining.cp.batch=4000000", code=2)
    assert executed(printed) == [] and "toy does not fit: memory: CP needs" in printed
    assert toy("toy", "--list").count("up to date") == 7, "and nothing that was done is undone"


def test_a_run_that_is_up_to_date_is_not_checked_and_one_that_is_due_in_one_line(toy):
    assert "preflight" not in toy("toy")
    assert "preflight" not in toy("toy", "--set", "calibration.bins=5"), "nothing trains"
    printed = toy("toy", "--set", "preference.dpo.beta=0.2", "--only", "04")
    assert len(re.findall(r"^preflight of toy: \[OK\] at most [\d.]+ of [\d.]+ GiB", printed, re.M)) == 1


def proposed(said: str) -> Params:
    """The parameters that the report proposes, as a user would save them."""
    import yaml
    return resolve(yaml.safe_load(said.partition("save them as a file in params/):\n")[2]))


def test_the_report_names_each_requirement_and_the_params_file_that_fits(home, tmp_path, capsys):
    settings = load("hippo_llama")
    assert preflight.report(settings, DEVICES["h200"])
    said = capsys.readouterr().out
    assert "[OK]   memory: CP needs" in said and "[FAIL]" not in said and "6,738,415,616 parameters" in said
    assert not preflight.report(settings, DEVICES["t4"])
    said = capsys.readouterr().out
    assert "[FAIL] memory: CP needs" in said and "[OK]   disk" in said
    smaller = proposed(said)
    assert smaller.run == "hippo_llama_t4"
    assert smaller.pretraining.cp.batch * smaller.pretraining.cp.accumulation == 16, "the same effective batch"
    assert preflight.report(smaller, DEVICES["t4"])


def test_a_proposal_changes_what_does_not_fit_and_keeps_what_was_asked(home, capsys):
    asked = ["instruction.sft.batch=64", "instruction.sft.accumulation=2", "pretraining.cp.epochs=2"]
    assert not preflight.report(load("hippo_llama", asked), DEVICES["rtx-4090"], "hippo_llama", asked)
    smaller = proposed(capsys.readouterr().out)
    before = load("hippo_llama", asked)
    assert smaller.pretraining.cp == before.pretraining.cp and smaller.preference == before.preference, "these fitted, and --set is kept"
    assert smaller.instruction.sft.batch < 64 and smaller.instruction.sft.batch * smaller.instruction.sft.accumulation == 128
    assert preflight.report(smaller, DEVICES["rtx-4090"])


def test_a_proposal_that_does_not_mend_all_says_what_is_left(home, capsys):
    asked = ["preference.dpo.max_length=8192", "instruction.sft.batch=128"]
    assert not preflight.report(load("hippo_llama", asked), DEVICES["a100-40"], "hippo_llama", asked)
    said = capsys.readouterr().out
    assert "make the trainings fit" in said and "These parameters fit" not in said
    assert said.partition("and this is left")[2].strip().endswith("preference.dpo.max_length is 8192, the base was made for 4096 tokens")
    preflight.report(load("hippo_llama", asked[:1]), DEVICES["a100-80"])
    assert "These parameters" not in capsys.readouterr().out, "there is nothing to change"


def test_a_proposal_for_a_study_or_a_file_elsewhere_says_where_it_belongs(home, tmp_path, capsys, monkeypatch):
    import yaml
    runs = load_runs("study_corpora_7b")
    preflight.report(runs[0], DEVICES["t4"], "study_corpora_7b")
    said = capsys.readouterr().out
    name = runs[0].run.removeprefix("study_corpora_7b-")
    assert "(put them into params/study_corpora_7b.yaml)" in said
    block = yaml.safe_load(re.search(r"study_corpora_7b.yaml\):\n((?:    .*\n)+)", said)[1])
    assert block["variants"][name]["pretraining"]["cp"]["lora"]["bits"] == 4 and "extends" not in block
    file = tmp_path / "mine.yaml"
    file.write_text("extends: hippo_llama\nrun: my_run\n")
    preflight.report(load(file), DEVICES["t4"], str(file))
    assert f"(put them into {paths.shown(file)})" in capsys.readouterr().out
    writer = ["pretraining.generators.llama_writer.training.batch=16384"]
    preflight.report(load("mini_hypnos", writer), DEVICES["t4"], "mini_hypnos", writer)
    assert proposed(capsys.readouterr().out).pretraining.generators["llama_writer"].training.batch < 16384
    with pytest.raises(manifest.StageError, match="run_all.sh study_corpora_7b --preflight --device t4 --set evaluation.precision=float16 says what would fit"):
        preflight.check(runs[0], DEVICES["t4"], manifest.STAGES, "study_corpora_7b", ["evaluation.precision=float16"])


def test_what_would_be_refused_hours_later_is_refused_now(home, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert failed(CPU, "mini_llama", "pretraining.cp.devices=2", "pretraining.cp.accelerate=fsdp2", "instruction.sft.nodes=2", "preference.dpo.attention=flash_attention_2") == [
        "devices: pretraining.cp.accelerate is fsdp2, which shares a model out over GPUs, and a CPU is none; take ddp",
        *["nodes: instruction.sft.nodes is 2; start this run as a job of the cluster (--slurm), or set it to 1"] * 2,
        "attention: preference.dpo.attention is flash_attention_2, which needs 16 bit on a GPU that has bfloat16; auto takes what there is"]
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    monkeypatch.setenv("OPENAI_API_KEY", "word")
    assert failed(CPU, "mini_llama", "instruction.sft.nodes=2") == []
    here = Device("NVIDIA A100", 80, 312)
    monkeypatch.setattr(preflight, "host_memory", lambda: 64 * GIB)
    said = failed(here, "hippo_llama", "pretraining.cp.attention=flash_attention_2", "preference.dpo.lora.bits=4")
    assert [words.partition(",")[0] for words in said] == ["attention: pretraining.cp.attention is flash_attention_2", "4 bit: preference.dpo.lora.bits needs bitsandbytes"]
    assert failed(DEVICES["a100-80"], "hippo_llama", "pretraining.cp.attention=flash_attention_2") == [], "what is installed there is not known here"


def test_hours_in_float32_are_those_of_float32(home):
    plan = {kind: preflight.plan(load("hippo_llama", [f"pretraining.cp.precision={kind}"]))[0].hours(DEVICES["a100-80"]) for kind in ("bfloat16", "float32")}
    assert plan["float32"] / plan["bfloat16"] == pytest.approx(312 / 19.5)


def test_the_batch_is_shown_as_the_devices_share_it(home, capsys):
    preflight.report(load("hippo_llama", ["pretraining.cp.devices=8"]), DEVICES["a100-80"])
    said = capsys.readouterr().out
    assert re.search(r"^  CP .* 2 x 1 x 8 ", said, re.M) and re.search(r"^  SFT .* 8 x 2 ", said, re.M)


def test_activations_computed_twice_cost_another_forward_pass_attention_included(home):
    once, twice = (preflight.plan(load("hippo_llama", [f"pretraining.cp.activation_checkpointing={word}"]))[0] for word in ("false", "true"))
    s = once.shape
    assert twice.flops() - once.flops() == pytest.approx(once.tokens * (2 * s.multiplied() + 4 * s.layers * s.heads * s.head_width * once.training.max_length))


def test_new_tokens_count_as_the_model_counts_them(home, tmp_path):
    from hippo_utils.training import models
    tokenizer = make_tokenizer(tmp_path)
    model = make_model(tokenizer)
    model.config.tie_word_embeddings = False
    new = 7
    tokenizer.add_tokens([f"词{number}" for number in range(new)])
    model.resize_token_embeddings(len(tokenizer))
    from peft import get_peft_model
    lora = Lora(rank=4, alpha=8, targets=["gate_proj"], new_tokens=True)
    counted = models.parameters(get_peft_model(model, models.lora_config(lora, model, tokenizer)))["trainable"]
    shape = dataclasses.replace(memory.from_config(model.config.to_dict(), "this one"), new_tokens=new)
    training = Training(epochs=1, learning_rate=1e-3, schedule="constant", warmup=0.0, batch=1, max_length=64, precision="float32", lora=lora)
    assert memory.trainable(shape, training) == counted
    more = load("hippo_llama", ["pretraining.new_tokens=1000", "instruction.sft.lora.new_tokens=true"])
    assert preflight.shape_of(more)[0].vocabulary == 33000


@pytest.mark.parametrize("content, words", [('{"model_type": "llama"', "no JSON object is in it"), ("[]", "no JSON object is in it"), ('{"model_type": "llama"}', "it has no num_attention_heads"),
                                            ('{"model_type": "llama", "num_attention_heads": "x"}', "it has no vocab_size")])
def test_a_damaged_base_stops_the_run_in_a_sentence(home, tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(manifest.StageError, match=f"is damaged \\({words}\\); fetch the model again"):
        preflight.check(load("hippo_llama", [f"pretraining.base={tmp_path}"]), DEVICES["h200"], manifest.STAGES)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    assert memory.lacks(str(tmp_path)) == "no readable model.safetensors.index.json"


def test_precision_and_context_are_requirements_too(home):
    t4 = DEVICES["t4"]
    settings = load("mini_llama", ["pretraining.cp.precision=bfloat16", "preference.dpo.max_length=4096"])
    failed = [words for holds, words in preflight.requirements(settings, preflight.plan(settings), t4) if not holds]
    assert len(failed) == 2 and "pretraining.cp.precision is bfloat16, which t4 does not compute" in failed[0] and "preference.dpo.max_length is 4096" in failed[1]


@pytest.mark.parametrize("changes, words", [
    (["pretraining.cp.lora={rank: 8, alpha: 16, targets: [fc1]}"], "lora.targets names fc1; a layer of this base has q_proj"),
    (["pretraining.base=nobody/nothing"], "the base nobody/nothing is no folder with a config.json"),
])
def test_mistakes_are_one_sentence(home, changes, words):
    with pytest.raises(ParamsError, match=words):
        preflight.report(load("hippo_llama", changes), DEVICES["h200"])


def test_a_base_in_a_folder_is_read_and_one_of_another_kind_is_not_judged(home, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 100, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, '
                                          '"num_attention_heads": 4, "max_position_embeddings": 2048}')
    shape, where = preflight.shape_of(load("hippo_llama", [f"pretraining.base={tmp_path}"]))
    assert shape.key_value_heads == 4 and where.endswith("config.json")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ParamsError, match="is of type gpt2; memory is foreseen for llama"):
        preflight.shape_of(load("hippo_llama", [f"pretraining.base={tmp_path}"]))
    preflight.check(load("hippo_llama", [f"pretraining.base={tmp_path}"]), CPU, manifest.STAGES)
    assert "not checked; the base" in capsys.readouterr().out, "it may train all the same"


def test_this_machines_device_is_read_from_nvidia_smi(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Tesla T4, 15360, 7.5'\necho 'Tesla T4, 15360, 7.5'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(memory, "_built_for_the_cpu", lambda: False)
    device = memory.this_device(1)
    assert (device.name, device.memory, device.bfloat16, device.gpus) == ("Tesla T4", 15.0, False, 2) and device.teraflops == DEVICES["t4"].teraflops
    tool.write_text("#!/bin/sh\necho 'NVIDIA L40S, 46068, 8.9'\n")
    assert memory.this_device(1).teraflops == DEVICES["l40s"].teraflops and memory.this_device(1).bfloat16
    tool.write_text("#!/bin/sh\necho 'NVIDIA GB10, [N/A], 12.1'\n")
    shared = memory.this_device(1)
    assert shared.gpus == 1 and shared.bfloat16 and shared.memory == pytest.approx(memory.host_memory() / GIB)
    monkeypatch.setattr(memory, "_built_for_the_cpu", lambda: True)
    unused = memory.this_device(1)
    assert unused.gpus == 0 and unused.name == "this CPU (NVIDIA GB10 is not used: the PyTorch that is installed was built without CUDA)"
    assert "run: toy_cpu" in preflight.as_params_file(load("mini_llama").model_copy(update={"run": "toy"}), {}, unused)[0]
    tool.unlink()
    assert memory.this_device(1).name == "this CPU"


def test_a_pytorch_without_cuda_is_known_without_importing_it():
    import torch
    assert memory._built_for_the_cpu() == (torch.version.cuda is None and torch.version.hip is None)


def failed(device: Device, name: str = "hippo_llama", *changes: str) -> list[str]:
    settings = load(name, list(changes))
    return [words for holds, words in preflight.requirements(settings, preflight.plan(settings), device) if not holds]


def test_what_notebooks_hold_beside_the_training_counts_too(home, monkeypatch):
    """What is looked at around a training, the judge of 04, the processes' copies on the host, and the key of an endpoint."""
    monkeypatch.setattr(preflight, "host_memory", lambda: 64 * GIB)
    monkeypatch.setenv("OPENAI_API_KEY", "word")
    small = [f"{step}={number}" for step, number in (("pretraining.cp.batch", 1), ("instruction.sft.batch", 1), ("preference.dpo.batch", 1), ("evaluation.batch_tokens", 4096))]
    assert [words.partition(" in its")[0] for words in failed(Device("a GPU", 16.2, 100), "hippo_llama", *small)] == ["memory: looking at SFT"]
    assert failed(DEVICES["t4"], "colab_t4") == []
    assert [words.split(" needs")[0] for words in failed(DEVICES["t4"], "colab_t4", "preference.local.model=Qwen/Qwen2.5-7B-Instruct")] == ["memory: the judge of 04"]
    assert failed(DEVICES["t4"], "colab_t4", "evaluation.precision=bfloat16") == ["precision: evaluation.precision is bfloat16, which t4 does not compute; take float16"]
    monkeypatch.delenv("OPENAI_API_KEY")
    here = Device("NVIDIA A100", 80, 312, gpus=8)
    said = failed(here, "hippo_llama", "pretraining.cp.devices=8")
    assert re.fullmatch("host memory: 8 processes that read the weights of CP take 1[0-9]{2}.[0-9] GiB of 64.0 GiB", said[0]) and said[1:] == [
        "key: 04 needs OPENAI_API_KEY in the environment, to ask gpt-4"]
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    hypnos = load("hypnos")
    assert [words for words in failed(here, "hypnos") if words.startswith("key: ")] == [
        "key: 03 needs OPENAI_API_KEY in the environment, to ask gpt-3.5-turbo",
        "key: 03 needs ANTHROPIC_API_KEY in the environment, to ask claude-3-haiku-20240307",
        "key: 05 needs OPENAI_API_KEY in the environment, to ask gpt-4"]
    assert all(holds for holds, _ in preflight.requirements(hypnos, preflight.plan(hypnos), here, ("02_pretraining",))), "a stage alone needs its own keys"
    monkeypatch.setenv("OPENAI_API_KEY", "word")
    assert failed(here) == []


def test_packed_instructions_are_fewer_rows_and_not_counted_exactly(tiny_run, monkeypatch):
    monkeypatch.setenv("HIPPO_HOME", str(tiny_run.home))
    plain, packed = (next(step for step in preflight.plan(load("tiny", changes)) if step.name == "SFT") for changes in ([], ["instruction.sft.packing=documents"]))
    assert plain.exact and not packed.exact
    assert packed.rows == -(-round(plain.tokens / plain.training.epochs) // plain.training.max_length) < plain.rows and packed.tokens == plain.tokens


def test_what_lies_on_the_disk_for_a_while_counts(home):
    one = preflight.plan(load("hippo_llama"))
    several, quantised = (preflight.plan(load("hippo_llama", [change])) for change in ("pretraining.cp.devices=8", "pretraining.cp.lora={rank: 8, alpha: 16, targets: all-linear, bits: 4}"))
    assert [max(step.passing() for step in plan) for plan in (one, several, quantised)] == [0, *[2 * one[0].shape.parameters()] * 2]


def test_it_needs_no_torch(home):
    """A run that is about to start would otherwise wait seconds for an import."""
    script = ("import sys; from hippo_utils.training import preflight; assert preflight.main(['hippo_llama', '--device', 'h200']) == 0; "
              "assert not {'torch', 'transformers'} & sys.modules.keys()")
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_an_unknown_device_is_answered_with_the_names_there_are(toy):
    printed = toy("toy", "--preflight", "--device", "z9", code=2)
    assert "z9 is not in the preflight's table of devices; there are t4" in printed
    assert "--device belongs to --preflight" in toy("toy", "--device", "t4", code=2)
    assert "[OK]   memory: CP needs" in toy("toy", "--preflight", "--device", "t4")
    assert "toy on t4" in toy("toy", "--preflight", "--device", "t4", "--set", "calibration.bins=5")
