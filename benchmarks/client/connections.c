#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 4 * 1024 * 1024, MAX_HELD = 2 * 1024 * 1024, MAX_SENT = 16384, PING = 0x9, PONG = 0xa, TEXT = 0x1, CLOSE = 0x8 };

static unsigned char buffer[ROOM];

static void watch(connection *c, unsigned events, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) != 0)
        fail("epoll_ctl: %m");
}

static void hold(connection *c, const unsigned char *data, size_t size)
{
    if (size == 0) {
        free(c->held);
        c->held = NULL;
    } else {
        unsigned char *kept = malloc(size);
        if (kept == NULL || size > MAX_HELD)
            fail("a frame is larger than %d bytes", MAX_HELD);
        memcpy(kept, data, size);
        free(c->held);
        c->held = kept;
    }
    c->held_size = (unsigned)size;
}

/* A request is small and the socket new, so that a send which does not take it whole is an error. */
static void send_all(connection *c, const void *data, size_t size)
{
    ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
    if (sent != (ssize_t)size)
        end(c);
}

static void send_text(connection *c, const char *text, size_t size)
{
    unsigned char framed[MAX_SENT + 16];
    send_all(c, framed, write_frame(framed, TEXT, text, size));
}

static const char *token_of(const connection *c)
{
    return given.token_count ? given.tokens[(given.offset + c->index) % given.token_count] : NULL;
}

void end(connection *c)
{
    if (c->state == IDLE || c->state == ENDED)
        return;
    if (c->state == OPEN && mode != HANDSHAKES) {
        open_count--;
        seen.closed++;
        if (goal && c->sequence < goal)
            behind--;
    } else if (c->state != OPEN) {
        in_handshake--;
        seen.refused++;
    }
    ended_count++;
    hold(c, NULL, 0);
    close(c->fd);
    c->state = ENDED;
}

void begin_connecting(connection *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)given.port)};
    struct sockaddr_in from = {.sin_family = AF_INET};
    int on = 1;
    inet_pton(AF_INET, given.host, &to.sin_addr);
    inet_pton(AF_INET, given.source, &from.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("socket: %m; raise the limit of open files (ulimit -n)");
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from) != 0)
        fail("bind to %s: %m", given.source);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS)
        fail("connect to %s:%d: %m", given.host, given.port);
    c->state = CONNECTING;
    c->sequence = c->sent = 0;
    c->began_ns = now_ns();
    in_handshake++;
    watch(c, EPOLLOUT, EPOLL_CTL_ADD);
}

void keep_connecting(void)
{
    while (next_to_connect < given.connections && in_handshake < given.concurrency)
        begin_connecting(&all[next_to_connect++]);
}

static void connected(connection *c)
{
    char headers[MAX_SENT], path[2048], request[MAX_SENT];
    int error = 0, on = 1;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        end(c);
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    variables values = {.connection = given.offset + c->index, .token = token_of(c)};
    fill_template(headers, sizeof headers, given.headers, &values);
    fill_template(path, sizeof path, given.path, &values);
    c->state = UPGRADING;
    watch(c, EPOLLIN, EPOLL_CTL_MOD);
    send_all(c, request, write_request(request, sizeof request, given.host, given.port, path, headers));
}

static void is_open(connection *c)
{
    in_handshake--;
    c->state = OPEN;
    if (mode == HANDSHAKES) {
        struct linger reset = {.l_onoff = 1, .l_linger = 0}; /* no TIME_WAIT: ports would run out */
        uint64_t now = now_ns();
        seen.handshakes++;
        histogram_add(&seen.latency, now - c->began_ns);
        seen.last_read_ns = now;
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        end(c);
        return;
    }
    open_count++;
    if (c->index < given.deaf) {
        int little = 4096;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
        watch(c, 0, EPOLL_CTL_MOD);
    }
    keep_connecting();
}

static void subscribe(connection *c)
{
    char message[MAX_SENT];
    unsigned long index = given.offset + c->index;
    c->state = JOINING;
    c->ready_left = given.subscriptions;
    for (unsigned long i = 0; i < given.subscriptions && c->state == JOINING; i++) {
        variables values = {.connection = index,
                            .group = given.group_size ? index / given.group_size : 0,
                            .number = index * given.subscriptions + i,
                            .token = token_of(c)};
        send_text(c, message, fill_template(message, sizeof message, given.subscribe, &values));
    }
}

static void upgraded(connection *c)
{
    if (given.greeting) {
        c->state = GREETED_LATER;
    } else if (given.subscribe) {
        subscribe(c);
    } else {
        c->state = JOINING;
        c->ready_left = 1;
    }
    if (c->state == JOINING && given.ready == NULL)
        is_open(c);
}

