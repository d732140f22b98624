"""hippo_utils.training as the tests start it instead of the real module: the same work in the same processes, with

HIPPO_TEST_FSDP=1     accelerate takes FSDP for GPUs only; on CPU processes it says nothing and trains as DDP. Here it is told that the processes are
                      of the kind it shares models out on; all that follows (fully_shard, gloo, gathering, saving) is the real thing.
HIPPO_TEST_KILL=n     every process ends without a word behind step n.
"""

import os
import signal
import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from hippo_utils.training import launching, trainer

began = PartialState.__init__


def begin(self, *arguments, **named):
    began(self, *arguments, **named)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def kill(step: int):
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)

    return Kill


if __name__ == "__main__":
    if os.environ.get("HIPPO_TEST_FSDP"):
        PartialState.__init__ = begin
    if step := os.environ.get("HIPPO_TEST_KILL"):
        trainer.progress = kill(int(step))
    launching.work(Path(sys.argv[1]))
