"""A run as a chain of jobs: what sbatch is given, and that the jobs do the run, by a stand-in that records and runs them in order."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import Project, executed
from test_faults import finished, quick_done, quick_template  # noqa: F401  (fixtures)

from hippo_utils import manifest
from hippo_utils.corpus import hub
from hippo_utils.params import ParamsError, load
from hippo_utils.training import memory, slurm

SBATCH = '''#!{python}
"""Stands in for sbatch: runs the job here and now, each task of an array in turn, if all it waits for went well; with HIPPO_HOLD it only queues."""
import json, os, pathlib, re, shlex, subprocess, sys
book = pathlib.Path(os.environ["SLURM_BOOK"])
jobs = json.loads(book.read_text()) if book.exists() else []
text = pathlib.Path(sys.argv[-1]).read_text()
number = 100 + len(jobs)
words = [word for line in re.findall(r"^#SBATCH (.*)$", text, re.M) for word in shlex.split(line)]
options = dict(word.removeprefix("--").split("=", 1) for word in words)
waits = re.findall(r"(afterok|aftercorr):(\\d+)", " ".join(sys.argv[1:-1]))
last = int(options.get("array", "0-0").split("-")[1])
codes = []
for task in range(0 if "HIPPO_HOLD" in os.environ else last + 1):
    before = [jobs[int(n) - 100]["codes"] for _, n in waits]
    if any(any(c) if kind == "afterok" else c[task] for (kind, _), c in zip(waits, before)):
        codes.append("never started")
        continue
    environment = os.environ | {{"SLURM_JOB_ID": str(number), "SLURM_CPUS_PER_TASK": options["cpus-per-task"]}}
    if "array" in options:
        environment["SLURM_ARRAY_TASK_ID"] = str(task)
    if "HIPPO_REFUSE" in os.environ and os.environ["HIPPO_REFUSE"] in sys.argv[-1]:
        sys.exit("sbatch: error: Batch job submission failed: Invalid account")
    name = re.sub("%(.)", lambda found: {{"%": "%", "j": str(number), "A": str(number), "a": str(task)}}[found[1]], options["output"])
    with open(name, "w") as log:
        codes.append(subprocess.run(["bash", sys.argv[-1]], env=environment, stdout=log, stderr=subprocess.STDOUT).returncode)
jobs.append({{"arguments": sys.argv[1:-1], "script": pathlib.Path(sys.argv[-1]).name, "options": options, "waits": waits, "codes": codes}})
book.write_text(json.dumps(jobs))
print(f"{{number}};cluster")
'''
SQUEUE = '''#!{python}
"""Stands in for squeue: the numbers of the queued jobs of these names, as Slurm writes those of arrays."""
import json, os, pathlib, sys
if "HIPPO_NO_ANSWER" in os.environ:
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
assert {{"--me", "--noheader", "--format=%i"}} < set(sys.argv)
names = next(word for word in sys.argv if word.startswith("--name="))[7:].split(",")
book = pathlib.Path(os.environ["SLURM_BOOK"])
for place, job in enumerate(json.loads(book.read_text()) if book.exists() else []):
    if not job["codes"] and job["options"]["job-name"] in names:
        print(f"{{100 + place}}" + (f"_[{{job['options']['array']}}]" if "array" in job["options"] else ""))
'''


@pytest.fixture
def toy(finished):
    """The toy whose notebooks need no kernel: what is tested is the jobs around them."""
    return finished


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A PATH with a stand-in sbatch and squeue; called, it returns the jobs that were sent."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, source in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        (tools / name).write_text(source.format(python=sys.executable))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_BOOK", str(tmp_path / "book.json"))
    return lambda: json.loads((tmp_path / "book.json").read_text())


@pytest.fixture
def data(home):
    """The folders of hippo_llama's data sets, without the data."""
    for source in hub.used(load("hippo_llama").corpus):
        (home / "data" / source.hub).mkdir(parents=True, exist_ok=True)


def scripts(project: Project, name: str) -> dict[str, str]:
    return {file.stem: file.read_text() for file in sorted((project.home / "outputs" / name / "slurm").glob("*.sbatch"))}


