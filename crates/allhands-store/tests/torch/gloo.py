"""Rank argv[3] of a Gloo group of 2 that meets at the store argv[1]:argv[2]. Prints "done" at the end."""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist

rank = int(sys.argv[3])
store = dist.TCPStore(
    sys.argv[1], int(sys.argv[2]), is_master=False, timeout=timedelta(seconds=60)
)
dist.init_process_group(
    "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
tensor = torch.full((1000,), float(rank + 1))
dist.all_reduce(tensor)
assert tensor.eq(3).all(), tensor
objects = [None, None]
dist.all_gather_object(objects, {"rank": rank})
assert objects == [{"rank": 0}, {"rank": 1}], objects
dist.monitored_barrier()
dist.barrier(dist.new_group([0, 1]))
dist.destroy_process_group()
print("done", flush=True)
