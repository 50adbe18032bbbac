/* Calls every function wrongly and rightly, and compares what must be the same. Exits with 1 at the first surprise. */
#include "lm.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                                                                   \
    do {                                                                                                    \
        if (!(condition)) {                                                                                 \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                         \
            return 1;                                                                                       \
        }                                                                                                   \
    } while (0)

#define N LM_VOCABULARY_SIZE

int main(void) {
    /* From the heap, so that a tool that watches memory sees every read and write beyond the end. */
    unsigned char *memory = malloc(LM_STATE_SIZE + LM_STATE_ALIGN), *other = malloc(LM_STATE_SIZE + LM_STATE_ALIGN);
    EXPECT(memory && other);
    memset(memory, 0xa5, LM_STATE_SIZE + LM_STATE_ALIGN);
    memset(other, 0, LM_STATE_SIZE + LM_STATE_ALIGN);
    unsigned char *state = memory + (LM_STATE_ALIGN - (uintptr_t)memory % LM_STATE_ALIGN) % LM_STATE_ALIGN;
    unsigned char *copy = other + (LM_STATE_ALIGN - (uintptr_t)other % LM_STATE_ALIGN) % LM_STATE_ALIGN;
    float *logits = malloc(N * sizeof *logits), *best = malloc(N * sizeof *best), score = 7;
    uint32_t *ids = malloc(N * sizeof *ids), token = 7;
    EXPECT(logits && best && ids);

    EXPECT(lm_abi_version() == LM_ABI_VERSION);
    EXPECT(lm_state_size() == LM_STATE_SIZE && LM_STATE_SIZE % LM_STATE_ALIGN == 0);
    EXPECT(lm_state_align() == LM_STATE_ALIGN && lm_vocabulary_size() == N);
    EXPECT(lm_info()[0] == '{' && strstr(lm_info(), "\"recipe\"") && strstr(lm_info(), "\"bytes\""));

    /* Memory that was never reset, of noise and of zeros. */
    EXPECT(lm_advance(state, 0) == LM_ERROR_STATE && lm_advance(copy, 0) == LM_ERROR_STATE);
    EXPECT(lm_step(state, 0, logits, N) == LM_ERROR_STATE && lm_score(state, 0, 0, &score) == LM_ERROR_STATE);
    EXPECT(lm_top_k(state, 0, 1, ids, best) == LM_ERROR_STATE);

    EXPECT(lm_reset(NULL, LM_STATE_SIZE, LM_ABI_VERSION) == LM_ERROR_NULL);
    EXPECT(lm_reset(state + 4, LM_STATE_SIZE, LM_ABI_VERSION) == LM_ERROR_MISALIGNED);
    EXPECT(lm_reset(state, LM_STATE_SIZE - 1, LM_ABI_VERSION) == LM_ERROR_SIZE);
    EXPECT(lm_reset(state, 0, LM_ABI_VERSION) == LM_ERROR_SIZE);
    EXPECT(lm_reset(state, LM_STATE_SIZE, LM_ABI_VERSION + 1) == LM_ERROR_VERSION);
    EXPECT(lm_advance(state, 0) == LM_ERROR_STATE);
    EXPECT(lm_reset(state, LM_STATE_SIZE, LM_ABI_VERSION) == LM_OK);
    EXPECT(lm_reset(copy, LM_STATE_SIZE, LM_ABI_VERSION) == LM_OK);

    EXPECT(lm_advance(NULL, 0) == LM_ERROR_NULL && lm_advance(state + 32, 0) == LM_ERROR_MISALIGNED);
    EXPECT(lm_advance(state, N) == LM_ERROR_TOKEN && lm_advance(state, UINT32_MAX) == LM_ERROR_TOKEN);
    EXPECT(lm_step(NULL, 0, logits, N) == LM_ERROR_NULL && lm_step(state, 0, NULL, N) == LM_ERROR_NULL);
    EXPECT(lm_step(state, 0, logits, N - 1) == LM_ERROR_SIZE && lm_step(state, 0, logits, 0) == LM_ERROR_SIZE);
    EXPECT(lm_step(state, N, logits, N) == LM_ERROR_TOKEN);
    EXPECT(lm_score(NULL, 0, 0, &score) == LM_ERROR_NULL && lm_score(state, 0, 0, NULL) == LM_ERROR_NULL);
    EXPECT(lm_score(state, N, 0, &score) == LM_ERROR_TOKEN && lm_score(state, 0, N, &score) == LM_ERROR_TOKEN);
    EXPECT(lm_top_k(state, 0, 0, ids, best) == LM_ERROR_SIZE);
    EXPECT(lm_top_k(state, 0, N + 1, ids, best) == LM_ERROR_SIZE);
    EXPECT(lm_top_k(state, 0, SIZE_MAX, ids, best) == LM_ERROR_SIZE);
    EXPECT(lm_top_k(state, 0, 1, NULL, best) == LM_ERROR_NULL && lm_top_k(state, 0, 1, ids, NULL) == LM_ERROR_NULL);
    EXPECT(lm_top_k(NULL, 0, 1, ids, best) == LM_ERROR_NULL && lm_top_k(state, N, 1, ids, best) == LM_ERROR_TOKEN);
    EXPECT(score == 7);
    /* None of that changed the state. */
    EXPECT(!memcmp(state, copy, LM_STATE_SIZE));

    for (uint32_t i = 0; i < N; i++) {
        const char *word = lm_word(i);
        EXPECT(word && lm_token(word, strlen(word), &token) == LM_OK && token == i);
    }
    EXPECT(!lm_word(N) && !lm_word(UINT32_MAX));
    EXPECT(lm_token(NULL, 0, &token) == LM_ERROR_NULL && lm_token("x", 1, NULL) == LM_ERROR_NULL);
    token = 7;
    EXPECT(lm_token("no such word", 12, &token) == LM_ERROR_WORD);
    EXPECT(token == UINT32_MAX || !strcmp(lm_word(token), "<unk>"));
    EXPECT(lm_token("", 0, &token) == LM_ERROR_WORD && lm_token("\xff\xff", 2, &token) == LM_ERROR_WORD);
    /* A word and what follows it in memory; a word cut short. */
    EXPECT(lm_token(lm_word(0), strlen(lm_word(0)) + 1 + strlen(lm_word(1)), &token) == LM_ERROR_WORD);
    EXPECT(lm_token(lm_word(0), strlen(lm_word(0)) + 1, &token) == LM_ERROR_WORD);

    /* Logits, scores and the best words come to the same; a copied state goes on where the other was. */
    for (uint32_t round = 0; round < 5; round++) {
        uint32_t at = round % N;
        double sum = 0, top = -INFINITY;
        memcpy(copy, state, LM_STATE_SIZE);
        EXPECT(lm_step(state, at, logits, N) == LM_OK);
        for (uint32_t i = 0; i < N; i++)
            top = logits[i] > top ? logits[i] : top;
        for (uint32_t i = 0; i < N; i++)
            sum += exp(logits[i] - top);
        uint32_t target = (at * 7 + 3) % N;
        memcpy(state, copy, LM_STATE_SIZE);
        EXPECT(lm_score(state, at, target, &score) == LM_OK);
        EXPECT(fabs(score - (logits[target] - top - log(sum))) < 1e-4);
        memcpy(state, copy, LM_STATE_SIZE);
        EXPECT(lm_top_k(state, at, N, ids, best) == LM_OK);
        for (uint32_t i = 0; i < N; i++) {
            EXPECT(ids[i] < N && fabs(best[i] - (logits[ids[i]] - top - log(sum))) < 1e-4);
            EXPECT(i == 0 || logits[ids[i]] < logits[ids[i - 1]]
                   || (logits[ids[i]] == logits[ids[i - 1]] && ids[i] > ids[i - 1]));
        }
        EXPECT(lm_top_k(copy, at, 1, &token, &score) == LM_OK && token == ids[0] && score == best[0]);
    }

    /* Streams together come to what each comes to alone, whichever of them is wrong nothing changes. */
    void *streams[2] = {state, copy};
    const uint32_t next[2] = {1 % N, 3 % N}, wrong[2] = {0, N};
    float *both = malloc(2 * N * sizeof *both);
    unsigned char *saved = malloc(LM_STATE_SIZE);
    EXPECT(both && saved);
    memcpy(saved, state, LM_STATE_SIZE);
    EXPECT(lm_step_streams(NULL, next, 0, NULL, 0) == LM_OK);
    EXPECT(lm_step_streams(NULL, next, 2, both, 2 * N) == LM_ERROR_NULL);
    EXPECT(lm_step_streams(streams, NULL, 2, both, 2 * N) == LM_ERROR_NULL);
    EXPECT(lm_step_streams(streams, next, 2, NULL, 2 * N) == LM_ERROR_NULL);
    EXPECT(lm_step_streams(streams, next, 2, both, 2 * N - 1) == LM_ERROR_SIZE);
    EXPECT(lm_step_streams(streams, next, SIZE_MAX, both, 2 * N) == LM_ERROR_SIZE);
    EXPECT(lm_step_streams(streams, wrong, 2, both, 2 * N) == LM_ERROR_TOKEN);
    streams[1] = NULL;
    EXPECT(lm_step_streams(streams, next, 2, both, 2 * N) == LM_ERROR_NULL);
    streams[1] = copy + 4;
    EXPECT(lm_step_streams(streams, next, 2, both, 2 * N) == LM_ERROR_MISALIGNED);
    streams[1] = copy;
    EXPECT(!memcmp(saved, state, LM_STATE_SIZE));
    EXPECT(lm_step_streams(streams, next, 2, both, 2 * N) == LM_OK);
    memcpy(state, saved, LM_STATE_SIZE);
    EXPECT(lm_step(state, next[0], logits, N) == LM_OK && !memcmp(logits, both, N * sizeof *logits));
    free(both), free(saved);
    free(memory), free(other), free(logits), free(best), free(ids);
    return 0;
}
