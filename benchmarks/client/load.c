/*
 * Usage: load --port N [options]; see usage() for the options and obey() for the commands.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

options given = {.host = "127.0.0.1", .source = "127.0.0.1", .path = "/", .headers = "", .connections = 1,
                 .concurrency = 64, .subscriptions = 1,
                 .publish = "{\"event\":\"m\",\"channel\":\"b\",\"data\":\"%d\"}"};
connection *all;
tally seen;
arrival *arrivals;
enum mode mode = LISTEN;
unsigned long open_count, ended_count, behind, next_to_connect, in_handshake;
uint64_t goal;
int epoll_fd;

static unsigned long slots; /* connections, and those that the handshake mode opens and closes */

double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void mark(void)
{
    memset(&seen, 0, sizeof seen);
    seen.marked_ns = now_ns();
    seen.marked_cpu_s = cpu_seconds();
}

/* Wait at most `wait_ns`, and handle what has come. Returns whether a command waits on standard input. */
static int poll_for(uint64_t wait_ns)
{
    static struct epoll_event events[1024];
    struct timespec wait = {.tv_sec = (time_t)(wait_ns / 1000000000), .tv_nsec = (long)(wait_ns % 1000000000)};
    int command = 0;
    int count = epoll_pwait2(epoll_fd, events, 1024, &wait, NULL);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == NULL)
            command = 1;
        else
            handle(events[i].data.ptr, events[i].events);
    }
    return command;
}

static void poll_until(uint64_t deadline)
{
    uint64_t now = now_ns();
    poll_for(now < deadline ? deadline - now : 0);
}

/* A client that sleeps a little between two looks at its sockets is not woken for each message: what that costs is then not the
   sender's, whose clients are on other machines in earnest. */
static void nap(void)
{
    if (given.nap_us)
        usleep((useconds_t)given.nap_us);
}

static void print_report(void)
{
    uint64_t now = now_ns();
    double wall = (double)(now - seen.marked_ns) / 1e9;
    printf("{\"connections\":%lu,\"messages\":%lu,\"frames\":%lu,\"bytes\":%lu,\"reads\":%lu,\"lost\":%lu,\"duplicates\":%lu,"
           "\"behind\":%lu,\"closed\":%lu,\"refused\":%lu,\"broken\":%lu,\"pings\":%lu,\"handshakes\":%lu,",
           open_count, seen.messages, seen.frames, seen.bytes, seen.reads, seen.lost, seen.duplicates, goal ? behind : 0,
           seen.closed, seen.refused, seen.broken, seen.pings, seen.handshakes);
    printf("\"marked_ns\":%lu,\"first_at_ns\":%lu,\"first_read_ns\":%lu,\"last_read_ns\":%lu,\"wall_s\":%.6f,\"cpu_s\":%.6f,",
           seen.marked_ns, seen.first_at_ns, seen.first_read_ns, seen.last_read_ns, wall, cpu_seconds() - seen.marked_cpu_s);
    printf("\"latency_ns\":{\"count\":%lu,\"p50\":%lu,\"p90\":%lu,\"p99\":%lu,\"p999\":%lu,\"max\":%lu}}\n", seen.latency.count,
           histogram_quantile(&seen.latency, 0.5), histogram_quantile(&seen.latency, 0.9),
           histogram_quantile(&seen.latency, 0.99), histogram_quantile(&seen.latency, 0.999), seen.latency.max);
}

static void print_arrivals(void)
{
    const char *separator = "";
    printf("{\"arrivals\":[");
    for (unsigned long i = 0; i < given.track; i++) {
        if (arrivals[i].count == 0)
            continue;
        printf("%s[%lu,%lu,%lu,%lu]", separator, arrivals[i].sequence, arrivals[i].at_ns, arrivals[i].last_ns,
               arrivals[i].count);
        separator = ",";
    }
    printf("]}\n");
}

/* Send on all connections, or on the first of each group, and again whenever the answer has come. */
static void closed_loop(unsigned long milliseconds, unsigned long step)
{
    uint64_t deadline = now_ns() + milliseconds * 1000000;
    for (unsigned long i = 0; i < given.connections; i++)
        all[i].sequence = all[i].sent = 0;
    for (unsigned long i = 0; i < given.connections; i += step)
        if (all[i].state == OPEN)
            send_message(&all[i], now_ns());
    while (now_ns() < deadline)
        poll_until(deadline);
}

