/* The language model of the beam search, linked into the program: lstmc build MODEL --name lm. States are plain memory and are copied; all hypotheses
 * that go on take their step together. */
#include "lm.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lm_model.h>

struct lm {
    unsigned hypotheses;
    unsigned char *states, *old_states; /* [hypotheses][size] */
    float *scores, *old_scores;         /* [hypotheses][words], log-probabilities */
    float *logits;                      /* [hypotheses][words], of those that take a step */
    void **stepped;                     /* their states, */
    uint32_t *tokens;                   /* the tokens that they read, */
    unsigned *numbers;                  /* and which they are */
    void *memory[2];
};

static size_t size(void) { return (lm_model_state_size() + 63) / 64 * 64; }

/* Takes a step of the first n of those that lm->numbers lists, and keeps the log-probabilities of what may come next. */
static void step(lm_t *lm, unsigned n) {
    const size_t words = lm_model_vocabulary_size();
    if (lm_model_step_streams(lm->stepped, lm->tokens, n, lm->logits, lm->hypotheses * words) != LM_MODEL_OK) {
        fprintf(stderr, "a token has no place in the model\n");
        return;
    }
    for (unsigned k = 0; k < n; k++) {
        const float *logits = lm->logits + k * words;
        float *row = lm->scores + lm->numbers[k] * words, top = logits[0];
        double sum = 0;
        for (size_t i = 1; i < words; i++)
            top = logits[i] > top ? logits[i] : top;
        for (size_t i = 0; i < words; i++)
            sum += exp(logits[i] - top);
        for (size_t i = 0; i < words; i++)
            row[i] = (float)(logits[i] - top - log(sum));
    }
}

/* Hypothesis number i is the k-th that takes a step. */
static void enlist(lm_t *lm, unsigned k, unsigned i, uint32_t token) {
    lm->stepped[k] = lm->states + i * size();
    lm->tokens[k] = token;
    lm->numbers[k] = i;
}

lm_t *lm_open(const char *path, const char *begin, unsigned hypotheses) {
    const size_t words = lm_model_vocabulary_size();
    lm_t *lm = calloc(1, sizeof *lm);
    uint32_t token;
    (void)path;
    if (!lm)
        return NULL;
    lm->hypotheses = hypotheses;
    for (int i = 0; i < 2; i++)
        lm->memory[i] = calloc(hypotheses * size() + 64, 1);
    lm->scores = calloc(hypotheses * words, sizeof *lm->scores);
    lm->old_scores = calloc(hypotheses * words, sizeof *lm->old_scores);
    lm->logits = calloc(hypotheses * words, sizeof *lm->logits);
    lm->stepped = calloc(hypotheses, sizeof *lm->stepped);
    lm->tokens = calloc(hypotheses, sizeof *lm->tokens);
    lm->numbers = calloc(hypotheses, sizeof *lm->numbers);
    if (lm->memory[0] && lm->memory[1] && lm->scores && lm->old_scores && lm->logits && lm->stepped && lm->tokens &&
        lm->numbers) {
        lm->states = (unsigned char *)(((uintptr_t)lm->memory[0] + 63) / 64 * 64);
        lm->old_states = (unsigned char *)(((uintptr_t)lm->memory[1] + 63) / 64 * 64);
        if (lm_model_reset(lm->states, lm_model_state_size(), LM_MODEL_ABI_VERSION) == LM_MODEL_OK &&
            lm_model_token(begin, strlen(begin), &token) == LM_MODEL_OK) {
            enlist(lm, 0, 0, token);
            step(lm, 1);
            return lm;
        }
        fprintf(stderr, "the linked model has no word %s\n", begin);
    }
    lm_close(lm);
    return NULL;
}

void lm_close(lm_t *lm) {
    free(lm->memory[0]);
    free(lm->memory[1]);
    free(lm->scores);
    free(lm->old_scores);
    free(lm->logits);
    free(lm->stepped);
    free(lm->tokens);
    free(lm->numbers);
    free(lm);
}

uint32_t lm_find(const lm_t *lm, const char *word) {
    uint32_t token;
    (void)lm;
    return lm_model_token(word, strlen(word), &token) == LM_MODEL_OK ? token : UINT32_MAX;
}

const char *lm_spell(const lm_t *lm, uint32_t token) {
    (void)lm;
    return lm_model_word(token);
}

float lm_next(lm_t *lm, unsigned hypothesis, uint32_t token) {
    return lm->scores[hypothesis * lm_model_vocabulary_size() + token];
}

void lm_extend(lm_t *lm, const unsigned *from, const uint32_t *tokens, unsigned n) {
    const size_t words = lm_model_vocabulary_size();
    unsigned char *states = lm->states;
    float *scores = lm->scores;
    unsigned count = 0;
    lm->states = lm->old_states, lm->old_states = states;
    lm->scores = lm->old_scores, lm->old_scores = scores;
    for (unsigned i = 0; i < n; i++) {
        memcpy(lm->states + i * size(), states + from[i] * size(), size());
        if (tokens[i] != UINT32_MAX)
            enlist(lm, count++, i, tokens[i]);
        else
            memcpy(lm->scores + i * words, scores + from[i] * words, words * sizeof *scores);
    }
    step(lm, count);
}
