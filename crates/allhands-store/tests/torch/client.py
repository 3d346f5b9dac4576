"""A PyTorch client of the store at argv[1]:argv[2]; every operation once. Prints "done" at the end."""

import sys
from datetime import timedelta

import torch.distributed as dist

store = dist.TCPStore(
    sys.argv[1], int(sys.argv[2]), world_size=2, is_master=False, timeout=timedelta(seconds=30)
)


def equal(left, right):
    assert left == right, f"{left!r} is not {right!r}"


equal(store.get("from-rust"), b"\x00\xffbytes")
store.set("from-torch", "text")
equal(store.add("counter", 5), 15)
equal(store.compare_set("swap", "", "first"), b"first")
equal(store.compare_set("swap", "wrong", "second"), b"first")
equal(store.compare_set("swap", "first", "second"), b"second")
equal(store.compare_set("absent", "expected", "x"), b"expected")
equal(store.check(["swap", "counter"]), True)
equal(store.check(["swap", "absent"]), False)
store.append("grows", "to")
store.append("grows", "rch")
equal(store.get("grows"), b"torch")
store.multi_set(["m1", "m2"], ["one", "two" * 100000])
equal(store.multi_get(["m1", "m2"]), [b"one", b"two" * 100000])
equal(store.delete_key("m1"), True)
equal(store.delete_key("m1"), False)
store.queue_push("queue", "q1")
store.queue_push("queue", "q2")
equal(store.queue_len("queue"), 2)
equal(store.queue_pop("queue"), b"q1")
equal(store.queue_pop("queue", False), b"q2")
try:
    store.queue_pop("queue", False)
    raise AssertionError("an empty queue gave something")
except dist.QueueEmptyError:
    pass
equal(
    sorted(store.list_keys()),
    ["counter", "from-rust", "from-torch", "grows", "m2", "swap"],
)
# The six above and "init/".
equal(store.num_keys(), 7)
try:
    store.wait(["never"], timedelta(milliseconds=200))
    raise AssertionError("a missing key was found")
except dist.DistStoreError as error:
    assert "never" in str(error), error
# After a cancelled wait the connection still works, and so does a clone.
equal(store.clone().get("from-torch"), b"text")
prefixed = dist.PrefixStore("group/7", store)
prefixed.set("rank", "torch")
equal(store.queue_pop("jobs"), b"from rust")
store.barrier("meet", 2, timedelta(seconds=30))
print("done", flush=True)
