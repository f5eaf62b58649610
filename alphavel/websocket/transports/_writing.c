/*
 * Writing to many sockets in one call. The functions of the module make a system call for each frame, those of Ring one for
 * up to BATCH of them; otherwise they are the same. writing.py says what they do, and when which are used.
 *
 * Nothing blocks, and nothing is on its way any more when a call returns: sends are marked MSG_DONTWAIT, which io_uring
 * tries at once and never puts aside. So the frames need to live as long as the call, the interpreter's lock is held
 * throughout (BATCH sends are a fraction of a millisecond), and no Python code runs between one send and the next.
 *
 * io_uring_setup(2), io_uring_enter(2). Limited API: one build serves Python 3.10 and all that follow.
 */
#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/io_uring.h>
#endif

/* Headers may be older than the kernel. */
#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

#define BATCH 128 /* sends in one system call; measured: from 32 on, more do not make a send cheaper */
#define FEW 4     /* below, the ring's own work costs more than the calls it saves */

typedef struct {
    int fd;
    const char *data;
    Py_ssize_t size;
    Py_ssize_t result; /* bytes taken, 0 where the socket is full, or minus errno */
} job;

typedef struct {
    PyObject_HEAD
    int fd;
    pid_t owner;
    void *rings, *entries;
    size_t rings_size, entries_size;
    unsigned *sq_head, *sq_tail, sq_mask, *cq_head, *cq_tail, cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
} Ring;

/* One system call for each */

static Py_ssize_t outcome(Py_ssize_t result)
{
    return result == -EAGAIN || result == -EWOULDBLOCK ? 0 : result;
}

static void send_each(job *jobs, Py_ssize_t count)
{
    for (job *each = jobs; each < jobs + count; each++) {
        ssize_t size;
        do
            size = send(each->fd, each->data, (size_t)each->size, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (size < 0 && errno == EINTR);
        each->result = outcome(size < 0 ? -errno : size);
    }
}

/* One system call for all */

static void ring_release(Ring *ring)
{
    int is_mapped = ring->owner == getpid(); /* not in a child of fork, where other memory may be in that place by now */
    if (is_mapped && ring->rings != MAP_FAILED)
        munmap(ring->rings, ring->rings_size);
    if (is_mapped && ring->entries != MAP_FAILED)
        munmap(ring->entries, ring->entries_size);
    if (ring->fd >= 0)
        close(ring->fd);
    ring->rings = ring->entries = MAP_FAILED;
    ring->fd = -1;
}

static void prepare(Ring *ring, job *jobs, unsigned count)
{
    unsigned tail = *ring->sq_tail;
    for (unsigned i = 0; i < count; i++, tail++) {
        struct io_uring_sqe *sqe = &ring->sqes[tail & ring->sq_mask];
        memset(sqe, 0, sizeof *sqe);
        sqe->opcode = IORING_OP_SEND;
        sqe->fd = jobs[i].fd;
        sqe->addr = (uintptr_t)jobs[i].data;
        sqe->len = jobs[i].size > INT_MAX ? INT_MAX : (unsigned)jobs[i].size;
        sqe->msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL;
        sqe->user_data = i;
    }
    __atomic_store_n(ring->sq_tail, tail, __ATOMIC_RELEASE);
}

static unsigned reap(Ring *ring, job *jobs)
{
    unsigned head = *ring->cq_head, tail = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE), count = tail - head;
    for (; head != tail; head++) {
        struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
        jobs[cqe->user_data].result = outcome(cqe->res);
    }
    __atomic_store_n(ring->cq_head, head, __ATOMIC_RELEASE);
    return count;
}

/* The kernel takes jobs in order. Those it does not take (it is out of memory, a child of fork has no ring) are sent one by one. */
static void send_together(Ring *ring, job *jobs, unsigned count)
{
    unsigned taken = 0, done = 0;
    if (ring->owner == getpid()) {
        prepare(ring, jobs, count);
        while (done < count) {
            long entered = syscall(__NR_io_uring_enter, ring->fd, count - taken, count - done, IORING_ENTER_GETEVENTS, NULL, 0);
            int interrupted = entered < 0 && errno == EINTR;
            unsigned reaped = reap(ring, jobs);
            taken += entered > 0 ? (unsigned)entered : 0;
            done += reaped;
            if (entered <= 0 && reaped == 0 && !interrupted)
                break;
        }
        __atomic_store_n(ring->sq_tail, __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
        if (done < taken) /* never seen: taken and not answered. Nobody may meet those answers later. */
            ring_release(ring);
    }
    send_each(jobs + taken, count - taken);
}

/* Between Python and jobs */

static void run(Ring *ring, job *jobs, Py_ssize_t count)
{
    if (ring != NULL && count >= FEW)
        send_together(ring, jobs, (unsigned)count);
    else
        send_each(jobs, count);
}

static int is_whole(const job *each, long long *written)
{
    if (each->result > 0)
        *written += each->result;
    return each->result == each->size;
}

static int append(PyObject *list, PyObject *item)
{
    int failed = item == NULL || PyList_Append(list, item) < 0;
    Py_XDECREF(item);
    return failed ? -1 : 0;
}

static int read_frame(PyObject *frame, job *into)
{
    char *data;
    if (frame == NULL || PyBytes_AsStringAndSize(frame, &data, &into->size) < 0)
        return -1;
    into->data = data;
    into->result = -EIO;
    return 0;
}

static int read_jobs(PyObject *fds, PyObject *frames, Py_ssize_t start, Py_ssize_t count, job *jobs)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *fd = PyList_GetItem(fds, start + i);
        long number = fd == NULL ? -1 : PyLong_AsLong(fd);
        if ((number == -1 && PyErr_Occurred()) || read_frame(PyList_GetItem(frames, start + i), &jobs[i]) < 0)
            return -1;
        jobs[i].fd = number < 0 || number > INT_MAX ? -1 : (int)number; /* -1: EBADF, for this one alone */
    }
    return 0;
}

