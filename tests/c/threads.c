/* Several threads, a state each, many steps at once: every thread must see, bit for bit, what one thread alone saw. */
#include "lm.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, STEPS = 400 };

typedef struct {
    _Alignas(LM_STATE_ALIGN) unsigned char state[LM_STATE_SIZE];
    float logits[LM_VOCABULARY_SIZE];
    float seen[STEPS];
    uint32_t best[STEPS];
    int status;
    uint32_t seed;
} stream;

static void *run(void *argument) {
    stream *s = argument;
    s->status = lm_reset(s->state, sizeof s->state, LM_ABI_VERSION);
    for (uint32_t i = 0; i < STEPS && !s->status; i++) {
        uint32_t token = (s->seed + i * 7919u) % LM_VOCABULARY_SIZE;
        float score;
        switch (i % 3) {
        case 0:
            s->status = lm_step(s->state, token, s->logits, LM_VOCABULARY_SIZE);
            s->seen[i] = s->logits[i % LM_VOCABULARY_SIZE];
            break;
        case 1:
            s->status = lm_score(s->state, token, s->seed % LM_VOCABULARY_SIZE, &score);
            s->seen[i] = score;
            break;
        default:
            s->status = lm_top_k(s->state, token, 1, &s->best[i], &s->seen[i]);
        }
    }
    return NULL;
}

int main(void) {
    static stream alone[THREADS], together[THREADS];
    pthread_t threads[THREADS];
    for (uint32_t t = 0; t < THREADS; t++) {
        alone[t].seed = together[t].seed = t * 31;
        run(&alone[t]);
    }
    for (int t = 0; t < THREADS; t++)
        if (pthread_create(&threads[t], NULL, run, &together[t]))
            return 2;
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    for (int t = 0; t < THREADS; t++) {
        int same = !memcmp(alone[t].seen, together[t].seen, sizeof alone[t].seen)
                && !memcmp(alone[t].best, together[t].best, sizeof alone[t].best)
                && !memcmp(alone[t].state, together[t].state, sizeof alone[t].state);
        if (alone[t].status || together[t].status || !same) {
            fprintf(stderr, "stream %d differs (status %d, %d)\n", t, alone[t].status, together[t].status);
            return 1;
        }
    }
    return 0;
}
