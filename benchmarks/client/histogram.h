/*
 * A histogram of times: 64 buckets for each power of two, so that a percentile is right within 1.6 %.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>
#include <string.h>

enum { SUB_BITS = 6, SUB = 1 << SUB_BITS, BUCKETS = (64 - SUB_BITS) * SUB + SUB };

typedef struct {
    uint64_t count;
    uint64_t max;
    uint64_t buckets[BUCKETS];
} histogram;

static inline void histogram_reset(histogram *h) { memset(h, 0, sizeof *h); }

static inline unsigned histogram_bucket(uint64_t value)
{
    if (value < SUB)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - SUB_BITS;
    return (shift + 1) * SUB + (unsigned)((value >> shift) - SUB);
}

static inline void histogram_add(histogram *h, uint64_t value)
{
    h->count++;
    h->buckets[histogram_bucket(value)]++;
    if (value > h->max)
        h->max = value;
}

/* The upper end of the bucket that holds the given share (0.99) of the values, at most the largest value. */
static inline uint64_t histogram_quantile(const histogram *h, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)h->count + 0.999999), seen = 0;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        seen += h->buckets[bucket];
        if (seen >= wanted && seen) {
            unsigned shift = bucket < SUB ? 0 : bucket / SUB - 1;
            uint64_t low = bucket < SUB ? bucket : (uint64_t)(bucket % SUB + SUB) << shift;
            uint64_t high = low + ((uint64_t)1 << shift) - 1;
            return high < h->max ? high : h->max;
        }
    }
    return h->max;
}

#endif
