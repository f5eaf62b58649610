/*
 * The load client: many WebSockets in one thread on epoll. connections.c opens them and checks what they receive, load.c takes
 * commands on standard input and answers each with one line of JSON.
 */
#ifndef LOAD_H
#define LOAD_H

#include "histogram.h"
#include "wire.h"

typedef struct {
    const char *host, *source, *path, *headers, *subscribe, *ready, *greeting, *publish;
    char **tokens;
    unsigned long token_count;
    int port;
    unsigned long connections, concurrency, offset, group_size, subscriptions, track, deaf, nap_us;
    int socketio;
} options;

enum state { IDLE, CONNECTING, UPGRADING, GREETED_LATER, JOINING, OPEN, ENDED };

typedef struct {
    int fd;
    enum state state;
    unsigned index;
    unsigned held_size;       /* bytes of a frame that has not come whole */
    unsigned char *held;
    unsigned long ready_left; /* answers to its subscriptions that are still to come */
    uint64_t sequence;        /* of the last message received */
    uint64_t sent;            /* of the last message sent, where it sends */
    uint64_t began_ns;
} connection;

/* What came for one sequence number, over all connections. */
typedef struct {
    uint64_t sequence, at_ns, last_ns, count;
} arrival;

enum mode { LISTEN, ECHO, PUBLISH, HANDSHAKES };

/* Everything between two marks. */
typedef struct {
    uint64_t frames, messages, bytes, reads, lost, duplicates, closed, refused, handshakes, broken, pings;
    uint64_t first_at_ns, first_read_ns, last_read_ns, marked_ns;
    double marked_cpu_s;
    histogram latency;
} tally;

extern options given;
extern connection *all;
extern tally seen;
extern arrival *arrivals;
extern enum mode mode;
extern unsigned long open_count, ended_count, behind, next_to_connect, in_handshake;
extern uint64_t goal;
extern int epoll_fd;

void begin_connecting(connection *c);
void keep_connecting(void);
void handle(connection *c, unsigned events);
void send_message(connection *c, uint64_t at_ns);
void set_goal(uint64_t sequence);
void end(connection *c);
double cpu_seconds(void);

#endif
