/* The language model of the beam search, over liblstmc: all hypotheses that go on take their step together. */
#include "lm.h"
#include <lstmc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lm {
    lstmc_model *model;
    lstmc_streams *streams;
    uint32_t *order, *numbers, *tokens; /* [hypotheses] */
};

static int checked(lstmc_status status) {
    if (status != LSTMC_OK)
        fprintf(stderr, "liblstmc: %s\n", lstmc_last_error());
    return status == LSTMC_OK;
}

lm_t *lm_open(const char *path, const char *begin, unsigned hypotheses) {
    lm_t *lm = calloc(1, sizeof *lm);
    const uint32_t first = 0;
    uint32_t token;
    if (!lm)
        return NULL;
    lm->order = calloc(hypotheses, sizeof *lm->order);
    lm->numbers = calloc(hypotheses, sizeof *lm->numbers);
    lm->tokens = calloc(hypotheses, sizeof *lm->tokens);
    if (lm->order && lm->numbers && lm->tokens && checked(lstmc_model_load(path, &lm->model)) &&
        checked(lstmc_streams_new(lm->model, hypotheses, &lm->streams)) &&
        checked(lstmc_model_token(lm->model, begin, strlen(begin), &token)) &&
        checked(lstmc_streams_step(lm->streams, &first, &token, 1)))
        return lm;
    lm_close(lm);
    return NULL;
}

void lm_close(lm_t *lm) {
    lstmc_streams_free(lm->streams);
    lstmc_model_free(lm->model);
    free(lm->order);
    free(lm->numbers);
    free(lm->tokens);
    free(lm);
}

uint32_t lm_find(const lm_t *lm, const char *word) {
    uint32_t token;
    return lstmc_model_token(lm->model, word, strlen(word), &token) == LSTMC_OK ? token : UINT32_MAX;
}

const char *lm_spell(const lm_t *lm, uint32_t token) { return lstmc_model_word(lm->model, token); }

float lm_next(lm_t *lm, unsigned hypothesis, uint32_t token) {
    float score = 0;
    checked(lstmc_streams_score(lm->streams, hypothesis, token, &score));
    return score;
}

void lm_extend(lm_t *lm, const unsigned *from, const uint32_t *tokens, unsigned n) {
    size_t count = 0;
    for (unsigned i = 0; i < n; i++) {
        lm->order[i] = from[i];
        if (tokens[i] != UINT32_MAX) {
            lm->numbers[count] = i;
            lm->tokens[count++] = tokens[i];
        }
    }
    checked(lstmc_streams_reorder(lm->streams, lm->order, n));
    checked(lstmc_streams_step(lm->streams, lm->numbers, lm->tokens, count));
}
