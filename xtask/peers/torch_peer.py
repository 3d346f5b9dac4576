"""One rank of torch.distributed's gloo backend, driven by bench-cluster.

Speaks the line protocol described in mpi_peer.c over the Unix socket named by ALLHANDS_BENCH_CONTROL.
The interpreter and the process group live for the whole run, so that rounds alternate without restarts.
When the socket closes the process ends at once, also from inside a collective.
"""

import json
import os
import queue
import socket
import sys
import threading
import time
from datetime import timedelta

MAX_SAMPLES = 20000
POISON = 127  # what outputs hold before the operation
TABLE = (1_000_000, 64)  # rows and columns of the table that sparse tensors are gradients of


def main():
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.connect(os.environ["ALLHANDS_BENCH_CONTROL"])
    commands = queue.Queue()

    def read():
        with control.makefile("r") as lines:
            for line in lines:
                commands.put(line.strip())
        os._exit(3)

    threading.Thread(target=read, daemon=True).start()

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)  # as torchrun does: one compute thread a rank
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    rank, world = dist.get_rank(), dist.get_world_size()

    def reply(answer):
        control.sendall((json.dumps(answer, separators=(",", ":")) + "\n").encode())

    reply({"hello": {"rank": rank, "pid": os.getpid(), "what": f"torch {torch.__version__} gloo"}})
    cell = None
    while True:
        line = commands.get()
        word, _, rest = line.partition(" ")
        try:
            if word == "cell":
                cell = None
                try:
                    kind = SparseCell if rest.startswith("all_reduce_sparse ") else Cell
                    cell = kind(torch, dist, rank, world, rest)
                except Unsupported as why:
                    reply({"unsupported": str(why)})
                    continue
                reply("ready")
            elif word == "verify":
                reply({"wrong": cell.verify()})
            elif word == "loop":
                warm, iters = map(int, rest.split())
                run = cell.run
                for _ in range(warm):
                    run()
                dist.barrier()
                start = time.perf_counter_ns()
                for _ in range(iters):
                    run()
                reply({"elapsed": time.perf_counter_ns() - start})
            elif word in ("each", "latency"):
                run, samples = cell.run, []
                dist.barrier()
                for _ in range(min(int(rest), MAX_SAMPLES)):
                    if word == "latency":
                        dist.barrier()
                    start = time.perf_counter_ns()
                    run()
                    samples.append([time.perf_counter_ns() - start, 1])
                reply({"samples": samples})
            elif word == "drop":
                cell = None
                reply("ready")
            elif word == "quit":
                dist.destroy_process_group()
                sys.stdout.flush()
                os._exit(0)
            else:
                reply({"error": f"unknown command {word}"})
        except Exception as err:  # the driver decides what to do with it
            reply({"error": f"{type(err).__name__}: {err}"[:400]})


class Unsupported(Exception):
    pass


