"""Train in several processes, started by torchrun: what each computes and what they exchange.

Every process has the same weights and an equal share of each batch. Random numbers are drawn for the whole
batch in every process, so that together they do what a single process would do.
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
    """The place of this process: number `rank` of `world`. Only rank 0 writes files and prints."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Tell whether this is rank 0, which writes and prints."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap `model` so that backward averages gradients over all processes, if there are several."""
        if self.world == 1:
            return model
        # The only buffers are constants of the normalisation: no need to send them before each pass.
        return DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum `values` over all processes -> a tensor on the CPU, the same in each of them."""
        if self.world > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values.cpu()

    def any_rank(self, flag: bool) -> bool:
        """Tell every process whether `flag` is true in any of them."""
        return bool(self.all_reduce(torch.tensor(int(flag))).item())

    def from_main(self, values: Tensor) -> Tensor:
        """Broadcast the values of rank 0: clocks and free memory differ, but the run must not."""
        return self.all_reduce(values if self.is_main else torch.zeros_like(values))

    def barrier(self) -> None:
        """Wait until every process has reached this call."""
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def without_exchange(self, network: nn.Module, skipped: bool) -> Iterator[None]:
        """Leave averaging the gradients to a later backward pass, if `skipped`."""
        if skipped and isinstance(network, DistributedDataParallel):
            with network.no_sync():
                yield
        else:
            yield

    def shard(self, split: Split) -> Split:
        """Return this process's images: each image is in exactly one shard, and nothing is padded."""
        return split.part(slice(self.rank, None, self.world))

    def reduce(self, result: Evaluation) -> Evaluation:
        """Sum the results of all shards -> what `evaluate` would return for all images together."""
        images, hits1, hits5 = self.all_reduce(
            torch.tensor([result.images, result.hits1, result.hits5], dtype=torch.int64)
        ).tolist()
        cross_entropy = self.all_reduce(torch.tensor(result.cross_entropy, dtype=torch.float64)).item()
        confusion = self.all_reduce(result.confusion)
        return replace(
            result,
            images=images,
            hits1=hits1,
            hits5=hits5,
            cross_entropy=cross_entropy,
            confusion=confusion,
        )


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, and leave them at the end; without torchrun, one process.

    On GPUs, each process takes the one that its LOCAL_RANK names.
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
        ranks.barrier()  # no process leaves while another still writes
    finally:
        dist.destroy_process_group()
