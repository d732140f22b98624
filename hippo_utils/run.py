"""Runs the notebooks of one or several params files in order, and only those that are not up to date.

    ./run_all.sh                                    the mini runs
    ./run_all.sh params/mini_llama.yaml --list      what is up to date, and why not
    ./run_all.sh mini_llama --set preference.dpo.beta=0.2 --from 04
    ./run_all.sh params/hippo_llama.yaml --preflight --device a100-40    does it fit, how long does it take
    ./run_all.sh params/hippo_llama.yaml --slurm --submit                as a chain of jobs on a cluster

doit orders the stages and runs independent ones side by side. It keeps no state of its own: the manifests say what is done.
"""

import argparse
import csv
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hippo_utils import manifest, paths
from hippo_utils.params import Params, ParamsError, load_runs

DEFAULT_RUNS = ("mini_llama", "mini_mistral", "mini_hypnos")
PURPOSE = {
    "01_corpus": "texts, tokenizer, exams; cleaning and contamination audit",
    "02_pretraining": "the base model and continued pre-training (CP)",
    "03_instruction": "instruction tuning (SFT) from the base and from CP",
    "04_preference": "judging answers, preference optimisation (DPO)",
    "05_evaluation": "every stage on every benchmark, predictions stored",
    "06_ablations": "what each stage and each prompt adds",
    "07_calibration": "confidence, calibration, the uncertainty figure",
}
FAILURE = "HIPPO-FAILURE "  # begins a line of its own: how the executing process hands its last words to the runner


# --- one notebook, in a process of its own -------------------------------------------------------------------------

def execute(stage: str, run: str) -> int:
    """Execute one notebook with papermill (called by the runner in a child process); its parameters lie in parameters.json."""
    sys.modules["rfc3987_syntax"] = None  # jsonschema would import it, more than a second per notebook, for a check of addresses that no notebook has
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_end_with_the_runner, daemon=True).start()
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # else a stale kernel in the user's home can win
    parameters = json.loads((paths.stage_folder(run, stage) / "parameters.json").read_text(encoding="utf-8"))
    notebook = paths.executed_notebook(run, stage)
    try:
        papermill.execute_notebook(
            str(paths.notebook(stage)), str(notebook), parameters=parameters, kernel_name="python3", cwd=str(paths.ROOT),
            progress_bar=False, stdout_file=sys.stdout, stderr_file=sys.stderr,
            extra_arguments=["--IPKernelApp.log_level=50"])  # silences frightening lines about encryption and about its own end
    except PapermillExecutionError as error:
        words = f"{error.ename}: {error.evalue}".strip().splitlines()
        print("\n" + FAILURE + json.dumps({"cell": error.cell_index, "error": words[0] if error.ename == "StageError" else words[-1]}))
        return 1
    except DeadKernelError:
        print("\n" + FAILURE + json.dumps({"cell": None, "error": "the kernel died (out of memory, or killed from outside)"}))
        return 1
    except OSError as error:
        print("\n" + FAILURE + json.dumps({"cell": None, "error": f"{error.strerror}: {error.filename or paths.shown(notebook)}"}))
        return 1
    finally:
        if notebook.is_file() and manifest.redacted(text := notebook.read_text(encoding="utf-8")) != text:
            notebook.write_text(manifest.redacted(text), encoding="utf-8")
    return 0


def _end_with_the_runner() -> None:
    """The runner holds the other end of our standard input: when it is killed, this notebook must not go on by itself."""
    os.read(0, 1)  # nothing is ever written: this returns when the other end is closed
    os.killpg(0, signal.SIGTERM)


# --- the runner ----------------------------------------------------------------------------------------------------

