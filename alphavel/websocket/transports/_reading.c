/*
 * Reading from a socket, and taking apart what nearly every read brings: small messages, each whole in one frame.
 * reading.py says what it does.
 *
 * Only what is beyond doubt is taken apart here: text and binary frames with FIN, a mask, no reserved bit, a length in the fewest
 * bytes, of at most LARGEST and `limit` bytes, all there to the last byte, texts in UTF-8. One thing out of the ordinary, and
 * all that was read is left as it came, for frames.Parser: what is wrong, and what a fragment belongs to, is its to say.
 *
 * Nothing blocks, and the interpreter's lock is held: giving it away for a microsecond is how one waits for a thread that
 * computes. RFC 6455, section 5. Limited API: one build serves Python 3.10 and all that follow.
 */
#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#define TEXT 0x81   /* FIN, no reserved bit, the opcode */
#define BINARY 0x82
#define MASKED 0x80
#define TWO_BYTES 126 /* a length that says: the length is in the next two bytes */
#define LARGEST 4096

enum { END = 0, NOTHING = -1 };

typedef struct {
    PyObject_HEAD
    PyObject *buffer; /* a bytearray; what is asked of it anew each time is where it is and how large */
    Py_ssize_t limit;
} Reader;

typedef struct {
    int is_text;
    const unsigned char *mask, *payload;
    size_t size;
} frame;

/* Look at the frame that begins at `*at`, and go on to the next; false where it is not one of the ordinary. */
static int next_frame(const unsigned char **at, const unsigned char *end, size_t limit, frame *found)
{
    const unsigned char *head = *at;
    size_t left = (size_t)(end - head), header = 2;
    if (left < 6 || (head[0] != TEXT && head[0] != BINARY) || !(head[1] & MASKED))
        return 0;
    found->is_text = head[0] == TEXT;
    found->size = head[1] & 0x7f;
    if (found->size >= TWO_BYTES) {
        if (found->size > TWO_BYTES || left < 8)
            return 0;
        found->size = (size_t)head[2] << 8 | head[3];
        header = 4;
        if (found->size < TWO_BYTES)
            return 0;
    }
    if (found->size > limit || left - header - 4 < found->size)
        return 0;
    found->mask = head + header;
    found->payload = found->mask + 4;
    *at = found->payload + found->size;
    return 1;
}

static void unmask(unsigned char *to, const frame *from)
{
    const unsigned char *payload = from->payload;
    size_t left = from->size;
    uint64_t mask, eight;
    memcpy(&mask, from->mask, 4);
    memcpy((unsigned char *)&mask + 4, from->mask, 4);
    for (; left >= 8; left -= 8, payload += 8, to += 8) {
        memcpy(&eight, payload, 8);
        eight ^= mask;
        memcpy(to, &eight, 8);
    }
    for (size_t i = 0; i < left; i++)
        to[i] = payload[i] ^ from->mask[i & 3];
}

static PyObject *message_of(const frame *from)
{
    if (from->is_text) {
        unsigned char plain[LARGEST];
        unmask(plain, from);
        return PyUnicode_DecodeUTF8((const char *)plain, (Py_ssize_t)from->size, NULL);
    }
    PyObject *message = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)from->size);
    if (message != NULL)
        unmask((unsigned char *)PyBytes_AsString(message), from);
    return message;
}

/* A list of the messages, or None where the parser is to look; NULL with an exception where there is no memory. */
static PyObject *messages_of(const unsigned char *at, const unsigned char *end, size_t limit)
{
    PyObject *messages = PyList_New(0);
    while (messages != NULL && at < end) {
        frame found;
        PyObject *message = next_frame(&at, end, limit, &found) ? message_of(&found) : Py_NewRef(Py_None);
        if (message == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
            message = Py_NewRef(Py_None);
        }
        if (message == Py_None) {
            Py_DECREF(messages);
            return message;
        }
        if (message == NULL || PyList_Append(messages, message) < 0)
            Py_CLEAR(messages);
        Py_XDECREF(message);
    }
    return messages;
}

static PyObject *reader_read(Reader *reader, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "read() takes a descriptor and whether to take apart; got %zd arguments", count);
    long fd = PyLong_AsLong(arguments[0]);
    int take_apart = PyObject_IsTrue(arguments[1]);
    if (take_apart < 0 || (fd == -1 && PyErr_Occurred()))
        return NULL;
    unsigned char *buffer = (unsigned char *)PyByteArray_AsString(reader->buffer);
    ssize_t size;
    do
        size = recv(fd < 0 || fd > INT_MAX ? -1 : (int)fd, buffer, (size_t)PyByteArray_Size(reader->buffer), MSG_DONTWAIT);
    while (size < 0 && errno == EINTR);
    if (size < 0)
        size = errno == EAGAIN || errno == EWOULDBLOCK ? NOTHING : END;
    PyObject *messages = Py_None;
    if (take_apart && size > 0)
        messages = messages_of(buffer, buffer + size, (size_t)reader->limit);
    else
        Py_INCREF(messages);
    return messages == NULL ? NULL : Py_BuildValue("nN", (Py_ssize_t)size, messages);
}

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buffer", "limit", NULL};
    PyObject *buffer;
    Py_ssize_t limit;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!n", names, &PyByteArray_Type, &buffer, &limit))
        return NULL;
    if (limit < 0 || PyByteArray_Size(buffer) == 0) {
        PyErr_SetString(PyExc_ValueError, "a reader needs a buffer that is not empty, and a limit that is not negative");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Reader *reader = (Reader *)allocate(type, 0);
    if (reader == NULL)
        return NULL;
    reader->buffer = Py_NewRef(buffer);
    reader->limit = limit < LARGEST ? limit : LARGEST;
    return (PyObject *)reader;
}

static void reader_dealloc(Reader *reader)
{
    PyTypeObject *type = Py_TYPE(reader);
    Py_CLEAR(reader->buffer);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(reader);
    Py_DECREF(type);
}

static PyMethodDef reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))reader_read, METH_FASTCALL, "read(fd, take_apart) -> (size, messages); see reading.Reader."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, "Reader(buffer, limit): reads into a bytearray; messages of more than `limit` bytes are left to the parser."},
    {Py_tp_new, reader_new},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_methods, reader_methods},
    {0, NULL},
};

static PyType_Spec reader_spec = {
    .name = "alphavel.websocket.transports._reading.Reader",
    .basicsize = sizeof(Reader),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = reader_slots,
};

static int execute(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &reader_spec, NULL);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Reader", type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_reading",
    .m_doc = "One read, and the messages in it; see reading.py.",
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__reading(void)
{
    return PyModuleDef_Init(&definition);
}
