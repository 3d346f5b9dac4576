/* One rank of an MPI library, driven by bench-cluster.  Built with mpicc.openmpi or mpicc.mpich.
 *
 * Commands arrive as lines on the Unix socket named by ALLHANDS_BENCH_CONTROL, one JSON line answers
 * each.  Between commands the rank sleeps in the kernel, so an idle peer costs the others nothing.
 * When the socket closes the rank ends at once, also from inside a collective: no orphans.
 *
 *   cell OP DTYPE REDOP ROOT COUNT[,COUNT...]   allocate touched buffers        -> "ready" | {"unsupported":..}
 *   verify                                      pattern in, one pass, compare   -> {"wrong":N}
 *   loop WARM ITERS                             back to back                    -> {"elapsed":NS}
 *   each ITERS                                  back to back, every pass timed  -> {"samples":[[NS,1],..]}
 *   latency ITERS                               every pass after a barrier      -> {"samples":[[NS,1],..]}
 *   drop                                        free the buffers                -> "ready"
 *   quit
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <mpi.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_TENSORS 4096
#define MAX_LINE (1 << 16)
#define MAX_SAMPLES 20000

static int rank, world, control = -1;

/* ---- the control socket: a thread reads it, so that its end is noticed at any time ---- */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled = PTHREAD_COND_INITIALIZER;
static char *next_line;

static void *reader(void *unused) {
    (void)unused;
    FILE *f = fdopen(dup(control), "r");
    char *line = NULL;
    size_t room = 0;
    for (;;) {
        ssize_t n = f ? getline(&line, &room, f) : -1;
        if (n <= 0) _exit(3);
        if (line[n - 1] == '\n') line[n - 1] = 0;
        pthread_mutex_lock(&lock);
        while (next_line) pthread_cond_wait(&filled, &lock);
        next_line = strdup(line);
        pthread_cond_broadcast(&filled);
        pthread_mutex_unlock(&lock);
    }
}

static char *command(void) {
    pthread_mutex_lock(&lock);
    while (!next_line) pthread_cond_wait(&filled, &lock);
    char *line = next_line;
    next_line = NULL;
    pthread_cond_broadcast(&filled);
    pthread_mutex_unlock(&lock);
    return line;
}

static void reply(const char *text, size_t n) {
    while (n) {
        ssize_t k = send(control, text, n, MSG_NOSIGNAL);
        if (k <= 0) _exit(3);
        text += k;
        n -= (size_t)k;
    }
}

static void reply_line(const char *text) {
    char line[512];
    int n = snprintf(line, sizeof line, "%s\n", text);
    reply(line, (size_t)n);
}

static void connect_control(void) {
    const char *path = getenv("ALLHANDS_BENCH_CONTROL");
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (!path || strlen(path) >= sizeof a.sun_path) {
        fprintf(stderr, "ALLHANDS_BENCH_CONTROL is missing or too long\n");
        exit(2);
    }
    strcpy(a.sun_path, path);
    control = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (control < 0 || connect(control, (void *)&a, sizeof a)) {
        perror("control socket");
        exit(2);
    }
}

/* ---- what a cell is ---- */
enum op { ALL_REDUCE, BROADCAST, REDUCE, ALL_GATHER, GATHER, SCATTER, REDUCE_SCATTER, ALL_TO_ALL, SEND_RECV, BARRIER, OPS };
static const char *const op_names[OPS] = {"all_reduce", "broadcast",      "reduce",     "all_gather", "gather",
                                          "scatter",    "reduce_scatter", "all_to_all", "send_recv",  "barrier"};
struct dtype {
    const char *name;
    MPI_Datatype mpi;
    size_t size;
};
static struct {
    enum op op;
    struct dtype type;
    char redop[8];
    MPI_Op mpi_op;
    int root, n;
    long count[MAX_TENSORS];
    void *in[MAX_TENSORS], *out[MAX_TENSORS];
} cell = {.n = 0};

static long in_len(int t) {
    long c = cell.count[t];
    switch (cell.op) {
    case SCATTER: return rank == cell.root ? c * world : 0;
    case REDUCE_SCATTER:
    case ALL_TO_ALL: return c * world;
    case ALL_GATHER:
    case GATHER: return c;
    default: return 0;
    }
}
static long out_len(int t) {
    long c = cell.count[t];
    switch (cell.op) {
    case ALL_GATHER:
    case ALL_TO_ALL: return c * world;
    case GATHER: return rank == cell.root ? c * world : 0;
    case BARRIER: return 0;
    default: return c;
    }
}
static void drop(void) {
    for (int t = 0; t < cell.n; t++) free(cell.in[t]), free(cell.out[t]);
    cell.n = 0;
}
static void *touched(long elements) {
    size_t bytes = (size_t)elements * cell.type.size;
    void *p = NULL;
    if (bytes && posix_memalign(&p, 64, bytes)) {
        fprintf(stderr, "rank %d: no memory for %zu bytes\n", rank, bytes);
        MPI_Abort(MPI_COMM_WORLD, 4);
    }
    if (p) memset(p, 0, bytes);
    return p;
}

