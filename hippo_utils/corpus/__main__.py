"""Fetch the data sets of a run, or check that what it shows may be published.

    python -m hippo_utils.corpus fetch params/hippo_llama.yaml         on a machine with network
    python -m hippo_utils.corpus publishable params/hippo_llama.yaml   before anything leaves the machine

`fetch` brings every file that the run reads into its mirror (corpus.data_root, or data/) and writes lock.json there: revision,
size and sha256 of each. Copy the folder to the machine that trains; the run verifies it and needs no network. `publishable`
searches the run's tables, figures and executed notebooks for text that may not be redistributed, and exits with 1 if it finds any.
"""

import argparse
import sys

from hippo_utils import paths
from hippo_utils.corpus import hub, licences
from hippo_utils.manifest import StageError
from hippo_utils.params import ParamsError, load_runs


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m hippo_utils.corpus", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["fetch", "publishable"])
    parser.add_argument("params", help="a params file, or the name of a file in params/")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", help="change one parameter; may be given several times")
    options = parser.parse_args(arguments)
    try:
        for settings in load_runs(options.params, options.set):
            if options.command == "publishable":
                if len(found := licences.leaks(settings.run)):
                    print("\n".join(f"{row.file} shows text of {row.source}, which may not be redistributed" for row in found.itertuples()))
                    return 1
                print(f"{settings.run}: no table, figure or executed notebook shows text that may not be redistributed")
                continue
            if settings.corpus.world is not None:
                print(f"{settings.run} writes its own world and reads no data set")
                continue
            licences.check(settings.corpus)
            print(f"{settings.run}: locked in {paths.shown(hub.fetch(settings.corpus))}")
    except (ParamsError, StageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