/* Send `rate` messages a second, each on the next connection. A stamp tells when it was due: a late sender hides nothing. */
static void open_loop(unsigned long milliseconds, unsigned long rate)
{
    uint64_t start = now_ns(), deadline = start + milliseconds * 1000000, sent = 0;
    for (unsigned long i = 0; i < given.connections; i++)
        all[i].sequence = all[i].sent = 0;
    mode = LISTEN; /* an answer is counted, and not answered */
    for (uint64_t now = start; now < deadline; now = now_ns()) {
        while (sent * 1000000000u / rate <= now - start) {
            connection *c = &all[sent % given.connections];
            if (c->state == OPEN)
                send_message(c, start + sent * 1000000000u / rate);
            sent++;
        }
        poll_until(start + sent * 1000000000u / rate);
    }
}

static int is_behind(const connection *c) { return c->state == OPEN && c->sent && c->sequence < c->sent; }

static void await_answers(void)
{
    uint64_t deadline = now_ns() + 2000000000u;
    unsigned long i = 0;
    mode = LISTEN;
    while (i < given.connections && now_ns() < deadline) {
        if (is_behind(&all[i]))
            poll_for(1000000);
        else
            i++;
    }
    for (i = 0; i < given.connections; i++)
        seen.lost += is_behind(&all[i]) ? all[i].sent - all[i].sequence : 0;
}

static void handshakes(unsigned long milliseconds, unsigned long concurrency)
{
    uint64_t deadline = now_ns() + milliseconds * 1000000;
    enum mode before = mode;
    if (concurrency > slots - given.connections)
        fail("at most %lu handshakes at a time", slots - given.connections);
    mode = HANDSHAKES;
    while (now_ns() < deadline) {
        for (unsigned long i = 0; i < concurrency; i++) {
            connection *c = &all[given.connections + i];
            if (c->state == IDLE || c->state == ENDED)
                begin_connecting(c);
        }
        poll_until(deadline);
    }
    print_report();
    for (unsigned long i = 0; i < concurrency; i++)
        end(&all[given.connections + i]);
    mode = before;
}

static void obey(char *line)
{
    char word[32];
    unsigned long first = 0, second = 0;
    if (sscanf(line, "%31s %lu %lu", word, &first, &second) < 1)
        return;
    if (strcmp(word, "mark") == 0) { /* mark SEQUENCE: what was published last; count from here on */
        for (unsigned long i = 0; i < given.connections; i++)
            all[i].sequence = first;
        if (given.track)
            memset(arrivals, 0, given.track * sizeof *arrivals);
        mark();
        printf("{\"marked\":%lu}\n", first);
    } else if (strcmp(word, "until") == 0) { /* until SEQUENCE MS: read until all connections have it */
        uint64_t deadline = now_ns() + second * 1000000;
        set_goal(first);
        while (behind && now_ns() < deadline) {
            poll_until(deadline);
            nap();
        }
        print_report();
        goal = 0;
    } else if (strcmp(word, "run") == 0) { /* run MS: read */
        uint64_t deadline = now_ns() + first * 1000000;
        while (now_ns() < deadline)
            poll_until(deadline);
        print_report();
    } else if (strcmp(word, "nap") == 0) { /* nap US: sleep so long between two looks at the sockets; 0: be woken */
        given.nap_us = first;
        printf("{\"nap\":%lu}\n", first);
    } else if (strcmp(word, "report") == 0) {
        print_report();
    } else if (strcmp(word, "echo") == 0) { /* echo MS RATE: round trips, as many as go or RATE a second */
        mark();
        mode = ECHO;
        if (second)
            open_loop(first, second);
        else
            closed_loop(first, 1);
        await_answers();
        print_report();
    } else if (strcmp(word, "publish") == 0) { /* publish MS: the first of each group sends when the second has received */
        if (given.group_size < 2)
            fail("publishing needs --group-size");
        mark();
        mode = PUBLISH;
        closed_loop(first, given.group_size);
        mode = LISTEN;
        uint64_t settled = now_ns() + 300000000;
        while (now_ns() < settled)
            poll_until(settled);
        print_report();
    } else if (strcmp(word, "handshakes") == 0) { /* handshakes MS CONCURRENCY */
        mark();
        handshakes(first, second);
    } else if (strcmp(word, "arrivals") == 0) { /* when the last connection had each message */
        print_arrivals();
    } else {
        fail("unknown command: %s", word);
    }
    fflush(stdout);
}

static void open_all(void)
{
    uint64_t began = now_ns(), said = began, progressed = began;
    unsigned long before = 0;
    keep_connecting();
    while (open_count + ended_count < given.connections) {
        poll_for(100000000);
        keep_connecting();
        if (open_count != before)
            progressed = now_ns();
        before = open_count;
        if (now_ns() - said > 2000000000u) {
            said = now_ns();
            fprintf(stderr, "load: %lu of %lu connections are open\n", open_count, given.connections);
        }
        if (now_ns() - progressed > 10000000000u)
            break;
    }
    printf("{\"opened\":%lu,\"refused\":%lu,\"seconds\":%.6f}\n", open_count, seen.refused, (double)(now_ns() - began) / 1e9);
    fflush(stdout);
}

