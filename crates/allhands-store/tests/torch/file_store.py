"""The second of two users of the file store argv[1]. Prints "done" while it still has it open; ends with its input."""

import sys
from datetime import timedelta

import torch.distributed as dist

store = dist.FileStore(sys.argv[1], 2)
store.set_timeout(timedelta(seconds=30))
assert store.get("from-rust") == b"\x00\xffbytes", store.get("from-rust")
assert store.add("counter", 5) == 15
assert store.get("grows") == b"rust"
assert not store.check(["deleted"])
assert store.compare_set("swap", "first", "second") == b"second"
store.set("from-torch", "text")
store.delete_key("grows")
print("done", flush=True)
sys.stdin.read()
