"""accelerate launch ... -m hippo_utils.training FOLDER: one of the processes of a training that a notebook prepared."""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hippo_utils.training", description=__doc__)
    parser.add_argument("folder", type=Path, help="what the notebook prepared; its log shows the whole command")
    folder = parser.parse_args().folder
    if absent := [name for name in ("job.json", "start", "texts.parquet") if not (folder / name).exists()]:
        parser.error(f"{folder} holds no training that a notebook prepared: no {absent[0]}; take the folder of the command in the notebook's log")
    from hippo_utils.training import launching  # torch: not for a mistake on the command line
    launching.work(folder)


if __name__ == "__main__":
    main()
