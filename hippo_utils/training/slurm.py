"""A run as a chain of jobs on a Slurm cluster: one job per stage, started when the stages it reads are done.

    ./run_all.sh params/hippo_llama.yaml --slurm             write the job scripts to outputs/<run>/slurm/
    ./run_all.sh params/hippo_llama.yaml --slurm --submit    and hand them to sbatch

Resources stand in the section `cluster` of the params file. A study becomes array jobs, one task per run that differs; a stage
that is equal in several runs is one task, and shared. Stages that are up to date get no job. A stage on several nodes runs its
notebook on the first one, and training starts there with `srun` (launching.command).
"""

import argparse
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from hippo_utils import manifest, paths
from hippo_utils.params import Params, ParamsError, Resources, load_runs
from hippo_utils.training import memory, preflight


def groups(runs: list[Params], stage: str) -> list[list[Params]]:
    """The runs for which a stage has work to do, those together that make the same of it."""
    found: dict[str, list[Params]] = {}
    for settings in runs:
        if any(manifest.reasons(settings, needed) for needed in (*manifest.before(stage), stage)):
            found.setdefault(manifest.plan_key(settings, stage), []).append(settings)
    return list(found.values())


def frozen(settings: Params) -> Path:
    """Write the resolved parameters of a run to a file of their own: jobs that wait do not see later edits of params/."""
    file = paths.outputs(settings.run) / "slurm" / f"params-{settings.hash()[:12]}.yaml"  # by its content: none that a job waits for is overwritten
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(yaml.safe_dump(settings.model_dump(), sort_keys=False), encoding="utf-8")
        part.replace(file)
    return file


def resources(settings: Params, stage: str) -> Resources:
    """What the params file asks for one stage."""
    return settings.cluster.stages.get(stage, settings.cluster.default)


def nodes(settings: Params, stage: str) -> int:
    """Nodes of a stage: those of its trainings; ParamsError when they want more devices than a node is asked for."""
    p = settings
    trainings = {"02_pretraining": [p.pretraining.scratch, p.pretraining.cp, *(writer.training for writer in p.pretraining.generators.values())],
                 "03_instruction": [p.instruction.sft, p.instruction.general_sft], "04_preference": [p.preference.dpo] if p.preference else []}.get(stage, [])
    devices = max([training.devices for training in trainings if training], default=1)
    if devices > max(1, resources(settings, stage).gpus):
        raise ParamsError(f"{settings.run}: {stage} trains on {devices} devices, cluster asks for {resources(settings, stage).gpus} GPUs; set cluster.stages.{stage}.gpus")
    return max([training.nodes for training in trainings if training], default=1)


def enough(settings: Params, stages: list[str], given: str, asked_for: list[str]) -> None:
    """Refuse a run that does not fit the cluster's GPUs, or whose stages ask for less time or memory than the preflight foresees."""
    try:
        device = memory.named(settings.cluster.device)
    except ParamsError as error:
        raise ParamsError(f"{settings.run}: cluster.device: {error}") from None
    preflight.check(settings, device, tuple(stages), given, asked_for)
    try:
        steps = preflight.plan(settings)
    except ParamsError:  # a base that the preflight knows nothing of, as it just said
        return
    for stage in stages:
        asked, where = resources(settings, stage), f"cluster.stages.{stage}" if stage in settings.cluster.stages else "cluster.default"
        trainings = [step for step in steps if step.stage == stage]
        if (hours := sum(step.hours(device) for step in trainings)) > asked.hours:
            raise ParamsError(f"{settings.run}: {where}.hours is {asked.hours:g}, and the trainings of {stage} take about {hours:.1f} hours on {device.name}, "
                              "without loading, evaluation and saving; ask for more")
        if (merging := preflight.merging_memory(trainings) / memory.GIB) > asked.memory:
            raise ParamsError(f"{settings.run}: {where}.memory is {asked.memory} GiB, and merging adapters in float32 in {stage} takes {merging:.1f} GiB; ask for more")