@dataclass
class Runner:
    """The plan of one call: which stages of which runs, and what happened to them."""
    runs: list[Params]
    start: float
    stream: bool            # show the notebook's log on the terminal
    forced: set[tuple[str, str]]
    failed: list[str]
    executed: int = 0
    children: dict[int, subprocess.Popen] = None
    stopping: bool = False
    printing: threading.Lock = None

    def say(self, run: str, stage: str, words: str) -> None:
        width = max(len(settings.run) for settings in self.runs)
        with self.printing:
            print(f"[{clock(time.time() - self.start)}] {run:<{width}}  {stage:<14}  {words}", flush=True)

    def stage(self, settings: Params, stage: str, twin: str | None) -> bool:
        """Bring one stage up to date; False when that failed, whatever the cause."""
        try:
            return not self.stopping and self.bring(settings, stage, twin)
        except Exception as error:  # a full disk, a folder taken away: doit would end without a word
            self.fail(settings, stage, f"failed: {type(error).__name__}: {error}")
            return False

    def fail(self, settings: Params, stage: str, words: str, advice: str = "") -> None:
        self.failed.append(f"{settings.run} {stage} {words}{advice}")
        self.say(settings.run, stage, words.replace("failed", "FAILED", 1))

    def bring(self, settings: Params, stage: str, twin: str | None) -> bool:
        """Do nothing, share the stage with a run that has it, or execute its notebook."""
        why = ["asked for with --force"] if (settings.run, stage) in self.forced else manifest.reasons(settings, stage)
        if not why:
            self.redraw(settings, stage)
            return True
        if twin and manifest.reasons(next(s for s in self.runs if s.run == twin), stage):
            twin = None
        if twin := twin or (None if (settings.run, stage) in self.forced else manifest.equal_run(settings, stage)):
            manifest.adopt(settings, stage, twin)
            self.say(settings.run, stage, f"shared with {twin} (same parameters, same inputs)")
            return True
        estimate = expected_seconds(settings.run, stage)
        self.say(settings.run, stage, f"{PURPOSE[stage]}{f' (about {duration(estimate)})' if estimate else ''}: {'; '.join(why)}")
        began = time.time()
        failure = self.execute(settings, stage)
        if failure is None and manifest.read(settings.run, stage) is None:
            failure = {"cell": None, "error": "the notebook ended early, before stage.finish()"}
        if failure is None and (left := manifest.reasons(settings, stage)):
            failure = {"cell": None, "error": f"{'; '.join(left)} while it ran; the same command runs it again"}
        if failure is None:
            self.executed += 1
            self.say(settings.run, stage, f"done in {duration(time.time() - began)}")
            return True
        if not self.stopping:
            where = f" in cell {failure['cell']}" if failure["cell"] is not None else ""
            self.fail(settings, stage, f"failed{where}: {failure['error']}",
                      f"\n  open {paths.shown(paths.executed_notebook(settings.run, stage))} at that cell, or read {paths.shown(paths.log(settings.run, stage))}")
        return False

    def execute(self, settings: Params, stage: str) -> dict | None:
        """Run the notebook in a child process, its log into a file; None when it went well."""
        folder = paths.stage_folder(settings.run, stage)
        manifest.take_down(settings.run, stage)
        manifest.write_json(settings.model_dump(), folder / "parameters.json")
        command = [sys.executable, "-m", "hippo_utils.run", "--execute", stage, settings.run]
        environment = os.environ | {variable: str(settings.threads) for variable in manifest.THREAD_VARIABLES}
        environment |= {"PYTHONUNBUFFERED": "1", "HIPPO_HOME": str(paths.home()), "PYTHONPATH": os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                 env=environment, cwd=paths.ROOT, start_new_session=True)
        self.children[child.pid] = child
        if self.stopping:  # the signal came while it started
            self.stop(signal.SIGTERM, None)
        failure = None
        try:
            with open(paths.log(settings.run, stage), "w", encoding="utf-8") as log:
                for line in map(manifest.redacted, child.stdout):
                    if line.startswith(FAILURE):
                        failure = json.loads(line.removeprefix(FAILURE))
                        continue
                    log.write(line)
                    log.flush()
                    if self.stream and line.strip():
                        with self.printing:
                            print(f"          | {line.rstrip()}", flush=True)
        finally:  # a log that cannot be written must not leave a notebook behind that nobody watches
            child.stdin.close()
            code = child.wait()
            del self.children[child.pid]
        if code and failure is None:
            failure = {"cell": None, "error": f"the process that ran the notebook ended with code {code}"}
        return failure

    def redraw(self, settings: Params, stage: str) -> None:
        """Draw a stage's figures again from their CSV files when only the drawing code changed or a picture is gone: no notebook runs."""
        made = manifest.read(settings.run, stage)
        gone = manifest.changed(paths.figures(settings.run), made["figures"])  # pictures: anything else would have been a reason to run
        if gone or made["drawing"] != manifest.drawing_hash():
            subprocess.run([sys.executable, "-m", "hippo_utils.reporting", "redraw", settings.run, stage], check=True, cwd=paths.ROOT)
            self.say(settings.run, stage, f"figures drawn again ({f'{gone[0]} was missing or changed' if gone else 'their style or captions changed'})")

    def stop(self, number: int, frame) -> None:
        """SIGINT, SIGTERM and SIGHUP: end the notebooks that run; what is finished stays finished."""
        self.stopping = True
        for child in list(self.children.values()):
            try:
                os.killpg(child.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def expected_seconds(run: str, stage: str) -> float | None:
    """What the stage took on the reference machine, to tell people how long they will wait."""
    try:
        return json.loads((paths.REFERENCE / run / "seconds.json").read_text())[stage]
    except (OSError, ValueError, KeyError):
        return None


def selected(words: list[str]) -> list[str]:
    """--force 04 or --force 04_preference as stage names."""
    found = []
    for word in words:
        match = [stage for stage in manifest.STAGES if stage.startswith(word)] if len(word) >= 2 else []
        if not match:
            raise ParamsError(f"{word}: no such stage; the stages are {', '.join(manifest.STAGES)}")
        found += match
    return found


def twins(runs: list[Params]) -> dict[tuple[str, str], str]:
    """(run, stage) -> an earlier run whose stage has the same plan, so that it is made once and shared."""
    first, found = {}, {}
    for settings in runs:
        for stage in manifest.STAGES:
            plan = manifest.plan_key(settings, stage)
            if plan in first:
                found[settings.run, stage] = first[plan]
            else:
                first[plan] = settings.run
    return found


def lock(run: str):
    """Keep a second runner out of the same run; the operating system lets go when this process ends, however it ends."""
    import fcntl
    paths.outputs(run).mkdir(parents=True, exist_ok=True)
    file = open(paths.outputs(run) / ".lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ParamsError(f"another ./run_all.sh is working on {run}; wait for it, or give this run another name with --set run=NAME") from None
    return file


def list_stages(runs: list[Params]) -> None:
    for settings in runs:
        for stage in manifest.STAGES:
            why = manifest.reasons(settings, stage)
            print(f"{settings.run}  {stage:<14}  {'; '.join(why) if why else 'up to date'}")


def results(settings: Params) -> str:
    """The stage table of a run as text, from figures/<run>/table_stages.csv."""
    file = paths.figures(settings.run) / "table_stages.csv"
    if any(manifest.reasons(settings, stage) for stage in (*manifest.before("06_ablations"), "06_ablations")) or not file.is_file():
        return ""  # what an earlier run made is not this run's result
    rows = list(csv.DictReader(open(file, encoding="utf-8")))
    shown = [row for row in rows if row["group"] == "held_out"] or [row for row in rows if row["group"] == "all"]
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in shown))
    mark = "MINI RUN, synthetic exams, never comparable with the paper" if settings.scale == "mini" else f"{settings.scale} scale"
    lines = [f"{settings.run}: accuracy in % on {shown[0]['group'].replace('_', '-')} items, {shown[0]['shots']}-shot ({mark})" if shown else "",
             f"  {'':<24}" + "".join(f"{name:>14}" for name in benchmarks)]
    for label in dict.fromkeys((row["stages"], row["protocol"]) for row in shown):
        cells = {row["benchmark"]: row for row in shown if (row["stages"], row["protocol"]) == label}
        name = label[0] + (" + step-by-step" if label[1] == "step_by_step" else "")
        numbers = [f"{100 * float(cells[b]['accuracy']):.1f} ±{50 * (float(cells[b]['ci_high']) - float(cells[b]['ci_low'])):.0f}" if b in cells else "" for b in benchmarks]
        lines.append(f"  {name:<24}" + "".join(f"{number:>14}" for number in numbers))
    return "\n".join(lines)


