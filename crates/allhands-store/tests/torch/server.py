"""A PyTorch store server (argv[1]: "libuv" or "legacy"). Prints its port; ends with its standard input."""

import sys
from datetime import timedelta

import torch.distributed as dist

store = dist.TCPStore(
    "127.0.0.1",
    0,
    world_size=1,
    is_master=True,
    timeout=timedelta(seconds=60),
    use_libuv=sys.argv[1] == "libuv",
)
store.set("from-torch", "text")
print(store.port, flush=True)
sys.stdin.read()
