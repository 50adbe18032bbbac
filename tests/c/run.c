/* Runs a model on tokens, which are u32 in a file:
 *     run logits TOKENS OUT    the output after each token, f32: all logits, or the hidden vector; of the last ones also
 *                              by steps of several streams, which must be the same
 *     run score TOKENS         perplexity, from the log-probability of each next token
 *     run info TOKENS          what the library says of itself */
#include "lm.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef LM_OUTPUT_SIZE
enum { WIDTH = LM_OUTPUT_SIZE };
#else
enum { WIDTH = LM_VOCABULARY_SIZE };
#endif

static _Alignas(LM_STATE_ALIGN) unsigned char state[LM_STATE_SIZE];
static float output[WIDTH];

/* The same step by two streams together, of which the second takes another. */
static _Alignas(LM_STATE_ALIGN) unsigned char others[2][LM_STATE_SIZE];
static float outputs[2 * WIDTH];

static int together(uint32_t token, uint32_t other) {
    void *const states[2] = {others[0], others[1]};
    const uint32_t tokens[2] = {token, other};
    memcpy(others[0], state, sizeof state);
    memcpy(others[1], state, sizeof state);
    return lm_step_streams(states, tokens, 2, outputs, 2 * WIDTH);
}

int main(int argc, char **argv) {
    static uint32_t tokens[1 << 16];
    FILE *in = argc > 2 ? fopen(argv[2], "rb") : NULL;
    size_t n = in ? fread(tokens, sizeof *tokens, 1 << 16, in) : 0;
    int status = lm_reset(state, sizeof state, LM_ABI_VERSION);
    if (n < 2 || status)
        return 2;
    if (!strcmp(argv[1], "info"))
        return puts(lm_info()) < 0;
#ifndef LM_OUTPUT_SIZE
    if (!strcmp(argv[1], "score")) {
        double sum = 0;
        for (size_t i = 0; i + 1 < n && !status; i++) {
            float score;
            status = lm_score(state, tokens[i], tokens[i + 1], &score);
            sum += score;
        }
        printf("%.6f\n", exp(-sum / (n - 1)));
        return status;
    }
#endif
    FILE *out = fopen(argv[3], "wb");
    for (size_t i = 0; i < n && !status; i++) {
        const int is_last = i + 4 >= n;
        if (is_last)
            status = together(tokens[i], tokens[0]);
        if (!status)
            status = lm_step(state, tokens[i], output, WIDTH);
        if (!status && is_last && memcmp(output, outputs, sizeof output))
            status = 100;
        fwrite(output, sizeof *output, WIDTH, out);
    }
    return status || fclose(out);
}