/* Returns why the cell cannot be run, or NULL. */
static const char *set_cell(char *args) {
    char op[32], dtype[8];
    int at = 0;
    drop();
    if (sscanf(args, "%31s %7s %7s %d %n", op, dtype, cell.redop, &cell.root, &at) != 4) return "malformed cell";
    for (cell.op = 0; cell.op < OPS && strcmp(op, op_names[cell.op]); cell.op++) {}
    if (cell.op == OPS) return "unknown operation";
    const struct dtype types[] = {{"f32", MPI_FLOAT, 4},   {"f64", MPI_DOUBLE, 8}, {"i8", MPI_INT8_T, 1},
                                  {"u8", MPI_UINT8_T, 1},  {"i32", MPI_INT32_T, 4}, {"i64", MPI_INT64_T, 8}};
    const struct dtype *found = NULL;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, dtype)) found = &types[i];
    if (!found) return "MPI has no such element type";
    cell.type = *found;
    if (!strcmp(cell.redop, "sum")) cell.mpi_op = MPI_SUM;
    else if (!strcmp(cell.redop, "prod")) cell.mpi_op = MPI_PROD;
    else if (!strcmp(cell.redop, "min")) cell.mpi_op = MPI_MIN;
    else if (!strcmp(cell.redop, "max")) cell.mpi_op = MPI_MAX;
    else return "MPI has no such reduction";
    int n = 0;
    for (char *save, *w = strtok_r(args + at, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        if (n == MAX_TENSORS) return "too many tensors";
        cell.count[n++] = atol(w);
    }
    cell.n = n;
    for (int t = 0; t < n; t++) cell.in[t] = touched(in_len(t)), cell.out[t] = touched(out_len(t));
    return NULL;
}

/* ---- one pass over the cell's tensors ---- */
static void pass_one(int t) {
    int c = (int)cell.count[t];
    void *in = cell.in[t], *out = cell.out[t];
    MPI_Datatype ty = cell.type.mpi;
    MPI_Comm w = MPI_COMM_WORLD;
    switch (cell.op) {
    case ALL_REDUCE: MPI_Allreduce(MPI_IN_PLACE, out, c, ty, cell.mpi_op, w); break;
    case BROADCAST: MPI_Bcast(out, c, ty, cell.root, w); break;
    case REDUCE: MPI_Reduce(rank == cell.root ? MPI_IN_PLACE : out, out, c, ty, cell.mpi_op, cell.root, w); break;
    case ALL_GATHER: MPI_Allgather(in, c, ty, out, c, ty, w); break;
    case GATHER: MPI_Gather(in, c, ty, out, c, ty, cell.root, w); break;
    case SCATTER: MPI_Scatter(in, c, ty, out, c, ty, cell.root, w); break;
    case REDUCE_SCATTER: MPI_Reduce_scatter_block(in, out, c, ty, cell.mpi_op, w); break;
    case ALL_TO_ALL: MPI_Alltoall(in, c, ty, out, c, ty, w); break;
    case SEND_RECV: { /* there and back: two messages */
        int peer = rank ^ 1;
        if (peer >= world) break;
        if (rank & 1) {
            MPI_Recv(out, c, ty, peer, 0, w, MPI_STATUS_IGNORE);
            MPI_Send(out, c, ty, peer, 0, w);
        } else {
            MPI_Send(out, c, ty, peer, 0, w);
            MPI_Recv(out, c, ty, peer, 0, w, MPI_STATUS_IGNORE);
        }
        break;
    }
    default: MPI_Barrier(w); break;
    }
}
static void pass(void) {
    for (int t = 0; t < cell.n; t++) pass_one(t);
}

