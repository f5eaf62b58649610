/*
 * The physical limit: a server that does nothing but send. One thread, one send() for each subscriber and turn, the frames of
 * a turn joined; or, as `limit PORT uring`, the sends of a turn submitted to io_uring a thousand at a time. Words after `uring`
 * try what else a ring offers: `files` registers the descriptors, `ring` the ring's own, `silent` wants no completion of a send
 * that went out whole, `few` submits 32 at a time.
 *
 * It speaks just enough WebSocket for the load client: one fixed handshake, /echo, no fragments. Commands as in
 * servers/commands.py.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_URING
#include <liburing.h>
#endif

enum { MAX_FDS = 65536, MAX_REGISTERED = 16384, RING = 1024, PAYLOAD = 64, FRAME = PAYLOAD + 2, MAX_BURST = 64 };

static const char RESPONSE[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

enum kind { NONE, NEW, SUBSCRIBER, ECHO };
static unsigned char kinds[MAX_FDS];
static int subscribers[MAX_FDS], subscriber_count, epoll_fd, use_uring;
static uint64_t last;
static char frames[MAX_BURST * FRAME];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void send_whole(int fd, const char *data, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, -1);
        } else if (sent < 0) {
            return;
        } else {
            data += sent;
            size -= (size_t)sent;
        }
    }
}

#ifdef WITH_URING
static struct io_uring ring;
static int with_files, is_silent;
static unsigned at_once = RING;

static int set_up(const char *word)
{
    if (strcmp(word, "files") == 0) {
        with_files = 1;
        return io_uring_register_files_sparse(&ring, MAX_REGISTERED);
    }
    if (strcmp(word, "ring") == 0)
        return io_uring_register_ring_fd(&ring);
    if (strcmp(word, "silent") == 0)
        is_silent = 1;
    else if (strcmp(word, "few") == 0)
        at_once = 32;
    return 0;
}

static void start_uring(int count, char **words)
{
    struct io_uring_params parameters = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    int error = io_uring_queue_init_params(RING, &ring, &parameters);
    for (int i = 0; i < count && error >= 0; i++)
        error = set_up(words[i]);
    if (error < 0) {
        fprintf(stderr, "io_uring: %s\n", strerror(-error));
        exit(3);
    }
}

static void register_file(int fd)
{
    if (with_files && io_uring_register_files_update(&ring, (unsigned)fd, &fd, 1) < 0)
        die("io_uring_register_files_update");
}

/* The kernel has tried all of them by now: MSG_DONTWAIT lets it put none aside. */
static void reap(size_t size)
{
    struct io_uring_cqe *done;
    while (io_uring_peek_cqe(&ring, &done) == 0) {
        int fd = (int)done->user_data, sent = done->res;
        io_uring_cqe_seen(&ring, done);
        if (sent == -EAGAIN)
            sent = 0;
        if (sent >= 0 && (size_t)sent < size)
            send_whole(fd, frames + sent, size - (size_t)sent);
    }
}

static void send_to_all(size_t size)
{
    unsigned waiting = 0;
    for (int i = 0; i < subscriber_count; i++) {
        struct io_uring_sqe *entry = io_uring_get_sqe(&ring);
        /* MSG_WAITALL makes a send that went out in part a failed one, which is completed aloud. */
        int flags = MSG_NOSIGNAL | MSG_DONTWAIT | (is_silent ? MSG_WAITALL : 0);
        io_uring_prep_send(entry, subscribers[i], frames, size, flags);
        entry->user_data = (uint64_t)subscribers[i];
        entry->flags |= (with_files ? IOSQE_FIXED_FILE : 0) | (is_silent ? IOSQE_CQE_SKIP_SUCCESS : 0);
        if (++waiting == at_once || i == subscriber_count - 1) {
            if (io_uring_submit_and_wait(&ring, is_silent ? 0 : waiting) < 0)
                die("io_uring_submit");
            reap(size);
            waiting = 0;
        }
    }
}
#else
static void register_file(int fd) { (void)fd; }
static void start_uring(int count, char **words)
{
    (void)count, (void)words;
    fprintf(stderr, "built without io_uring: liburing-dev is missing\n");
    exit(3);
}
static void send_to_all(size_t size) { (void)size; }
#endif

