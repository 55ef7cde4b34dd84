"""Several processes that train one network, on the GPUs of one host or of many: torchrun starts them.

Every process has the same weights and an equal share of each batch. What is random is drawn for the
whole batch by all of them, so that together they do what one alone would do.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.data.images import Split
from training.evaluate import Evaluation


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world`; the first alone writes and speaks."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """With more than one process, gradients are averaged over all of them during backward."""
        if self.world == 1:
            return model
        # The only buffers are the constants of the normalisation: none to send before each pass.
        return DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values.cpu()

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return bool(self.total(torch.tensor(int(flag))).item())

    def of_first(self, values: Tensor) -> Tensor:
        """What the first process has, in all of them: clocks and memory differ, and the run must not."""
        return self.total(values if self.first else torch.zeros_like(values))

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def without_exchange(self, network: nn.Module, skipped: bool) -> Iterator[None]:
        """Leaves the averaging of gradients to a later backward, if `skipped`."""
        if skipped and isinstance(network, DistributedDataParallel):
            with network.no_sync():
                yield
        else:
            yield

    def part(self, split: Split) -> Split:
        """Every image in the part of exactly one process: nothing is padded, nothing counted twice."""
        return split.part(slice(self.rank, None, self.world))

    def merge(self, parts: Evaluation) -> Evaluation:
        """What `evaluate` would have said of all parts together."""
        images, hits1, hits5 = self.total(
            torch.tensor([parts.images, parts.hits1, parts.hits5], dtype=torch.int64)
        ).tolist()
        cross_entropy = self.total(torch.tensor(parts.cross_entropy, dtype=torch.float64)).item()
        confusion = self.total(parts.confusion)
        return replace(
            parts,
            images=images,
            hits1=hits1,
            hits5=hits5,
            cross_entropy=cross_entropy,
            confusion=confusion,
        )


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun has started, else this one alone. On GPUs each takes that of its
    place on its host.
    """
    if not dist.is_torchelastic_launched():
        yield Ranks(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        ranks = Ranks(device, dist.get_rank(), dist.get_world_size())
        yield ranks
        ranks.wait()  # nobody hangs up while another still writes
    finally:
        dist.destroy_process_group()