static PyObject *write_each(Ring *ring, PyObject *args)
{
    PyObject *fds, *frames;
    if (!PyArg_ParseTuple(args, "O!O!", &PyList_Type, &fds, &PyList_Type, &frames))
        return NULL;
    Py_ssize_t total = PyList_Size(fds);
    if (total != PyList_Size(frames))
        return PyErr_Format(PyExc_ValueError, "%zd descriptors and %zd frames: one goes to each", total, PyList_Size(frames));
    PyObject *rest = PyList_New(0);
    long long written = 0;
    for (Py_ssize_t start = 0; rest != NULL && start < total; start += BATCH) {
        job jobs[BATCH];
        Py_ssize_t count = total - start < BATCH ? total - start : BATCH;
        int failed = read_jobs(fds, frames, start, count, jobs);
        if (!failed)
            run(ring, jobs, count);
        for (Py_ssize_t i = 0; i < count && !failed; i++)
            if (!is_whole(&jobs[i], &written))
                failed = append(rest, Py_BuildValue("nn", start + i, jobs[i].result));
        if (failed)
            Py_CLEAR(rest);
    }
    return rest == NULL ? NULL : Py_BuildValue("LN", written, rest);
}

/* A row of descriptors; which frame goes to each, `ready` and `frames` say together. */
typedef struct {
    const int *fds;
    const unsigned char *ready;
    Py_ssize_t ready_size, frame_count;
    job frames[256]; /* empty where there is none */
} row;

static int read_row(PyObject *fds, Py_ssize_t start, Py_ssize_t stop, PyObject *ready, PyObject *frames, row *into)
{
    char *data;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(fds, &data, &size) < 0)
        return -1;
    into->fds = (const int *)(const void *)data;
    into->ready = (const unsigned char *)PyByteArray_AsString(ready);
    into->ready_size = PyByteArray_Size(ready);
    into->frame_count = PyList_Size(frames);
    if (start < 0 || stop < start || stop > size / (Py_ssize_t)sizeof(int) || into->frame_count > 256) {
        PyErr_SetString(PyExc_ValueError, "the row has not so many descriptors, or there are more than 256 frames");
        return -1;
    }
    for (Py_ssize_t i = 0; i < into->frame_count; i++)
        if (read_frame(PyList_GetItem(frames, i), &into->frames[i]) < 0)
            return -1;
    return 0;
}

static int job_of(const row *from, Py_ssize_t position, job *into)
{
    int fd = from->fds[position];
    unsigned char number = fd >= 0 && fd < from->ready_size ? from->ready[fd] : 0;
    if (number >= from->frame_count || from->frames[number].size == 0)
        return 0;
    *into = from->frames[number];
    into->fd = fd;
    return 1;
}

static PyObject *write_row(Ring *ring, PyObject *args)
{
    PyObject *fds, *ready, *frames;
    Py_ssize_t start, stop;
    row from;
    if (!PyArg_ParseTuple(args, "O!nnO!O!", &PyBytes_Type, &fds, &start, &stop, &PyByteArray_Type, &ready, &PyList_Type, &frames) ||
        read_row(fds, start, stop, ready, frames, &from) < 0)
        return NULL;
    PyObject *rest = PyList_New(0), *behind = PyList_New(0);
    long long written = 0;
    int failed = rest == NULL || behind == NULL;
    while (start < stop && !failed) {
        job jobs[BATCH];
        Py_ssize_t count = 0;
        for (; count < BATCH && start < stop && !failed; start++)
            if (job_of(&from, start, &jobs[count]))
                count++;
            else
                failed = append(behind, PyLong_FromLong(from.fds[start]));
        if (!failed)
            run(ring, jobs, count);
        for (Py_ssize_t i = 0; i < count && !failed; i++)
            if (!is_whole(&jobs[i], &written))
                failed = append(rest, Py_BuildValue("in", jobs[i].fd, jobs[i].result));
    }
    if (failed) {
        Py_XDECREF(rest);
        Py_XDECREF(behind);
        return NULL;
    }
    return Py_BuildValue("LNN", written, rest, behind);
}

