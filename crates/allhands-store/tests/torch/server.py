"""A PyTorch store server (argv[1]: "libuv" or "legacy"; argv[2]: "bare" has no keys). Prints its port; ends with its
standard input."""

import sys
from datetime import timedelta

import torch.distributed as dist

bare = "bare" in sys.argv[2:]
store = dist.TCPStore(
    "127.0.0.1",
    0,
    world_size=None if bare else 1,
    is_master=True,
    timeout=timedelta(seconds=60),
    use_libuv=sys.argv[1] == "libuv",
)
if not bare:
    store.set("from-torch", "text")
print(store.port, flush=True)
sys.stdin.read()
