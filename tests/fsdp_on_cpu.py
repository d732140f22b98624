"""hippo_utils.training as accelerate would run it under FSDP2, on CPU processes.

accelerate takes FSDP for GPUs only: on CPU processes it says nothing and trains as DDP. This stand-in tells it that the processes
are of the kind it shares models out on; all that follows (fully_shard, gloo, gathering, saving) is the real thing.
"""

import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType

began = PartialState.__init__


def begin(self, *arguments, **named):
    began(self, *arguments, **named)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


PartialState.__init__ = begin

if __name__ == "__main__":
    from hippo_utils.training import launching
    launching.work(Path(sys.argv[1]))