/* Until Python 3.12 a collection may begin with any tuple made, and finalizers run that move what is being written. */
static PyObject *undisturbed(PyObject *(*writing)(Ring *, PyObject *), Ring *ring, PyObject *args)
{
    int was_on = PyGC_Disable();
    PyObject *result = writing(ring, args);
    if (was_on)
        PyGC_Enable();
    return result;
}

#define WRITE_DOC "write(fds, frames) -> (bytes, rest); see writing.Writer."
#define WRITE_ROW_DOC "write_row(fds, start, stop, ready, frames) -> (bytes, rest, behind); see writing.Writer."

/* The ring's life */

static void *map(int fd, size_t size, off_t offset)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
    if (memory != MAP_FAILED)
        madvise(memory, size, MADV_DONTFORK);
    return memory;
}

static int ring_open(Ring *ring)
{
    struct io_uring_params p = {.flags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    ring->fd = (int)syscall(__NR_io_uring_setup, BATCH, &p); /* closed on exec, as every ring is */
    if (ring->fd < 0)
        return -1;
    size_t sq_size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    size_t cq_size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    ring->rings_size = sq_size > cq_size ? sq_size : cq_size; /* one mapping for both: IORING_FEAT_SINGLE_MMAP, Linux 5.4 */
    ring->entries_size = p.sq_entries * sizeof(struct io_uring_sqe);
    ring->rings = map(ring->fd, ring->rings_size, IORING_OFF_SQ_RING);
    ring->entries = map(ring->fd, ring->entries_size, IORING_OFF_SQES);
    if (ring->rings == MAP_FAILED || ring->entries == MAP_FAILED)
        return -1;
    char *base = ring->rings;
    ring->sq_head = (unsigned *)(base + p.sq_off.head);
    ring->sq_tail = (unsigned *)(base + p.sq_off.tail);
    ring->sq_mask = *(unsigned *)(base + p.sq_off.ring_mask);
    ring->cq_head = (unsigned *)(base + p.cq_off.head);
    ring->cq_tail = (unsigned *)(base + p.cq_off.tail);
    ring->cq_mask = *(unsigned *)(base + p.cq_off.ring_mask);
    ring->cqes = (struct io_uring_cqe *)(base + p.cq_off.cqes);
    ring->sqes = ring->entries;
    unsigned *array = (unsigned *)(base + p.sq_off.array);
    for (unsigned i = 0; i < p.sq_entries; i++)
        array[i] = i;
    return 0;
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "", names))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Ring *ring = (Ring *)allocate(type, 0);
    if (ring == NULL)
        return NULL;
    ring->rings = ring->entries = MAP_FAILED;
    ring->owner = getpid();
    if (ring_open(ring) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_CLEAR(ring);
    }
    return (PyObject *)ring;
}

static void ring_dealloc(Ring *ring)
{
    PyTypeObject *type = Py_TYPE(ring);
    ring_release(ring);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(ring);
    Py_DECREF(type);
}

static PyObject *ring_write(Ring *ring, PyObject *args)
{
    return undisturbed(write_each, ring->fd < 0 ? NULL : ring, args);
}

static PyObject *ring_write_row(Ring *ring, PyObject *args)
{
    return undisturbed(write_row, ring->fd < 0 ? NULL : ring, args);
}

static PyObject *ring_close(Ring *ring, PyObject *unused)
{
    (void)unused;
    ring_release(ring);
    Py_RETURN_NONE;
}

static PyMethodDef ring_methods[] = {
    {"write", (PyCFunction)ring_write, METH_VARARGS, WRITE_DOC},
    {"write_row", (PyCFunction)ring_write_row, METH_VARARGS, WRITE_ROW_DOC},
    {"close", (PyCFunction)ring_close, METH_NOARGS, "Give the ring back; writing goes on with `send`."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_doc, "A submission queue of this process and thread. Raises OSError where the system gives none."},
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, ring_methods},
    {0, NULL},
};

static PyType_Spec ring_spec = {
    .name = "alphavel.websocket.transports._writing.Ring",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = ring_slots,
};

static PyObject *module_write(PyObject *module, PyObject *args)
{
    (void)module;
    return undisturbed(write_each, NULL, args);
}

static PyObject *module_write_row(PyObject *module, PyObject *args)
{
    (void)module;
    return undisturbed(write_row, NULL, args);
}

static PyMethodDef functions[] = {
    {"write", module_write, METH_VARARGS, WRITE_DOC},
    {"write_row", module_write_row, METH_VARARGS, WRITE_ROW_DOC},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &ring_spec, NULL);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Ring", type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_writing",
    .m_doc = "Many writes in one call; see writing.py.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__writing(void)
{
    return PyModuleDef_Init(&definition);
}
