/*
 * How long a plain HTTP request takes: one after another on one kept-alive connection, with a pause between them.
 * Usage: probe PORT PATH MILLISECONDS PAUSE_US; prints one line of JSON.
 */
#define _GNU_SOURCE
#include "histogram.h"
#include "wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[65536];

/* Read one response with a Content-Length. */
static void read_response(int fd)
{
    size_t size = 0;
    for (;;) {
        ssize_t got = recv(fd, buffer + size, sizeof buffer - 1 - size, 0);
        if (got <= 0)
            fail("the server closed the connection after %zu bytes of a response", size);
        size += (size_t)got;
        buffer[size] = 0;
        const char *body = strstr(buffer, "\r\n\r\n"), *length = strcasestr(buffer, "\r\nContent-Length:");
        if (body == NULL)
            continue;
        if (strncmp(buffer, "HTTP/1.1 200", 12) != 0 || length == NULL || length > body)
            fail("unexpected response: %.80s", buffer);
        if (size >= (size_t)(body + 4 - buffer) + strtoul(length + 17, NULL, 10))
            return;
    }
}

int main(int count, char **arguments)
{
    static histogram latency;
    char request[1024];
    int on = 1;
    if (count != 5)
        fail("usage: probe PORT PATH MILLISECONDS PAUSE_US");
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[1]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        fail("connect: %m");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", arguments[2]);
    uint64_t deadline = now_ns() + strtoull(arguments[3], NULL, 10) * 1000000;
    while (now_ns() < deadline) {
        uint64_t began = now_ns();
        if (send(fd, request, (size_t)size, MSG_NOSIGNAL) != size)
            fail("send: %m");
        read_response(fd);
        histogram_add(&latency, now_ns() - began);
        usleep((useconds_t)atoi(arguments[4]));
    }
    printf("{\"requests\":%lu,\"latency_ns\":{\"p50\":%lu,\"p99\":%lu,\"p999\":%lu,\"max\":%lu}}\n", latency.count,
           histogram_quantile(&latency, 0.5), histogram_quantile(&latency, 0.99), histogram_quantile(&latency, 0.999),
           latency.max);
    return 0;
}