def write_pages(runs: list[Params]) -> int:
    """Write the pages of the runs that changed; 0 also when there was nothing to write."""
    due = [settings.run for settings in runs if manifest.page_due(settings.run) and any(manifest.read(settings.run, stage) for stage in manifest.STAGES)]
    if not due:
        return 0
    code = subprocess.run([sys.executable, "-m", "hippo_utils.reporting", "page", *due], cwd=paths.ROOT, stdout=subprocess.DEVNULL).returncode
    if code:
        print(f"error: the pages of {', '.join(due)} could not be written (see above); the results themselves are complete", file=sys.stderr)
    return code


def run(runs: list[Params], *, stages: list[str], force: set[tuple[str, str]], jobs: int) -> int:
    """Bring the chosen stages of all runs up to date; 0 when everything is, 1 when a stage failed, 130 when interrupted."""
    from doit.cmd_base import TaskLoader2
    from doit.doit_cmd import DoitMain
    from doit.task import dict_to_task

    runner = Runner(runs, time.time(), stream=len(runs) == 1, forced=force, failed=[], children={}, printing=threading.Lock())
    shared = twins(runs)

    def task(settings: Params, stage: str) -> dict:
        twin = shared.get((settings.run, stage))
        before = [f"{settings.run}:{needed}" for needed in manifest.NEEDS[stage] if needed in stages]
        return {"name": f"{settings.run}:{stage}", "actions": [(runner.stage, (settings, stage, twin))],
                "task_dep": before + ([f"{twin}:{stage}"] if twin else [])}

    class Stages(TaskLoader2):
        def setup(self, opt_values): ...

        def load_doit_config(self):
            # The manifests are the state; doit's own is thrown away with this folder.
            return {"dep_file": os.path.join(scratch, "doit"), "backend": "json", "reporter": "zero", "verbosity": 2,
                    "continue": True, "num_process": jobs if jobs > 1 else 0, "par_type": "thread"}

        def load_tasks(self, cmd, pos_args):
            # Stage by stage over all runs. Run by run, doit would begin the third of three runs when another has ended: on two cores
            # it would then have one of them for itself and the other would stand still.
            return [dict_to_task(task(settings, stage)) for stage in manifest.STAGES if stage in stages for settings in runs]

    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # it is ignored under nohup, and shall be
        ends.append(signal.SIGHUP)
    previous = {number: signal.signal(number, runner.stop) for number in ends}
    locks = [lock(settings.run) for settings in runs]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            code = DoitMain(Stages(), config_filenames=()).run(["run"])
        code = code or (0 if runner.stopping else write_pages(runs))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for file in locks:
            file.close()
    if runner.stopping:
        print("Stopped. Finished stages are kept; the same command continues with the next one.")
        return 130
    print()
    for settings in runs:
        print(text + "\n" if (text := results(settings)) else "", end="")
    for words in runner.failed:
        print(words, file=sys.stderr)
    if runner.failed or code:
        return 1
    many = runner.executed
    print(f"{f'{many} notebooks executed' if many else 'Everything is up to date; nothing was executed'} in {duration(time.time() - runner.start)}.")
    print("Tables and figures: " + ", ".join(paths.shown(paths.figures(settings.run)) + "/" for settings in runs))
    print("To look at it all:  " + ", ".join(paths.shown(paths.figures(settings.run) / "index.html") for settings in runs))
    print("Executed notebooks: " + ", ".join(paths.shown(paths.outputs(settings.run)) + "/" for settings in runs))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run_all.sh", description="Run the notebooks of the companion; without arguments, the mini runs. "
                                     "Not for clinical use.", epilog="./run_all.sh --test sets up the test dependencies and runs the tests.")
    parser.add_argument("params", nargs="*", help=f"params files, or names of files in params/ (default: {' '.join(DEFAULT_RUNS)})")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", help="change one parameter for this call; may be given several times")
    parser.add_argument("--from", dest="first", metavar="NN", help="begin with this stage (the ones before must be done)")
    parser.add_argument("--only", metavar="NN", help="this stage alone (the ones before must be done)")
    parser.add_argument("--force", action="append", default=[], metavar="NN", help="execute this stage even if it is up to date")
    parser.add_argument("--jobs", type=int, metavar="N", help="notebooks side by side (default: cores / threads per run)")
    parser.add_argument("--list", action="store_true", help="say for each stage whether it is up to date, and why not")
    parser.add_argument("--dry-run", action="store_true", help="say what would be executed, and execute nothing")
    parser.add_argument("--preflight", action="store_true", help="say what every training takes in memory, steps, tokens and hours, and whether it fits; execute nothing")
    parser.add_argument("--device", metavar="NAME", help="with --preflight: a named device (t4, a100-40, ...) in place of this one")
    parser.add_argument("--slurm", action="store_true", help="write a chain of job scripts for a Slurm cluster; execute nothing")
    parser.add_argument("--submit", action="store_true", help="with --slurm: hand them to sbatch")
    return parser.parse_args(arguments)