def test_a_run_is_a_chain_of_jobs_that_does_the_run(toy, queue):
    printed = toy("toy", "--slurm", "--submit", "--set", "preference.dpo.beta=0.2", "--set", "cluster.default.hours=1.5")
    jobs, due = queue(), manifest.STAGES[3:]
    assert [job["script"] for job in jobs] == [f"{stage}.sbatch" for stage in due] and all(job["codes"] == [0] for job in jobs)
    numbers = {job["script"].removesuffix(".sbatch"): str(100 + place) for place, job in enumerate(jobs)}
    for job in jobs:
        assert job["waits"] == [["afterok", numbers[needed]] for needed in manifest.NEEDS[job["script"].removesuffix(".sbatch")] if needed in due]
        assert job["options"]["time"] == "90" and job["options"]["nodes"] == "1" and "array" not in job["options"]
        assert ("--kill-on-invalid-dep=yes" in job["arguments"]) == bool(job["waits"])
    assert "102  06_ablations after 101" in printed
    assert toy("toy", "--list", "--set", "preference.dpo.beta=0.2").count("up to date") == 7
    assert "everything is up to date; no job to write" in toy("toy", "--slurm", "--set", "preference.dpo.beta=0.2")


def test_only_what_is_due_gets_a_job_and_no_later_edit_or_call_reaches_waiting_jobs(toy, queue, tmp_path):
    printed = toy("toy", "--slurm", "--set", "calibration.bins=5")
    assert re.findall(r"^  (\S+)", printed, re.M) == ["07_calibration.sbatch"] and "--submit hands them to sbatch" in printed
    job = shutil.copy(toy.home / "outputs" / "toy" / "slurm" / "07_calibration.sbatch", tmp_path)  # as Slurm does when a job is submitted
    (toy.root / "params" / "toy.yaml").write_text("extends: mini_llama\nrun: toy\ncalibration: {bins: 99}\n")
    toy("toy", "--slurm", "--set", "calibration.bins=7")
    subprocess.run(["sbatch", str(job)], check=True, cwd=toy.root, env=toy.environment(), capture_output=True)
    assert queue()[0]["codes"] == [0] and toy.manifest("07_calibration")["parameters"]["calibration"]["bins"] == 5


def test_a_chain_that_is_in_the_queue_is_not_queued_again(toy, queue, monkeypatch):
    monkeypatch.setenv("HIPPO_HOLD", "1")
    (toy.root / "params" / "study_toy.yaml").write_text(STUDY)
    toy("study_toy", "--slurm", "--submit")
    sent = queue()
    assert sent[3]["options"]["array"] == "0-1" and len(sent) == 8
    numbers = [str(100 + place) for place in range(8)]
    said = toy("study_toy", "--slurm", "--submit", "--set", "seed=3", code=2)
    assert f"study_toy: its jobs {', '.join(numbers)} are in the queue already; wait for them, or take them back: scancel {' '.join(numbers)}\n" in said
    assert queue() == sent, "nothing was sent"
    toy("study_toy", "--slurm")  # writing scripts disturbs nobody
    toy("toy", "--slurm", "--submit", "--set", "calibration.bins=5")
    assert len(queue()) == 9, "the jobs of another run are no hindrance"
    monkeypatch.setenv("HIPPO_NO_ANSWER", "1")
    toy("toy", "--slurm", "--submit", "--set", "calibration.bins=5")
    assert len(queue()) == 10, "a squeue that does not answer is none either"


@pytest.mark.parametrize("options, named", [(["--dry-run"], "--dry-run"), (["--only", "07"], "--only"), (["--from", "07"], "--from"), (["--force", "07"], "--force"),
                                            (["--list"], "--list"), (["--jobs", "2"], "--jobs"), (["--preflight"], "--slurm")])
def test_options_of_another_use_are_refused_before_a_job_is_sent(toy, queue, tmp_path, options, named):
    said = toy("toy", "--slurm", "--submit", "--set", "calibration.bins=5", *options, code=2)
    assert f"takes the whole run and executes nothing here; leave {named} out" in said
    assert not (tmp_path / "book.json").exists() and not scripts(toy, "toy")


