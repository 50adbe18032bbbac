/* Runs a model on tokens, which are u32 in a file:
 *     run logits TOKENS OUT    all logits after each token, f32
 *     run score TOKENS         perplexity, from the log-probability of each next token */
#include "lm.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Alignas(LM_STATE_ALIGN) unsigned char state[LM_STATE_SIZE];
static float logits[LM_VOCABULARY_SIZE];

int main(int argc, char **argv) {
    static uint32_t tokens[1 << 20];
    FILE *in = argc > 2 ? fopen(argv[2], "rb") : NULL;
    size_t n = in ? fread(tokens, sizeof *tokens, 1 << 20, in) : 0;
    int status = lm_reset(state, sizeof state, LM_ABI_VERSION);
    if (n < 2 || status)
        return 2;
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
    FILE *out = fopen(argv[3], "wb");
    for (size_t i = 0; i < n && !status; i++) {
        status = lm_step(state, tokens[i], logits, LM_VOCABULARY_SIZE);
        fwrite(logits, sizeof *logits, LM_VOCABULARY_SIZE, out);
    }
    return status || fclose(out);
}