def script(name: str, settings: Params, stage: str, tasks: list[list[str]], folder: Path) -> str:
    """One job script: its resources, and the command of each task (a job without an array has one)."""
    cluster, asked = settings.cluster, resources(settings, stage)
    number = nodes(settings, stage)
    array = len(tasks) > 1
    log = str(folder).replace("%", "%%") + f"/{stage}-{'%A_%a' if array else '%j'}.log"
    options = {"job-name": shlex.quote(name), "output": shlex.quote(log), "nodes": number, "ntasks-per-node": 1,  # sbatch reads these lines as a shell does
               "cpus-per-task": asked.cpus, "mem": f"{asked.memory}G", "time": math.ceil(60 * asked.hours), "gpus-per-node": asked.gpus or None,
               "array": f"0-{len(tasks) - 1}" if array else None, "partition": asked.partition or cluster.partition, "account": cluster.account}
    lines = ["#!/usr/bin/env bash", *(f"#SBATCH --{option}={value}" for option, value in options.items() if value), *(f"#SBATCH {option}" for option in cluster.options)]
    # What a cluster's setup calls (conda activate, module load) reads variables that are not set.
    lines += ["set -eo pipefail", *cluster.setup, "set -u", f"export PYTHONPATH={shlex.quote(str(paths.ROOT))}${{PYTHONPATH:+:$PYTHONPATH}} HIPPO_HOME={shlex.quote(str(paths.home()))}"]
    if cluster.offline:
        lines.append("export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1")
    lines.append("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # srun does not inherit it by itself")
    if array:
        lines.append('case "$SLURM_ARRAY_TASK_ID" in')
        lines += [f"{number}) exec {shlex.join(task)} ;;" for number, task in enumerate(tasks)]
        lines.append("esac")
    else:
        lines.append(f"exec {shlex.join(tasks[0])}")
    return "\n".join(lines) + "\n"


