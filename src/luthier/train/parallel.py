"""One training run on several processes: who does which part, and what is summed between them.

| kind | what each process holds | for |
| --- | --- | --- |
| one | everything | a single device |
| ddp | everything; gradients are averaged | models that fit one device |
| fsdp | its share of every block's weights, gradients and optimizer state (`fully_shard`) | larger ones |

Plain torch.distributed, gloo on CPUs and NCCL on GPUs. What was asked for is checked against what is there.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from luthier.errors import TrainingStopped
from luthier.models.bottleneck import blocks
from luthier.models.tuning import causal_model

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Parallel:
    """This process among those of the run."""

    kind: str = "one"
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[tuple[Item, float]]:
        """This process' items, each with the weight 1; all processes get equally many, filled up with weight 0."""
        mine = [(item, 1.0) for item in items[self.rank :: self.world]]
        rounds = -(-len(items) // self.world)
        return mine + [(items[0], 0.0)] * (rounds - len(mine))

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.world > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def highest(self, number: int) -> int:
        """The largest number of all processes."""
        if self.world == 1:
            return number
        place = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        found = torch.tensor(number, dtype=torch.int64, device=place)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found.item())

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()

    def wrap(self, step: torch.nn.Module, model: Any, compute: torch.dtype) -> Any:
        """The module whose forward is one micro-batch's loss, made to work with the other processes.

        Raises:
            TrainingStopped: what came out is not what was asked for.
        """
        wrapped: Any = step
        if self.kind == "ddp":
            wrapped = DistributedDataParallel(step, gradient_as_bucket_view=True)
        elif self.kind == "fsdp":
            _shard(step, causal_model(model), compute)
        self._assert(wrapped)
        return wrapped

    def _assert(self, wrapped: Any) -> None:
        found = dist.get_world_size() if dist.is_initialized() else 1
        kinds = {"one": torch.nn.Module, "ddp": DistributedDataParallel, "fsdp": FSDPModule}
        sharded = self.kind != "fsdp" or all(isinstance(p, DTensor) for p in wrapped.parameters())
        if found != self.world or not isinstance(wrapped, kinds[self.kind]) or not sharded:
            there = f"{found} with {type(wrapped).__name__}"
            raise TrainingStopped(
                f"{self.world} processes with {self.kind} were asked for, and there are {there}",
                where="before training",
                fix="report this with the output of luthier doctor",
            )


def _shard(step: torch.nn.Module, causal: Any, compute: torch.dtype) -> None:
    """FSDP2: a block is gathered for its own forward and backward only, and what is outside of blocks for a pass."""
    place = next(step.parameters()).device.type
    mesh = init_device_mesh(place, (dist.get_world_size(),))
    settings: dict[str, Any] = {"mesh": mesh}
    if compute != torch.float32:
        settings["mp_policy"] = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for block in blocks(causal):
        fully_shard(block, **settings)
    fully_shard(step, reshard_after_forward=True, **settings)  # else validation would leave it gathered


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this process may hold only a share; every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(tensor: torch.Tensor, content: torch.Tensor) -> None:
    """Fill a tensor, or this process' share of it, from the whole content."""
    content = content.to(tensor.device)
    if isinstance(tensor, DTensor):
        content = distribute_tensor(content.to(tensor.dtype), tensor.device_mesh, tensor.placements)
    tensor.copy_(content)


def like(parameter: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """The content, on the parameter's device and shared out as it is where it has its shape."""
    content = content.to(parameter.device)
    if isinstance(parameter, DTensor) and content.shape == parameter.shape:
        return distribute_tensor(content, parameter.device_mesh, parameter.placements)
    return content


def join(kind: str) -> Parallel:
    """Enter the group of processes that torchrun's launcher started."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Parallel(kind, rank, world)