class Cell:
    """Buffers of one cell and the call that passes over them once."""

    def __init__(self, torch, dist, rank, world, args):
        op, dtype, redop, root, counts = args.split()
        self.torch, self.rank, self.world, self.root, self.op = torch, rank, world, int(root), op
        self.counts = [int(c) for c in counts.split(",")]
        types = dict(
            f32=torch.float32,
            f64=torch.float64,
            f16=torch.float16,
            bf16=torch.bfloat16,
            i8=torch.int8,
            u8=torch.uint8,
            i32=torch.int32,
            i64=torch.int64,
        )
        if dtype not in types:
            raise Unsupported(f"torch has no {dtype}")
        self.dtype = types[dtype]
        ops = dict(sum=dist.ReduceOp.SUM, prod=dist.ReduceOp.PRODUCT, min=dist.ReduceOp.MIN, max=dist.ReduceOp.MAX)
        if redop not in ops:
            raise Unsupported(f"gloo has no {redop}")
        self.redop = redop
        is_root = rank == self.root
        ins = dict(
            scatter=world if is_root else 0, reduce_scatter=world, all_to_all=world, all_gather=1, gather=1
        ).get(op, 0)
        outs = dict(all_gather=world, all_to_all=world, gather=world if is_root else 0, barrier=0).get(op, 1)
        self.ins = [torch.zeros(c * ins, dtype=self.dtype) for c in self.counts]
        self.outs = [torch.zeros(c * outs, dtype=self.dtype) for c in self.counts]
        self.run = self.bind(dist, ops[redop])

    def bind(self, dist, redop):
        """The calls a user would write, with the views they need made once."""
        op, root, rank, world, ins, outs = self.op, self.root, self.rank, self.world, self.ins, self.outs
        pairs = list(zip(ins, outs, strict=True))
        if op == "all_reduce":

            def run():
                for t in outs:
                    dist.all_reduce(t, redop)
        elif op == "broadcast":

            def run():
                for t in outs:
                    dist.broadcast(t, root)
        elif op == "reduce":

            def run():
                for t in outs:
                    dist.reduce(t, root, redop)
        elif op == "all_gather":

            def run():
                for i, o in pairs:
                    dist.all_gather_into_tensor(o, i)
        elif op == "gather":
            blocks = [(i, list(o.chunk(world)) if rank == root else None) for i, o in pairs]

            def run():
                for i, o in blocks:
                    dist.gather(i, o, root)
        elif op == "scatter":
            blocks = [(list(i.chunk(world)) if rank == root else None, o) for i, o in pairs]

            def run():
                for i, o in blocks:
                    dist.scatter(o, i, root)
        elif op == "reduce_scatter":

            def run():
                for i, o in pairs:
                    dist.reduce_scatter_tensor(o, i, redop)
        elif op == "all_to_all":

            def run():
                for i, o in pairs:
                    dist.all_to_all_single(o, i)
        elif op == "send_recv":
            peer = rank ^ 1

            def run():
                if peer >= world:
                    return
                for t in outs:
                    if rank & 1:
                        dist.recv(t, peer)
                        dist.send(t, peer)
                    else:
                        dist.send(t, peer)
                        dist.recv(t, peer)
        elif op == "barrier":
            n = len(self.counts)

            def run():
                for _ in range(n):
                    dist.barrier()
        else:
            raise Unsupported(f"torch has no {op}")
        return run

    # The naive oracle; the same pattern stands in xtask/src/worker/pattern.rs.
    def value(self, rank, start, n):
        i = self.torch.arange(start, start + n, dtype=self.torch.int64)
        return ((i * 2654435761 + rank * 2246822519) & 0xFFFFFFFF) >> 30

    def reduced(self, start, n):
        a = self.value(0, start, n)
        for r in range(1, self.world):
            b = self.value(r, start, n)
            if self.redop == "sum":
                a = a + b
            elif self.redop == "prod":
                a = a * b
            else:
                a = self.torch.minimum(a, b) if self.redop == "min" else self.torch.maximum(a, b)
        return a

    def expected(self, c):
        op, rank, world = self.op, self.rank, self.world
        if op in ("all_reduce", "reduce"):
            return self.reduced(0, c)
        if op == "broadcast":
            return self.value(self.root, 0, c)
        if op in ("all_gather", "gather"):
            return self.torch.cat([self.value(r, 0, c) for r in range(world)])
        if op == "scatter":
            return self.value(self.root, rank * c, c)
        if op == "reduce_scatter":
            return self.reduced(rank * c, c)
        if op == "all_to_all":
            return self.torch.cat([self.value(r, rank * c, c) for r in range(world)])
        return self.value(rank & ~1 if rank ^ 1 < world else rank, 0, c)

    def verify(self):
        in_place = self.op in ("all_reduce", "broadcast", "reduce", "send_recv", "barrier")
        for t in self.ins + (self.outs if in_place else []):
            t.copy_(self.value(self.rank, 0, t.numel()).to(self.dtype))
        for t in [] if in_place else self.outs:
            t.fill_(POISON)
        self.run()
        wrong = 0
        for c, t in zip(self.counts, self.outs, strict=True):
            if t.numel() and (self.op != "reduce" or self.rank == self.root):
                wrong += int((t != self.expected(c).to(self.dtype)).sum())
        for t in self.ins + self.outs:
            t.zero_()
        return wrong


class SparseCell(Cell):
    """Random rows of a table, added with those of the other ranks. The sum replaces the tensor, so each pass makes it anew."""

    def bind(self, dist, redop):
        if self.dtype == self.torch.float16:
            raise Unsupported("torch has no sparse sums of f16")
        self.parts = [self.rows(self.rank, -(-c // TABLE[1])) for c in self.counts]
        self.sums = [None] * len(self.parts)
        self.ins = self.outs = []
        make = self.torch.sparse_coo_tensor

        def run():
            for k, (positions, values) in enumerate(self.parts):
                tensor = make(positions, values, TABLE, check_invariants=False)
                dist.all_reduce(tensor, redop)
                self.sums[k] = tensor

        return run

    def rows(self, rank, n):
        k = self.torch.arange(n, dtype=self.torch.int64)
        mixed = (k * 2654435761 + rank * 2246822519) & 0xFFFFFFFF
        mixed = ((mixed ^ (mixed >> 15)) * 2246822519) & 0xFFFFFFFF
        positions = (mixed ^ (mixed >> 13)) % TABLE[0]
        values = self.value(rank, 0, n * TABLE[1]).to(self.dtype).reshape(n, TABLE[1])
        return positions.reshape(1, n), values

    def verify(self):
        self.run()
        wrong = 0
        for (own, _), total in zip(self.parts, self.sums, strict=True):
            of_ranks = [self.rows(r, own.shape[1]) for r in range(self.world)]
            positions, where = self.torch.cat([p[0] for p, _ in of_ranks]).unique(return_inverse=True)
            expected = self.torch.zeros(len(positions), TABLE[1], dtype=self.dtype)
            expected.index_add_(0, where, self.torch.cat([v for _, v in of_ranks]))
            total = total.coalesce()
            if total.indices().shape[1] != len(positions):
                wrong += expected.numel()
                continue
            here = (total.indices()[0] == positions).unsqueeze(1)
            wrong += int((~here | (total.values() != expected)).sum())
        return wrong


if __name__ == "__main__":
    main()