static void publish(int count)
{
    for (int i = 0; i < count; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"event\":\"m\",\"channel\":\"b\",\"data\":\"#%09lu@%016lu\"}", ++last, now_ns());
        frames[i * FRAME] = (char)0x81;
        frames[i * FRAME + 1] = PAYLOAD;
        memcpy(frames + i * FRAME + 2, text, PAYLOAD);
    }
    if (use_uring) {
        send_to_all((size_t)count * FRAME);
        return;
    }
    for (int i = 0; i < subscriber_count; i++)
        send_whole(subscribers[i], frames, (size_t)count * FRAME);
}

static void forget(int fd)
{
    for (int i = 0; kinds[fd] == SUBSCRIBER && i < subscriber_count; i++)
        if (subscribers[i] == fd)
            subscribers[i--] = subscribers[--subscriber_count];
    kinds[fd] = NONE;
    close(fd);
}

/* Answer whole masked frames in place; a part of one is not expected: the load client sends small ones. */
static void echo(int fd, unsigned char *data, ssize_t size)
{
    unsigned char out[65536];
    ssize_t from = 0;
    size_t to = 0;
    while (size - from >= 6) {
        unsigned length = data[from + 1] & 0x7f;
        const unsigned char *mask = data + from + 2, *payload = data + from + 6;
        out[to] = data[from];
        out[to + 1] = (unsigned char)length;
        for (unsigned i = 0; i < length; i++)
            out[to + 2 + i] = payload[i] ^ mask[i & 3];
        from += 6 + (ssize_t)length;
        to += 2 + length;
    }
    send_whole(fd, (char *)out, to);
}

static void readable(int fd)
{
    static unsigned char data[65536];
    ssize_t size = recv(fd, data, sizeof data - 1, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0) {
        forget(fd);
    } else if (kinds[fd] == NEW) {
        data[size] = 0;
        kinds[fd] = strncmp((char *)data, "GET /echo", 9) == 0 ? ECHO : SUBSCRIBER;
        if (kinds[fd] == SUBSCRIBER) {
            subscribers[subscriber_count++] = fd;
            register_file(fd);
        }
        send_whole(fd, RESPONSE, sizeof RESPONSE - 1);
    } else if (kinds[fd] == ECHO) {
        echo(fd, data, size);
    }
}

static void serve_for(int listener, int timeout_ms, int *command)
{
    struct epoll_event events[256];
    int count = epoll_wait(epoll_fd, events, 256, timeout_ms), on = 1;
    for (int i = 0; i < count; i++) {
        int fd = events[i].data.fd;
        if (fd == 0) {
            *command = 1;
        } else if (fd != listener) {
            readable(fd);
        } else if ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0 && fd < MAX_FDS) {
            struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
            kinds[fd] = NEW;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
        }
    }
}

static void obey(const char *line)
{
    unsigned long first, second;
    if (sscanf(line, "flood %lu %lu", &first, &second) == 2 && first <= MAX_BURST) {
        uint64_t deadline = now_ns() + second * 1000000;
        while (now_ns() < deadline)
            publish((int)first);
    } else if (sscanf(line, "pace %lu %lu", &first, &second) == 2) {
        uint64_t start = now_ns();
        for (unsigned long i = 0; i < second; i++) {
            uint64_t due = start + i * first * 1000;
            struct timespec at = {.tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u)};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
            publish(1);
        }
    }
    printf("{\"published\": %lu}\n", last);
}

int main(int count, char **arguments)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(count > 1 ? arguments[1] : "0"))};
    struct epoll_event event = {.events = EPOLLIN};
    char line[256];
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 4096) != 0)
        die("listen");
    signal(SIGPIPE, SIG_IGN);
    use_uring = count > 2 && strcmp(arguments[2], "uring") == 0;
    if (use_uring)
        start_uring(count - 3, arguments + 3);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    event.data.fd = listener;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = 0;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event);
    setlinebuf(stdout);
    printf("{\"ready\": true}\n");
    for (;;) {
        int command = 0;
        serve_for(listener, -1, &command);
        if (!command)
            continue;
        if (fgets(line, sizeof line, stdin) == NULL)
            return 0;
        obey(line);
    }
}
