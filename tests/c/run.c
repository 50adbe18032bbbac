/* Runs a model on tokens, which are u32 in a file:
 *     run logits TOKENS OUT    the output after each token, f32: all logits, or the hidden vector
 *     run score TOKENS         perplexity, from the log-probability of each next token */
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

int main(int argc, char **argv) {
    static uint32_t tokens[1 << 20];
    FILE *in = argc > 2 ? fopen(argv[2], "rb") : NULL;
    size_t n = in ? fread(tokens, sizeof *tokens, 1 << 20, in) : 0;
    int status = lm_reset(state, sizeof state, LM_ABI_VERSION);
    if (n < 2 || status)
        return 2;
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
        status = lm_step(state, tokens[i], output, WIDTH);
        fwrite(output, sizeof *output, WIDTH, out);
    }
    return status || fclose(out);
}
