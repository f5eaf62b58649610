/*
 * What travels between the load client and a server: upgrade requests, frames, and the stamp that each measured message carries.
 */
#ifndef WIRE_H
#define WIRE_H

#include <stddef.h>
#include <stdint.h>

/* A stamp inside a message: "#" and nine digits (sequence number), "@" and sixteen (nanoseconds, CLOCK_MONOTONIC). */
enum { STAMP_SIZE = 27 };

typedef struct {
    uint64_t sequence;
    uint64_t at_ns;
} stamp;

typedef struct {
    unsigned opcode;
    const unsigned char *payload;
    size_t size;
} frame;

uint64_t now_ns(void);

/* Find the stamp in a payload; 0 where there is none. */
int read_stamp(const unsigned char *payload, size_t size, stamp *found);

void write_stamp(char *to, stamp value);

/* Take a server's frame from the front of `data`: its whole size, 0 where it is not whole, -1 where it breaks RFC 6455. */
long parse_frame(const unsigned char *data, size_t size, frame *parsed);

/* Write a client's frame, masked: its whole size, at most 14 bytes more than the payload. */
size_t write_frame(unsigned char *to, unsigned opcode, const void *payload, size_t size);

/* What stands for %i, %g, %n, %t and %d in a template. */
typedef struct {
    unsigned long connection;
    unsigned long group;
    unsigned long number;
    const char *token;
    const char *data;
} variables;

/* Write a template with its variables filled in; its size without the final zero. Ends the program where it does not fit. */
size_t fill_template(char *to, size_t room, const char *template, const variables *values);

/* Write the upgrade request of RFC 6455, section 4.1; `headers` are whole lines or empty. */
size_t write_request(char *to, size_t room, const char *host, int port, const char *path, const char *headers);

/* The end of the response's head in `data` (0: not whole yet), or -1 where it is not "101" with the right accept value. */
long parse_response(const char *data, size_t size);

void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#endif