def test_spaces_and_percent_signs_in_folders_and_names_reach_no_option(toy, queue, tmp_path):
    """sbatch takes the lines of a script apart as a shell does, and reads % in the name of a log."""
    odd = toy.copy(tmp_path / "a 100%j folder")
    odd("toy", "--slurm", "--submit", "--set", "calibration.bins=5")
    job, = queue()
    assert job["codes"] == [0] and odd.manifest("07_calibration")["parameters"]["calibration"]["bins"] == 5
    assert (odd.home / "outputs" / "toy" / "slurm" / "07_calibration-100.log").is_file()
    (odd.root / "params" / "my study.yaml").write_text(STUDY)
    odd(str(odd.root / "params" / "my study.yaml"), "--slurm")
    heads = {stage: shlex.split(" ".join(re.findall("^#SBATCH (.*)$", text, re.M))) for stage, text in scripts(odd, "my study").items()}
    assert heads["04_preference"][0] == "--job-name=my study-04" and all(word.startswith("--") for words in heads.values() for word in words)


@pytest.mark.parametrize("line", ["echo 'loading", "module load $(cat modules", "if true; then", "cat <<END"])
def test_a_setup_that_breaks_the_script_is_refused_before_anything_is_sent(toy, queue, tmp_path, line):
    said = toy("toy", "--slurm", "--submit", "--set", "calibration.bins=5", "--set", f"cluster.setup={json.dumps([line])}", code=2)
    assert re.search(r"error: cluster.setup: with these lines 07_calibration.sbatch is no shell script \(.*line \d+.*\); close every quote", said)
    assert not (tmp_path / "book.json").exists()


STUDY = """run: study_toy
extends: mini_llama
variants:
  one: {calibration: {bins: 5}}
  two: {calibration: {bins: 7}}
  other: {preference: {dpo: {beta: 0.3}}}
"""


def test_a_study_is_array_jobs_and_what_is_equal_is_one_task(toy):
    (toy.root / "params" / "study_toy.yaml").write_text(STUDY)
    printed = toy("study_toy", "--slurm")
    written = scripts(toy, "study_toy")
    assert list(written) == [*manifest.STAGES, "study"] and "study.sbatch after 06_ablations, 07_calibration" in printed
    arrays = {stage: re.findall(r"#SBATCH --array=(\S+)", written[stage]) for stage in manifest.STAGES}
    assert arrays == {stage: [] if stage < "04" else ["0-1"] if stage < "05" else ["0-2"] for stage in manifest.STAGES}
    first = re.search(r"^0\) exec (.*) ;;$", written["04_preference"], re.M)[1]
    assert "study_toy-one" in first and "study_toy-two" in first and first.endswith("--only 04 --jobs 1"), "equal stages are made once and shared"
    assert "study_toy-other" in re.search(r"^1\) exec (.*) ;;$", written["04_preference"], re.M)[1]
    assert written["study"].rstrip().endswith("hippo_utils.reporting study study_toy study_toy-one study_toy-two study_toy-other")
    assert all(subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0 for text in written.values())


@pytest.mark.slow
def test_the_jobs_of_a_study_do_the_study(toy, queue):
    (toy.root / "params" / "study_toy.yaml").write_text(STUDY)
    toy("study_toy", "--slurm", "--submit")
    jobs = {job["script"].removesuffix(".sbatch"): job for job in queue()}
    assert all(set(job["codes"]) == {0} for name, job in jobs.items() if name != "study")
    kinds = {needed: kind for needed, (kind, _) in zip(manifest.NEEDS["06_ablations"], jobs["06_ablations"]["waits"])}
    assert kinds == {"01_corpus": "afterok", "03_instruction": "afterok", "05_evaluation": "aftercorr"}, "a task waits for its own counterpart where there is one"
    assert [toy.manifest("07_calibration", f"study_toy-{name}")["parameters"]["calibration"]["bins"] for name in ("one", "two")] == [5, 7]
    assert toy.manifest("04_preference", "study_toy-two")["shared_from"]