def write(file: Path, text: str) -> None:
    """Write a job script; ParamsError when bash cannot read it: all else in it is quoted, so a line of cluster.setup is to blame."""
    if bash := shutil.which("bash"):
        read = subprocess.run([bash, "-n"], input=text, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
        if read.returncode or "here-document" in read.stderr:  # one that does not end is only warned of, and swallows the command
            why = (read.stderr.strip().splitlines() or ["bash -n gives no reason"])[0]
            raise ParamsError(f"cluster.setup: with these lines {file.name} is no shell script ({why}); close every quote, bracket and block")
    file.write_text(text, encoding="utf-8")


def chain(name: str, runs: list[Params], study: bool) -> list[tuple[Path, list[tuple[str, Path]]]]:
    """Write the job scripts of a run or study; (script, [(kind of dependency, script it waits for)]) in the order of submission."""
    folder = paths.outputs(name) / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.sbatch"):
        old.unlink()
    files = {settings.run: frozen(settings) for settings in runs}
    jobs, made = [], {}
    for stage in manifest.STAGES:
        todo = groups(runs, stage)
        if not todo:
            continue
        tasks = [[sys.executable, "-P", "-m", "hippo_utils.run", *(str(files[s.run]) for s in group), "--only", stage[:2], "--jobs", "1"] for group in todo]
        file = folder / f"{stage}.sbatch"
        written = {script(f"{name}-{stage[:2]}", group[0], stage, tasks, folder): group[0].run for group in todo}
        if len(written) > 1:
            raise ParamsError(f"{name}: {stage} is one array job, and {' and '.join(list(written.values())[:2])} ask for other machines for it; "
                              "give them the same cluster section and nodes, or submit them as runs of their own")
        write(file, next(iter(written)))
        now = [[s.run for s in group] for group in todo]
        # Where both are arrays over the same runs, each task waits for its own counterpart only: one failed seed stops no other.
        waits = [("aftercorr" if len(now) > 1 and made[needed][1] == now else "afterok", made[needed][0]) for needed in manifest.NEEDS[stage] if needed in made]
        made[stage] = (file, now)
        jobs.append((file, waits))
    if study and made:
        report = [sys.executable, "-P", "-m", "hippo_utils.reporting", "study", name, *(settings.run for settings in runs)]
        file = folder / "study.sbatch"
        write(file, script(f"{name}-study", runs[0], "study", [report], folder))
        jobs.append((file, [("afterok", made[stage][0]) for stage in ("06_ablations", "07_calibration") if stage in made]))
    return jobs


def queued(name: str) -> list[str]:
    """The numbers of this user's jobs of a run or study that wait or run; none where squeue cannot be asked."""
    names = ",".join(f"{name}-{part}" for part in (*(stage[:2] for stage in manifest.STAGES), "study"))
    try:
        done = subprocess.run(["squeue", "--me", "--noheader", f"--name={names}", "--format=%i"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [] if done.returncode else list(dict.fromkeys(number.split("_")[0] for number in done.stdout.split()))  # 12_[0-3]: an array


def submit(jobs: list[tuple[Path, list[tuple[str, Path]]]]) -> None:
    """Hand the jobs to sbatch, each with the numbers of the jobs it waits for; ParamsError with sbatch's own words when it refuses."""
    numbers: dict[Path, str] = {}
    for file, waits in jobs:
        command = ["sbatch", "--parsable"]
        if waits:
            command += ["--dependency=" + ",".join(f"{kind}:{numbers[before]}" for kind, before in waits), "--kill-on-invalid-dep=yes"]
        try:
            done = subprocess.run([*command, str(file)], capture_output=True, text=True)
        except FileNotFoundError:
            raise ParamsError("there is no sbatch on this machine; run --slurm --submit on a login node of the cluster") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            cancel = f"; to take back what was sent: scancel {' '.join(numbers.values())}" if numbers else ""
            raise ParamsError(f"sbatch refused {paths.shown(file)}: {said[-1] if said else 'no reason given'}{cancel}")
        numbers[file] = done.stdout.strip().split(";")[0]  # number;cluster
        print(f"  {numbers[file]}  {file.stem}" + (f" after {', '.join(numbers[before] for _, before in waits)}" if waits else ""))


def needs_network(settings: Params, fetch: str) -> list[str]:
    """What the jobs would look for in vain: data sets anywhere (a run reads its mirror only), models and endpoints on an offline cluster."""
    due = [stage for stage in manifest.STAGES if manifest.reasons(settings, stage)]
    missing = []
    if settings.corpus.world is None and "01_corpus" in due:
        from hippo_utils.corpus import hub
        folder = hub.mirror(settings.corpus)
        if absent := sorted({source.hub for source in hub.used(settings.corpus) if not (folder / source.hub).is_dir()}):
            missing.append(f"{paths.shown(folder)} lacks {', '.join(absent)} (on a node with a network: {fetch})")
    if not settings.cluster.offline:
        return missing
    judge = settings.preference.local if settings.preference and settings.preference.judge == "local" else None
    read = [("base", settings.pretraining.base, settings.pretraining.revision)] if settings.pretraining.base else []
    read += [("judge", judge.model, judge.revision)] if judge and "04_preference" in due else []
    read += [("baseline", baseline.model, baseline.revision) for baseline in settings.evaluation.baselines if "05_evaluation" in due]
    missing += [f"the {what} {model} is not on this machine, or not whole: {lacks} (fetch it on a node with a network: hf download {model})"
               for what, model, revision in read if (lacks := memory.lacks(model, revision))]
    missing += [f"{stage} asks {endpoint.model} at an endpoint; run it on a node with a network" for stage, endpoint in preflight.endpoints(settings) if stage in due]
    return missing


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./run_all.sh --slurm", description=__doc__.splitlines()[0])
    parser.add_argument("params", nargs="+")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--submit", action="store_true")
    options = parser.parse_args(arguments)
    try:
        ready = []  # nothing is submitted before all files are found good
        for given in options.params:
            runs = load_runs(given, options.set)
            study = len(runs) > 1
            name = Path(given).stem if study else runs[0].run
            for settings in runs:
                if settings.cluster.device:
                    enough(settings, [stage for stage in manifest.STAGES if groups([settings], stage)], given, options.set)
            data = [word for setting in options.set if setting.startswith("corpus.") for word in ("--set", setting)]
            fetch = shlex.join(["python", "-m", "hippo_utils.corpus", "fetch", given, *data])
            if missing := [words for settings in runs for words in needs_network(settings, fetch)]:
                offline = "cluster.offline is set, and " if any(settings.cluster.offline for settings in runs) else ""
                missing = [f"{offline}{'; '.join(dict.fromkeys(missing))}"]
                if options.submit:
                    raise ParamsError(f"{name}: {missing[0]}")
            if options.submit and (waiting := queued(name)):
                raise ParamsError(f"{name}: its jobs {', '.join(waiting)} are in the queue already; wait for them, or take them back: scancel {' '.join(waiting)}")
            ready.append((name, chain(name, runs, study), missing))
        for name, jobs, missing in ready:
            if not jobs:
                print(f"{name}: everything is up to date; no job to write")
                continue
            print(f"{name}: {len(jobs)} jobs in {paths.shown(jobs[0][0].parent)}/" + ("" if options.submit else "; --submit hands them to sbatch"))
            if options.submit:
                submit(jobs)
            else:
                for file, waits in jobs:
                    print(f"  {file.name}" + (f" after {', '.join(before.stem for _, before in waits)}" if waits else ""))
                for words in missing:
                    print(f"  before they are sent: {words}")
        return 0
    except (ParamsError, manifest.StageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
