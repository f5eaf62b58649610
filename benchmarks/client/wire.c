#define _GNU_SOURCE
#include "wire.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* The key and answer of RFC 6455, section 1.3: the client checks the answer without having to compute it. */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==";
static const char ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
static const unsigned char MASK[4] = {0x37, 0xfa, 0x21, 0x3d};

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int read_number(const unsigned char *digits, int count, uint64_t *number)
{
    uint64_t value = 0;
    for (int i = 0; i < count; i++) {
        unsigned digit = digits[i] - '0';
        if (digit > 9)
            return 0;
        value = value * 10 + digit;
    }
    *number = value;
    return 1;
}

int read_stamp(const unsigned char *payload, size_t size, stamp *found)
{
    /* The same messages go to all connections: where the mark stands and what its digits mean is mostly known already. */
    static struct { unsigned char text[STAMP_SIZE]; stamp value; } known[128];
    static size_t place;
    const unsigned char *mark = payload + place;
    if (place >= size || *mark != '#')
        mark = memchr(payload, '#', size);
    if (mark == NULL || (size_t)(payload + size - mark) < STAMP_SIZE || mark[10] != '@')
        return 0;
    place = (size_t)(mark - payload);
    unsigned slot = (mark[9] - '0' + 10u * (mark[8] - '0')) % 128;
    if (memcmp(known[slot].text, mark, STAMP_SIZE) != 0) {
        if (!read_number(mark + 1, 9, &known[slot].value.sequence) || !read_number(mark + 11, 16, &known[slot].value.at_ns))
            return 0;
        memcpy(known[slot].text, mark, STAMP_SIZE);
    }
    *found = known[slot].value;
    return 1;
}

static void write_number(char *to, int count, uint64_t number)
{
    while (count--) {
        to[count] = (char)('0' + number % 10);
        number /= 10;
    }
}

void write_stamp(char *to, stamp value)
{
    to[0] = '#';
    write_number(to + 1, 9, value.sequence);
    to[10] = '@';
    write_number(to + 11, 16, value.at_ns);
}

long parse_frame(const unsigned char *data, size_t size, frame *parsed)
{
    if (size < 2)
        return 0;
    if (!(data[0] & 0x80) || data[0] & 0x70 || data[1] & 0x80)
        return -1; /* fragmented, compressed or masked: no server here does that */
    size_t header = 2;
    uint64_t length = data[1];
    if (length > 125) {
        header = length == 126 ? 4 : 10;
        if (size < header)
            return 0;
        length = 0;
        for (size_t i = 2; i < header; i++)
            length = length << 8 | data[i];
    }
    if (size - header < length)
        return 0;
    parsed->opcode = data[0] & 0x0f;
    parsed->payload = data + header;
    parsed->size = length;
    return (long)(header + length);
}

size_t write_frame(unsigned char *to, unsigned opcode, const void *payload, size_t size)
{
    const unsigned char *from = payload;
    size_t header = 2;
    to[0] = (unsigned char)(0x80 | opcode);
    if (size < 126) {
        to[1] = (unsigned char)(0x80 | size);
    } else if (size < 65536) {
        to[1] = 0x80 | 126;
        to[2] = (unsigned char)(size >> 8);
        to[3] = (unsigned char)size;
        header = 4;
    } else {
        fail("a frame of %zu bytes is more than this client sends", size);
    }
    memcpy(to + header, MASK, 4);
    header += 4;
    for (size_t i = 0; i < size; i++)
        to[header + i] = from[i] ^ MASK[i & 3];
    return header + size;
}

size_t fill_template(char *to, size_t room, const char *template, const variables *values)
{
    size_t size = 0;
    for (const char *from = template; *from; from++) {
        char number[24];
        const char *piece = number;
        if (from[0] == '%' && from[1] && strchr("igntd", from[1])) {
            switch (*++from) {
            case 'i': snprintf(number, sizeof number, "%lu", values->connection); break;
            case 'g': snprintf(number, sizeof number, "%lu", values->group); break;
            case 'n': snprintf(number, sizeof number, "%lu", values->number); break;
            case 't': piece = values->token ? values->token : ""; break;
            default: piece = values->data ? values->data : "";
            }
        } else {
            number[0] = *from;
            number[1] = 0;
        }
        size_t length = strlen(piece);
        if (size + length + 1 > room)
            fail("a message made of the template %s is too long", template);
        memcpy(to + size, piece, length);
        size += length;
    }
    to[size] = 0;
    return size;
}

size_t write_request(char *to, size_t room, const char *host, int port, const char *path, const char *headers)
{
    int size = snprintf(to, room,
                        "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                        path, host, port, KEY, headers);
    if (size < 0 || (size_t)size >= room)
        fail("the upgrade request is too long");
    return (size_t)size;
}

long parse_response(const char *data, size_t size)
{
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (end == NULL)
        return size > 16384 ? -1 : 0;
    size_t head = (size_t)(end - data) + 4;
    if (head < 12 || memcmp(data, "HTTP/1.1 101", 12) != 0 || memmem(data, head, ACCEPT, sizeof ACCEPT - 1) == NULL)
        return -1;
    return (long)head;
}