def test_a_failed_job_keeps_what_waits_for_it_from_starting(toy, queue):
    toy.edit("03_instruction", "work.write(stage)", "raise ValueError('no such thing')")
    toy("toy", "--slurm", "--submit")
    codes = {job["script"][:2]: job["codes"][0] for job in queue()}
    assert codes == {"03": 1, "04": "never started", "05": "never started", "06": "never started", "07": "never started"}


def test_sbatch_that_refuses_or_is_not_there_is_a_sentence(toy, queue, monkeypatch):
    monkeypatch.setenv("HIPPO_REFUSE", "05_evaluation")
    printed = toy("toy", "--slurm", "--submit", "--set", "preference.dpo.beta=0.3", code=2)
    assert "sbatch refused" in printed and "Invalid account; to take back what was sent: scancel 100" in printed
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no sbatch on this machine" in toy("toy", "--slurm", "--submit", "--set", "seed=3", code=2)


def test_only_runs_one_stage_whose_inputs_are_done(toy):
    toy.edit("06_ablations", "work.write(stage)", "work.write(stage)  # changed")
    assert executed(toy("toy", "--only", "07")) == [], "up to date, and 06 is none of its inputs"
    assert executed(toy("toy", "--only", "06")) == ["06_ablations"]
    toy.edit("05_evaluation", "work.write(stage)", "work.write(stage)  # changed")
    assert "--only 06: 05_evaluation of toy is not up to date" in toy("toy", "--only", "06", code=2)
    assert "--from and --only exclude each other" in toy("toy", "--only", "06", "--from", "05", code=2)
    assert "--submit to --slurm" in toy("toy", "--submit", code=2)


def test_resources_come_from_the_params_file(home):
    settings = load("mini_llama", ["cluster.partition=gpu", "cluster.account=med", "cluster.options=[--qos=long]", "cluster.setup=[module load cuda]",
                                   "cluster.offline=true", "cluster.stages.02_pretraining={gpus: 4, cpus: 16, memory: 200, hours: 30, partition: big}"])
    text = slurm.script("x-02", settings, "02_pretraining", [["python", "a b"]], home)
    wanted = ["--gpus-per-node=4", "--cpus-per-task=16", "--mem=200G", "--time=1800", "--partition=big", "--account=med", "--qos=long"]
    assert [option for option in wanted if f"#SBATCH {option}\n" in text] == wanted and "exec python 'a b'" in text
    assert text.index("module load cuda") < text.index("exec") and "export HF_HUB_OFFLINE=1" in text
    other = slurm.script("x-06", settings, "06_ablations", [["python"]], home)
    assert "--partition=gpu" in other and "gpus-per-node" not in other
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_a_setup_that_reads_unset_variables_is_no_end_of_the_job(home, tmp_path):
    """As conda activate does; behind it an unset variable is an error again."""
    settings = load("mini_llama", ['cluster.setup=["echo ${NOT_SET_ANYWHERE}done"]'])
    job = slurm.script("x-06", settings, "06_ablations", [["echo", "worked"]], tmp_path)
    done = subprocess.run(["bash"], input=job, text=True, capture_output=True, env=os.environ | {"SLURM_CPUS_PER_TASK": "1"})
    assert done.stdout == "done\nworked\n" and "set -u" in job


def test_runs_that_ask_for_different_machines_are_no_array(toy):
    (toy.root / "params" / "study_toy.yaml").write_text(STUDY + "  wide: {calibration: {bins: 9}, cluster: {stages: {07_calibration: {memory: 500}}}}\n")
    assert re.search(r"study_toy: 07_calibration is one array job, and study_toy-\w+ and study_toy-wide ask for other machines for it", toy("study_toy", "--slurm", code=2))


