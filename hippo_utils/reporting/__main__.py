"""Figures again, and runs against the reference.

    python -m hippo_utils.reporting compare [RUN ...]    is this machine's run the reference run, within tolerances?
    python -m hippo_utils.reporting keep RUN [RUN ...]   make a finished run the committed reference
    python -m hippo_utils.reporting study NAME RUN ...   the runs of a study side by side: means, spread, claims
    python -m hippo_utils.reporting readme               write the README's numbers from the reference runs
    python -m hippo_utils.reporting page [RUN ...]       write the pages of runs (without names: of the reference), and the page over all
    python -m hippo_utils.reporting share RUN [ROW]      adapters, merged model and data of a finished run, with cards, ready to be given on
    python -m hippo_utils.reporting redraw RUN STAGE     draw a stage's figures again from their CSV files
"""

import argparse
import shutil
import sys

from hippo_utils import manifest, paths
from hippo_utils.reporting import comparison, studies, summary


def keep(run: str) -> None:
    """Copy the tables, figures and manifests of a finished run to figures/reference/<run>, with its page.

    Of a study its own tables and figures are kept, not those of its runs.
    """
    from hippo_utils.reporting import page
    target = paths.REFERENCE / run
    if run in studies.names():
        made = [file for file in sorted(paths.figures(run).glob("*")) if file.name.startswith(("table_", "fig_")) and file.suffix != ".pdf"]
        if not manifest.read_study(paths.figures(run)):
            raise manifest.StageError(f"{run} is not finished: run ./run_all.sh params/{run}.yaml first")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file in made:
            shutil.copy(file, target / file.name)
        study = manifest.read_study(paths.figures(run))
        manifest.write_json(study | {"files": {file.name: study["files"][file.name] for file in made}}, target / "study.json")
        page.overview(paths.REFERENCE)
        print(f"{paths.shown(target)}: {len(made)} files")
        return
    made = {stage: manifest.read(run, stage) for stage in manifest.STAGES}
    if missing := [stage for stage, content in made.items() if content is None]:
        raise manifest.StageError(f"{run} is not finished: {missing[0]} is not done; run ./run_all.sh params/{run}.yaml first")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for content in made.values():
        # PDFs are for print: every run makes them, and the SVG beside shows the same.
        content["figures"] = {name: entry for name, entry in content["figures"].items() if not name.endswith(".pdf")}
        for name in content["figures"]:
            shutil.copy(paths.figures(run) / name, target / name)
    manifest.write_json(made, target / "provenance.json")
    manifest.write_json({stage: content["seconds"] for stage, content in made.items()}, target / "seconds.json")
    page.write(target)
    page.overview(paths.REFERENCE)
    print(f"{paths.shown(target)}: {sum(1 for _ in target.iterdir())} files")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m hippo_utils.reporting", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("compare").add_argument("runs", nargs="*")
    commands.add_parser("keep").add_argument("runs", nargs="+")
    commands.add_parser("readme")
    commands.add_parser("page").add_argument("runs", nargs="*")
    study = commands.add_parser("study")
    study.add_argument("name")
    study.add_argument("runs", nargs="+")
    given = commands.add_parser("share")
    given.add_argument("run")
    given.add_argument("row", nargs="?", help="a row of the ablation, such as CP+SFT (default: the last one that was evaluated)")
    given.add_argument("--base-model", metavar="ORG/NAME", help="hub id of a base that lies in a local folder, for the cards and adapters")
    given.add_argument("--push-to-hub", metavar="NAMESPACE", help="also send it to private repositories of this user or organisation")
    again = commands.add_parser("redraw")
    again.add_argument("run")
    again.add_argument("stage", choices=manifest.STAGES)
    options = parser.parse_args(arguments)
    try:
        if options.command == "redraw":
            from hippo_utils.reporting import figures
            figures.redraw(options.run, options.stage)
            return 0
        if options.command == "readme":
            file = paths.ROOT / "README.md"
            runs = comparison.references()
            file.write_text(summary.readme(file.read_text(encoding="utf-8"), runs), encoding="utf-8")
            return 0
        if options.command == "page":
            from hippo_utils.reporting import page
            page.write_all(options.runs)
            return 0
        if options.command == "share":
            from hippo_utils.reporting import cards
            folders = cards.share(options.run, options.row, options.base_model, options.push_to_hub)
            if options.push_to_hub is not None:
                cards.push(folders, options.push_to_hub)
            return 0
        if options.command == "study":
            studies.report(options.name, options.runs)
            return 0
        if options.command == "keep":
            for run in options.runs:
                keep(run)
            return 0
        runs = options.runs or comparison.references()
        return max([comparison.report(run) for run in runs], default=0)
    except (manifest.StageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
