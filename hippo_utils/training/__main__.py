"""accelerate launch ... -m hippo_utils.training FOLDER: one of the processes of a training that a notebook prepared."""

import sys
from pathlib import Path

from hippo_utils.training import launching

if __name__ == "__main__":
    launching.work(Path(sys.argv[1]))