def test_offline_jobs_that_would_need_the_hub_are_refused_before_they_wait(home, capsys):
    assert slurm.main(["hippo_llama", "--submit", "--set", "cluster.offline=true"]) == 2
    said = capsys.readouterr().err
    assert "the base meta-llama/Llama-2-7b-hf is not on this machine, or not whole: no config.json (fetch it on a node with a network" in said and "lacks " in said and "python -m hippo_utils.corpus fetch hippo_llama" in said
    assert "04_preference asks gpt-4 at an endpoint; run it on a node with a network" in said
    assert slurm.main(["mini_llama", "--set", "cluster.offline=true"]) == 0, "the mini world needs no network"
    local = ["--set", "cluster.offline=true", "--set", "preference.judge=local", "--set", "preference.local={model: some/judge, method: generation}"]
    assert slurm.main(["mini_llama", "--submit", *local]) == 2 and "the judge some/judge is not on this machine" in capsys.readouterr().err


def test_jobs_without_their_data_sets_are_refused_before_they_wait(home, queue, tmp_path, capsys):
    """Also where jobs reach a network: a run reads its mirror only."""
    assert slurm.main(["hippo_llama", "--submit", "--set", "corpus.data_root=my data"]) == 2
    said = capsys.readouterr().err
    assert "offline" not in said and "some/judge" not in said and re.search(r"^error: hippo_llama: \S*/my data lacks GBaker/MedQA-USMLE-4-options, .*, qiaojin/PubMedQA", said)
    assert "(on a node with a network: python -m hippo_utils.corpus fetch hippo_llama --set 'corpus.data_root=my data')" in said
    assert not (tmp_path / "book.json").exists()
    assert slurm.main(["hippo_llama", "--set", "corpus.data_root=my data"]) == 0, "to look at the scripts, none is needed"
    said = capsys.readouterr().out
    assert "hippo_llama: 7 jobs in " in said and re.search(r"^  before they are sent: \S*/my data lacks GBaker/MedQA-USMLE-4-options, ", said, re.M)


def test_with_their_data_sets_jobs_are_written_and_models_are_the_jobs_affair(data, capsys):
    assert slurm.main(["hippo_llama"]) == 0
    said = capsys.readouterr().out
    assert "7 jobs" in said and "before they are sent" not in said
    assert slurm.main(["hippo_llama", "--submit", "--set", "cluster.offline=true"]) == 2
    said = capsys.readouterr().err
    assert "cluster.offline is set, and the base meta-llama/Llama-2-7b-hf is not on this machine" in said and "lacks" not in said


def test_a_model_is_whole_with_all_its_weights_and_its_tokenizer(tmp_path):
    assert memory.lacks("nobody/nothing") == "no config.json"
    found = []
    for name, text in (("config.json", "{}"), ("model.safetensors.index.json", '{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'),
                       ("one.safetensors", ""), ("two.safetensors", ""), ("tokenizer.json", "{}")):
        (tmp_path / name).write_text(text)
        found.append(memory.lacks(str(tmp_path)))
    assert found == ["no weights", "no one.safetensors", "no two.safetensors", "no tokenizer", None]


def test_a_cluster_whose_gpus_are_too_small_is_refused_before_the_jobs_wait(data, capsys):
    assert slurm.main(["hippo_llama", "--set", "cluster.device=t4"]) == 2
    assert "hippo_llama does not fit: memory: CP needs" in capsys.readouterr().err
    assert slurm.main(["hippo_llama", "--set", "cluster.device=h200"]) == 0
    assert slurm.main(["hippo_llama", "--set", "cluster.device=a1000"]) == 2
    assert "hippo_llama: cluster.device: a1000 is not in the preflight's table of devices; there are t4, " in capsys.readouterr().err


@pytest.mark.parametrize("setting, said", [
    ("cluster.stages.03_instruction.hours=3", r"cluster.stages.03_instruction.hours is 3, and the trainings of 03_instruction take about \d+\.\d hours on h200"),
    ("cluster.stages.03_instruction.memory=20", r"cluster.stages.03_instruction.memory is 20 GiB, and merging adapters in float32 in 03_instruction takes 27\.6 GiB")])