static void serve_commands(void)
{
    static char held[8192];
    size_t size = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event) != 0)
        fail("standard input must be a pipe or a terminal");
    for (;;) {
        if (!poll_for(60000000000u)) {
            nap();
            continue;
        }
        ssize_t got = read(0, held + size, sizeof held - 1 - size);
        if (got <= 0)
            return;
        size += (size_t)got;
        held[size] = 0;
        for (char *newline; (newline = strchr(held, '\n')) != NULL;) {
            *newline = 0;
            obey(held);
            size -= (size_t)(newline + 1 - held);
            memmove(held, newline + 1, size + 1);
        }
    }
}

static void read_tokens(const char *path)
{
    static char line[8192];
    FILE *file = fopen(path, "r");
    if (file == NULL)
        fail("%s: %m", path);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        given.tokens = realloc(given.tokens, (given.token_count + 1) * sizeof *given.tokens);
        given.tokens[given.token_count++] = strdup(line);
    }
    fclose(file);
}

/* Header lines are given without their line ends. */
static char *with_line_end(const char *before, const char *line)
{
    char *lines;
    if (asprintf(&lines, "%s%s\r\n", before, line) < 0)
        fail("out of memory");
    return lines;
}

static void usage(void)
{
    fail("--port N [--host A] [--source A] [--path P] [--header LINE]... [--connections N] [--concurrency N] [--offset N]\n"
         "  [--greeting TEXT] [--subscribe MESSAGE] [--subscriptions N] [--ready TEXT] [--publish MESSAGE] [--group-size N]\n"
         "  [--tokens FILE] [--track N] [--socketio] [--deaf N: the first N read nothing once they are open]\n"
         "Variables: %%i connection, %%g group, %%n subscription, %%t token, %%d stamp");
}

static void read_options(int count, char **arguments)
{
    static const struct option known[] = {
        {"port", 1, 0, 'p'},        {"host", 1, 0, 'h'},      {"source", 1, 0, 's'},        {"path", 1, 0, 'u'},
        {"header", 1, 0, 'H'},      {"connections", 1, 0, 'n'}, {"concurrency", 1, 0, 'c'}, {"offset", 1, 0, 'o'},
        {"greeting", 1, 0, 'g'},    {"subscribe", 1, 0, 'S'}, {"subscriptions", 1, 0, 'N'}, {"ready", 1, 0, 'r'},
        {"publish", 1, 0, 'P'},     {"group-size", 1, 0, 'G'}, {"tokens", 1, 0, 't'},       {"track", 1, 0, 'T'},
        {"socketio", 0, 0, 'i'},    {"deaf", 1, 0, 'd'},    {0, 0, 0, 0}};
    for (int option; (option = getopt_long(count, arguments, "", known, NULL)) != -1;) {
        switch (option) {
        case 'p': given.port = atoi(optarg); break;
        case 'h': given.host = optarg; break;
        case 's': given.source = optarg; break;
        case 'u': given.path = optarg; break;
        case 'H': given.headers = with_line_end(given.headers, optarg); break;
        case 'n': given.connections = strtoul(optarg, NULL, 10); break;
        case 'c': given.concurrency = strtoul(optarg, NULL, 10); break;
        case 'o': given.offset = strtoul(optarg, NULL, 10); break;
        case 'g': given.greeting = optarg; break;
        case 'S': given.subscribe = optarg; break;
        case 'N': given.subscriptions = strtoul(optarg, NULL, 10); break;
        case 'r': given.ready = optarg; break;
        case 'P': given.publish = optarg; break;
        case 'G': given.group_size = strtoul(optarg, NULL, 10); break;
        case 't': read_tokens(optarg); break;
        case 'T': given.track = strtoul(optarg, NULL, 10); break;
        case 'i': given.socketio = 1; break;
        case 'd': given.deaf = strtoul(optarg, NULL, 10); break;
        default: usage();
        }
    }
    if (given.port == 0 || optind != count)
        usage();
}

int main(int count, char **arguments)
{
    read_options(count, arguments);
    slots = given.connections + 1024;
    all = calloc(slots, sizeof *all);
    arrivals = calloc(given.track + 1, sizeof *arrivals);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (all == NULL || arrivals == NULL || epoll_fd < 0)
        fail("%m");
    for (unsigned long i = 0; i < slots; i++)
        all[i].index = (unsigned)i;
    mark();
    open_all();
    serve_commands();
    return 0;
}