def ask(module: str, files: list[str], settings: list[str], *more: str) -> int:
    """Run a module of a room in a process of its own (this one imports no room) with the same params files and --set; its exit code."""
    words = [*(word for setting in settings for word in ("--set", setting)), *more]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))}
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-P", "-m", f"hippo_utils.{module}", *files, *words], env=environment).returncode


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--execute"]:
        return execute(*arguments[1:3])
    options = parse(arguments)
    if "HIPPO_HOME" in os.environ:  # children work in the project's folder, where a relative path would mean another place
        os.environ["HIPPO_HOME"] = str(paths.home())
    try:
        files = [(file, load_runs(file, options.set)) for file in (options.params or DEFAULT_RUNS)]
        runs = [settings for _, of_file in files for settings in of_file]
        names = [settings.run for settings in runs]
        if double := {name for name in names if names.count(name) > 1}:
            raise ParamsError(f"run {', '.join(sorted(double))} is asked for twice; each params file of one call needs its own `run`")
        if options.jobs is not None and options.jobs < 1:
            raise ParamsError(f"--jobs {options.jobs}: expected 1 or more")
        if (options.device and not options.preflight) or (options.submit and not options.slurm):
            raise ParamsError("--device belongs to --preflight, and --submit to --slurm")
        others = {"--from": options.first, "--only": options.only, "--force": options.force, "--jobs": options.jobs, "--list": options.list,
                  "--dry-run": options.dry_run, "--slurm": options.slurm and options.preflight}
        if (options.preflight or options.slurm) and (beside := [flag for flag, given in others.items() if given]):
            raise ParamsError(f"{'--preflight' if options.preflight else '--slurm'} takes the whole run and executes nothing here; leave {', '.join(beside)} out")
        if options.first and options.only:
            raise ParamsError("--from and --only exclude each other")
        given = [str(file) for file, _ in files]
        if options.preflight:
            return ask("training.preflight", given, options.set, *(["--device", options.device] if options.device else []))
        if options.slurm:
            return ask("training.slurm", given, options.set, *(["--submit"] if options.submit else []))
        stages = list(manifest.STAGES)
        if options.first:
            stages = stages[stages.index(selected([options.first])[0]):]
        if options.only:
            stages = selected([options.only])
        forced = {(name, stage) for name in names for stage in selected(options.force)}
        if options.list:
            list_stages(runs)
            return 0
        flag = f"--only {options.only}" if options.only else f"--from {options.first}"
        for settings in runs:
            for stage in manifest.STAGES[:manifest.STAGES.index(stages[0])]:
                if (options.first or stage in manifest.before(stages[0])) and manifest.reasons(settings, stage):
                    raise ParamsError(f"{flag}: {stage} of {settings.run} is not up to date ({'; '.join(manifest.reasons(settings, stage))}); leave {flag.split()[0]} out")
        if options.dry_run:
            dry_run(runs, stages, forced)
            return 0
        trains = [stage for stage in stages if stage in ("02_pretraining", "03_instruction", "04_preference")]
        due = [file for file, of_file in files if any((settings.run, stage) in forced or manifest.reasons(settings, stage) for settings in of_file for stage in trains)]
        if due and (code := ask("training.preflight", [str(file) for file in due], options.set, "--check", *trains, *(stage for stage in stages if stage == "05_evaluation"))):
            return code
        jobs = options.jobs or max(1, min(len(runs), (os.cpu_count() or 1) // max(settings.threads for settings in runs)))
        print(f"{', '.join(names)}: {len(stages)} notebooks each, {jobs} side by side. Educational and research material, not for clinical use.", flush=True)
        code = run(runs, stages=stages, force=forced, jobs=jobs)
        for file, of_file in files:
            study, members = Path(file).stem, [settings.run for settings in of_file]
            if len(of_file) > 1 and not any(manifest.reasons(settings, stage) for settings in of_file for stage in manifest.STAGES) and manifest.study_due(study, members):
                code = code or subprocess.run([sys.executable, "-m", "hippo_utils.reporting", "study", study, *members], cwd=paths.ROOT).returncode
        return code
    except KeyboardInterrupt:  # before the first notebook or after the last; in between the runner ends them in order
        print("Stopped. Finished stages are kept; the same command continues with the next one.")
        return 130
    except (ParamsError, manifest.StageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:  # a folder that cannot be written, a full disk
        print(f"error: {error.strerror}: {paths.shown(error.filename) if error.filename else paths.home()}", file=sys.stderr)
        return 2


def dry_run(runs: list[Params], stages: list[str], forced: set[tuple[str, str]]) -> None:
    """Which stages would be executed: those that are not up to date, and all that read from them."""
    for settings in runs:
        due = {}
        for stage in stages:
            after = [needed for needed in manifest.NEEDS[stage] if needed in due]
            why = ["forced"] if (settings.run, stage) in forced else manifest.reasons(settings, stage)
            if why or after:
                due[stage] = "; ".join(why) or f"after {after[0]}, unless that makes the same files again"
        for stage, why in due.items():
            print(f"{settings.run}  {stage:<14}  would be executed: {why}")
        if not due:
            print(f"{settings.run}  everything is up to date")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # `--list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