void send_message(connection *c, uint64_t at_ns)
{
    char data[STAMP_SIZE + 1], message[MAX_SENT];
    unsigned long index = given.offset + c->index;
    write_stamp(data, (stamp){++c->sent, at_ns});
    data[STAMP_SIZE] = 0;
    variables values = {.connection = index, .group = given.group_size ? index / given.group_size : 0, .data = data};
    send_text(c, message, fill_template(message, sizeof message, given.publish, &values));
}

static void note_arrival(const stamp *got, uint64_t now)
{
    arrival *here = &arrivals[got->sequence % given.track];
    if (here->sequence != got->sequence)
        *here = (arrival){.sequence = got->sequence, .at_ns = got->at_ns};
    here->count++;
    here->last_ns = now;
}

static void message_came(connection *c, const stamp *got, uint64_t now)
{
    uint64_t before = c->sequence;
    if (got->sequence > before + 1)
        seen.lost += got->sequence - before - 1;
    if (got->sequence <= before) {
        seen.duplicates++; /* or out of order: it counts as lost when it was skipped */
    } else {
        c->sequence = got->sequence;
        if (goal && before < goal && got->sequence >= goal)
            behind--;
    }
    if (seen.messages++ == 0) {
        seen.first_at_ns = got->at_ns;
        seen.first_read_ns = now;
    }
    seen.last_read_ns = now;
    histogram_add(&seen.latency, now > got->at_ns ? now - got->at_ns : 0);
    if (given.track)
        note_arrival(got, now);
    if (mode == ECHO && given.publish && c->sent == got->sequence)
        send_message(c, now);
    else if (mode == PUBLISH && c->index % given.group_size == 1 && c[-1].sent == got->sequence)
        send_message(&c[-1], now);
}

static int contains(const frame *f, const char *text) { return memmem(f->payload, f->size, text, strlen(text)) != NULL; }

static void frame_came(connection *c, const frame *f, uint64_t now)
{
    stamp got;
    unsigned char answer[256];
    seen.frames++;
    if (f->opcode == PING) {
        seen.pings++;
        send_all(c, answer, write_frame(answer, PONG, f->payload, f->size));
    } else if (f->opcode == CLOSE) {
        if (seen.closed == 0)
            fprintf(stderr, "load: closed by the server: %.*s\n", (int)(f->size > 2 ? f->size - 2 : 0), f->payload + 2);
        end(c);
    } else if (given.socketio && f->size == 1 && f->payload[0] == '2') {
        send_text(c, "3", 1);
    } else if (c->state == OPEN) {
        if (read_stamp(f->payload, f->size, &got))
            message_came(c, &got, now);
    } else if (c->state == GREETED_LATER && contains(f, given.greeting)) {
        if (given.subscribe)
            subscribe(c);
        if (!given.subscribe || given.ready == NULL)
            is_open(c);
    } else if (c->state == JOINING && contains(f, given.ready) && --c->ready_left == 0) {
        is_open(c);
    }
}

static void take(connection *c, size_t size)
{
    const unsigned char *data = buffer;
    uint64_t now = now_ns();
    if (c->state == UPGRADING) {
        long head = parse_response((const char *)data, size);
        if (head < 0) {
            if (seen.refused == 0)
                fprintf(stderr, "load: the handshake was refused: %.*s\n", (int)(size > 300 ? 300 : size), data);
            end(c);
            return;
        }
        data += head;
        size -= (size_t)head;
        if (head)
            upgraded(c);
    }
    while (c->state > UPGRADING && c->state < ENDED) {
        frame f;
        long taken = parse_frame(data, size, &f);
        if (taken < 0) {
            seen.broken++;
            end(c);
            return;
        }
        if (taken == 0)
            break;
        frame_came(c, &f, now);
        data += taken;
        size -= (size_t)taken;
    }
    if (c->state < ENDED)
        hold(c, data, size);
}

void handle(connection *c, unsigned events)
{
    if (c->state == IDLE || c->state == ENDED)
        return; /* it ended while this event waited for its turn */
    if (c->state == CONNECTING) {
        if (events)
            connected(c);
        return;
    }
    size_t held = c->held_size;
    if (held)
        memcpy(buffer, c->held, held);
    ssize_t size = recv(c->fd, buffer + held, ROOM - held, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0) {
        end(c);
        return;
    }
    seen.reads++;
    seen.bytes += (uint64_t)size;
    take(c, held + (size_t)size);
}

void set_goal(uint64_t sequence)
{
    goal = sequence;
    behind = 0;
    for (unsigned long i = given.deaf; i < given.connections; i++)
        behind += all[i].state == OPEN && all[i].sequence < goal;
}