/* ---- the naive oracle; the same pattern stands in xtask/src/worker/pattern.rs ---- */
static uint32_t value(int r, long i) { return ((uint32_t)i * 2654435761u + (uint32_t)r * 2246822519u) >> 30; }
static void store(void *p, long i, uint32_t v) {
    switch (cell.type.size) {
    case 1: ((uint8_t *)p)[i] = (uint8_t)v; break;
    case 4:
        if (cell.type.mpi == MPI_FLOAT) ((float *)p)[i] = (float)v;
        else ((int32_t *)p)[i] = (int32_t)v;
        break;
    default:
        if (cell.type.mpi == MPI_DOUBLE) ((double *)p)[i] = v;
        else ((int64_t *)p)[i] = v;
    }
}
static int equals(const void *p, long i, uint32_t v) {
    switch (cell.type.size) {
    case 1: return ((const uint8_t *)p)[i] == (uint8_t)v;
    case 4: return cell.type.mpi == MPI_FLOAT ? ((const float *)p)[i] == (float)v : ((const int32_t *)p)[i] == (int32_t)v;
    default: return cell.type.mpi == MPI_DOUBLE ? ((const double *)p)[i] == v : ((const int64_t *)p)[i] == v;
    }
}
static uint32_t reduced(long i) {
    uint32_t a = value(0, i);
    for (int r = 1; r < world; r++) {
        uint32_t b = value(r, i);
        a = cell.mpi_op == MPI_SUM ? a + b : cell.mpi_op == MPI_PROD ? a * b : cell.mpi_op == MPI_MIN ? (b < a ? b : a) : (b > a ? b : a);
    }
    return a;
}
static uint32_t expected(int t, long i) {
    long c = cell.count[t];
    switch (cell.op) {
    case ALL_REDUCE:
    case REDUCE: return reduced(i);
    case BROADCAST: return value(cell.root, i);
    case ALL_GATHER:
    case GATHER: return value((int)(i / c), i % c);
    case SCATTER: return value(cell.root, rank * c + i);
    case REDUCE_SCATTER: return reduced(rank * c + i);
    case ALL_TO_ALL: return value((int)(i / c), rank * c + i % c);
    default: return value((rank ^ 1) < world ? rank & ~1 : rank, i); /* what the even one sent */
    }
}
#define POISON 127 /* what outputs hold before the operation */
static int in_place(void) { return cell.op <= REDUCE || cell.op >= SEND_RECV; }
static uint64_t verify(void) {
    uint64_t wrong = 0;
    for (int t = 0; t < cell.n; t++) {
        for (long i = 0; i < in_len(t); i++) store(cell.in[t], i, value(rank, i));
        for (long i = 0; i < out_len(t); i++) store(cell.out[t], i, in_place() ? value(rank, i) : POISON);
    }
    pass();
    for (int t = 0; t < cell.n; t++) {
        int judged = cell.op != REDUCE || rank == cell.root;
        for (long i = 0; judged && i < out_len(t); i++) wrong += !equals(cell.out[t], i, expected(t, i));
        /* Zeros stay zeros under every reduction, so the timed loops never meet denormals. */
        if (cell.in[t]) memset(cell.in[t], 0, (size_t)in_len(t) * cell.type.size);
        if (cell.out[t]) memset(cell.out[t], 0, (size_t)out_len(t) * cell.type.size);
    }
    return wrong;
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t samples[MAX_SAMPLES];
static void reply_samples(long n) {
    size_t room = (size_t)n * 26 + 32, at = 0;
    char *text = malloc(room);
    if (!text) exit(4);
    at += (size_t)snprintf(text, room, "{\"samples\":[");
    for (long i = 0; i < n; i++) at += (size_t)snprintf(text + at, room - at, "%s[%" PRIu64 ",1]", i ? "," : "", samples[i]);
    at += (size_t)snprintf(text + at, room - at, "]}\n");
    reply(text, at);
    free(text);
}

int main(int argc, char **argv) {
    connect_control();
    pthread_t thread;
    if (pthread_create(&thread, NULL, reader, NULL)) return 2;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    char what[MPI_MAX_LIBRARY_VERSION_STRING], text[512];
    int n;
    MPI_Get_library_version(what, &n);
    what[strcspn(what, ",\n\"\\")] = 0;
    for (char *c = what; *c; c++)
        if (*c == '\t') *c = ' ';
    snprintf(text, sizeof text, "{\"hello\":{\"rank\":%d,\"pid\":%d,\"what\":\"%.200s\"}}", rank, (int)getpid(), what);
    reply_line(text);
    for (;;) {
        char *line = command();
        long warm, iters;
        if (!strncmp(line, "cell ", 5)) {
            const char *why = set_cell(line + 5);
            if (why) {
                drop();
                snprintf(text, sizeof text, "{\"unsupported\":\"%s\"}", why);
                reply_line(text);
            } else reply_line("\"ready\"");
        } else if (!strcmp(line, "verify")) {
            snprintf(text, sizeof text, "{\"wrong\":%" PRIu64 "}", verify());
            reply_line(text);
        } else if (sscanf(line, "loop %ld %ld", &warm, &iters) == 2) {
            for (long i = 0; i < warm; i++) pass();
            MPI_Barrier(MPI_COMM_WORLD);
            uint64_t start = now();
            for (long i = 0; i < iters; i++) pass();
            snprintf(text, sizeof text, "{\"elapsed\":%" PRIu64 "}", now() - start);
            reply_line(text);
        } else if (sscanf(line, "each %ld", &iters) == 1 || sscanf(line, "latency %ld", &iters) == 1) {
            int apart = line[0] == 'l';
            if (iters > MAX_SAMPLES) iters = MAX_SAMPLES;
            MPI_Barrier(MPI_COMM_WORLD);
            for (long i = 0; i < iters; i++) {
                if (apart) MPI_Barrier(MPI_COMM_WORLD);
                uint64_t start = now();
                pass();
                samples[i] = now() - start;
            }
            reply_samples(iters);
        } else if (!strcmp(line, "drop")) {
            drop();
            reply_line("\"ready\"");
        } else if (!strcmp(line, "quit")) {
            break;
        } else reply_line("{\"error\":\"unknown command\"}");
        free(line);
    }
    MPI_Finalize();
    _exit(0); /* the reader still waits on the socket */
}
