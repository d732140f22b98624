"""Data sets on a machine with network: python -m hippo_utils.corpus fetch params/hippo_llama.yaml

Brings every file that the run reads into its mirror (corpus.data_root, or data/) and writes lock.json there: revision, size and
sha256 of each. Copy the folder to the machine that trains; the run verifies it and needs no network.
"""

import argparse
import sys

from hippo_utils import paths
from hippo_utils.corpus import hub, licences
from hippo_utils.manifest import StageError
from hippo_utils.params import ParamsError, load_runs


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m hippo_utils.corpus", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["fetch"])
    parser.add_argument("params", help="a params file, or the name of a file in params/")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", help="change one parameter; may be given several times")
    options = parser.parse_args(arguments)
    try:
        for settings in load_runs(options.params, options.set):
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