def test_hours_and_memory_that_the_preflight_finds_too_few_are_refused(data, capsys, setting, said):
    """As a job that is killed at its limit would, after days."""
    assert slurm.main(["hippo_llama", "--set", "cluster.device=h200", "--set", setting]) == 2
    assert re.search(f"^error: hippo_llama: {said}.*; ask for more$", capsys.readouterr().err, re.M)


def test_only_the_stages_that_get_a_job_must_have_their_hours(toy):
    short = ["--set", "cluster.device=h200", "--set", "cluster.default.hours=1e-9"]
    assert re.search("cluster.default.hours is 1e-09, and the trainings of 03_instruction", toy("toy", "--slurm", *short, "--set", "instruction.sft.epochs=2", code=2))
    assert "1 jobs" in toy("toy", "--slurm", *short, "--set", "calibration.bins=5")


def test_a_mistake_in_the_section_is_one_sentence():
    with pytest.raises(ParamsError, match="cluster.stages.02_pretraining.gpu: unknown key; did you mean gpus"):
        load("mini_llama", ["cluster.stages.02_pretraining.gpu=3"])
    with pytest.raises(ParamsError, match="did you mean 02_pretraining"):
        load("mini_llama", ["cluster.stages.02_pretrainin.gpus=3"])


def test_the_section_changes_no_result():
    for stage in manifest.STAGES:
        assert manifest.plan(load("mini_llama"), stage) == manifest.plan(load("mini_llama", ["cluster.partition=gpu"]), stage)


# --- several nodes -----------------------------------------------------------------------------------------------------

SRUN = '''#!{python}
"""Stands in for srun: starts the command once per node, all on this machine, and waits for all of them."""
import os, pathlib, subprocess, sys
nodes = int(next(word for word in sys.argv if word.startswith("--nodes=")).split("=")[1])
command = sys.argv[next(place for place, word in enumerate(sys.argv[1:], 1) if not word.startswith("--")):]
running = [subprocess.Popen(command, env=os.environ | {{"SLURM_NODEID": str(number)}}) for number in range(nodes)]
sys.exit(max([child.wait() for child in running]))
'''


@pytest.fixture
def two_nodes(tmp_path, monkeypatch):
    """What a job on two nodes sees: an allocation, srun, and scontrol that names its nodes."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "srun").write_text(SRUN.format(python=sys.executable))
    (tools / "scontrol").write_text("#!/bin/sh\necho 127.0.0.1\necho 127.0.0.1\n")
    for name in ("srun", "scontrol"):
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return tools


def test_a_training_on_several_nodes_is_started_on_each_by_srun(two_nodes, tmp_path, monkeypatch):
    from small import TRAINING

    from hippo_utils.training import launching
    python = two_nodes / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(launching.sys, "executable", str(python))
    words = launching.command(tmp_path / "a training", TRAINING.model_copy(update={"nodes": 2, "devices": 4}))
    said = sorted(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines())
    assert words[:3] == ["srun", "--nodes=2", "--ntasks=2"] and len(said) == 2
    for rank, line in enumerate(said):
        assert f"--machine_rank {rank} " in line and "--num_processes 8 --num_machines 2 --main_process_ip 127.0.0.1 " in line
        assert line.endswith(f"-m hippo_utils.training {tmp_path / 'a training'}")
    settings = load("hippo_llama", ["pretraining.cp.nodes=2", "pretraining.cp.devices=4", "cluster.stages.02_pretraining.gpus=4"])
    text = slurm.script("x-02", settings, "02_pretraining", [["python"]], tmp_path)
    assert "#SBATCH --nodes=2\n" in text and "#SBATCH --ntasks-per-node=1\n" in text and "#SBATCH --gpus-per-node=4\n" in text
    assert "#SBATCH --nodes=1\n" in slurm.script("x-03", settings, "03_instruction", [["python"]], tmp_path)
    with pytest.raises(ParamsError, match="02_pretraining trains on 4 devices, cluster asks for 1 GPUs; set cluster.stages.02_pretraining.gpus"):
        slurm.script("x-02", load("hippo_llama", ["pretraining.cp.devices=4", "cluster.default.gpus=1"]), "02_pretraining", [["python"]], tmp_path)
