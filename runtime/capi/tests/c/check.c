/* Uses liblstmc rightly and wrongly: check MODEL NOT_A_MODEL. Prints the sum of the log-probabilities of every word after every word. */
#include "lstmc.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                                                                   \
    do {                                                                                                    \
        if (!(condition)) {                                                                                 \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, lstmc_last_error());                \
            return 1;                                                                                       \
        }                                                                                                   \
    } while (0)

int main(int argc, char **argv) {
    lstmc_model *model = NULL;
    lstmc_session *session = NULL, *other = NULL;
    lstmc_streams *streams = NULL;
    const uint32_t some[3] = {2, 0, 2}, order[3] = {1, 1, 0};
    size_t found = 0;
    uint32_t token = 0, two[2] = {0, 0}, n, *ids;
    float *logits, *best, score = 0;
    double sum = 0, text = 0;

    EXPECT(argc == 3);
    EXPECT(lstmc_abi_version() == LSTMC_ABI_VERSION);
    EXPECT(strlen(lstmc_last_error()) == 0);
    EXPECT(lstmc_model_load(NULL, &model) == LSTMC_ERROR_NULL && !model);
    EXPECT(strstr(lstmc_last_error(), "path"));
    EXPECT(lstmc_model_load(argv[1], NULL) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_model_load(argv[2], &model) == LSTMC_ERROR_MODEL && !model);
    EXPECT(strlen(lstmc_last_error()) > 20);
    EXPECT(lstmc_model_load(argv[1], &model) == LSTMC_OK && model);
    n = lstmc_model_vocabulary_size(model);
    EXPECT(n > 1 && lstmc_model_vocabulary_size(NULL) == 0);
    EXPECT(strstr(lstmc_model_info(model), "\"recipe\"") && !lstmc_model_info(NULL));

    for (uint32_t i = 0; i < n; i++) {
        const char *word = lstmc_model_word(model, i);
        EXPECT(word && lstmc_model_token(model, word, strlen(word), &token) == LSTMC_OK && token == i);
    }
    EXPECT(!lstmc_model_word(model, n) && !lstmc_model_word(NULL, 0));
    EXPECT(lstmc_model_token(model, "no such word", 12, &token) == LSTMC_ERROR_WORD);
    EXPECT(lstmc_model_token(model, "\xff", 1, &token) == LSTMC_ERROR_WORD);
    EXPECT(lstmc_model_token(model, NULL, 0, &token) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_model_token(model, "x", 1, NULL) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_model_token(model, "x", SIZE_MAX, &token) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_model_token(model, "x", SIZE_MAX / 2 + 1, &token) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_model_token(model, "x", 1, (void *)((char *)two + 1)) == LSTMC_ERROR_MISALIGNED);
    /* The word lies where the token goes. */
    memcpy(two, "\xff\xff\xff\xff", 4);
    EXPECT(lstmc_model_token(model, (char *)two, 4, two) == LSTMC_ERROR_WORD && strlen(lstmc_last_error()) > 20);
    EXPECT(lstmc_model_load(argv[1], (void *)((char *)two + 1)) == LSTMC_ERROR_MISALIGNED);

    logits = malloc(n * sizeof *logits);
    best = malloc(n * sizeof *best);
    ids = malloc(n * sizeof *ids);
    EXPECT(logits && best && ids);
    EXPECT(lstmc_session_new(NULL, &session) == LSTMC_ERROR_NULL && !session);
    EXPECT(lstmc_session_new(model, NULL) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_session_new(model, &session) == LSTMC_OK && session);
    EXPECT(lstmc_session_new(model, &other) == LSTMC_OK && other);
    EXPECT(lstmc_streams_new(NULL, 3, &streams) == LSTMC_ERROR_NULL && !streams);
    EXPECT(lstmc_streams_new(model, 3, NULL) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_streams_new(model, SIZE_MAX, &streams) == LSTMC_ERROR_SIZE && !streams);
    EXPECT(lstmc_streams_new(model, 3, &streams) == LSTMC_OK && streams);
    /* Sessions and streams outlive the handle of their model. */
    lstmc_model_free(model);
    lstmc_model_free(NULL);

    EXPECT(lstmc_session_step(NULL, 0, logits, n) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_session_step(session, 0, NULL, n) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_session_step(session, 0, logits, n - 1) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_session_step(session, n, logits, n) == LSTMC_ERROR_TOKEN);
    EXPECT(lstmc_session_advance(session, UINT32_MAX) == LSTMC_ERROR_TOKEN);
    EXPECT(lstmc_session_score(session, 0, n, &score) == LSTMC_ERROR_TOKEN);
    EXPECT(lstmc_session_score(session, 0, 0, NULL) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_session_top_k(session, 0, 0, ids, best) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_session_top_k(session, 0, n + 1, ids, best) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_session_top_k(session, 0, 1, NULL, best) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_session_score_text(session, NULL, 1, &text) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_session_score_text(session, ids, SIZE_MAX, &text) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_session_score_text(session, ids, SIZE_MAX / sizeof *ids, &text) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_session_score_text(session, (void *)((char *)ids + 2), 1, &text) == LSTMC_ERROR_MISALIGNED);
    EXPECT(lstmc_session_score_text(session, ids, 1, (void *)((char *)&text + 1)) == LSTMC_ERROR_MISALIGNED);
    EXPECT(lstmc_session_step(session, 0, (void *)((char *)logits + 1), n) == LSTMC_ERROR_MISALIGNED);
    EXPECT(lstmc_session_step((void *)((char *)session + 1), 0, logits, n) == LSTMC_ERROR_MISALIGNED);
    /* Buffers that overlap, all of them or by one element; an error leaves them alone. */
    ids[0] = 7;
    EXPECT(lstmc_session_top_k(session, 0, 2, ids, (void *)ids) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_session_top_k(session, 0, 2, ids, (void *)(ids + 1)) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_session_top_k(session, 0, 2, ids + 1, (void *)ids) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_session_top_k(session, n, 2, ids, best) == LSTMC_ERROR_TOKEN && ids[0] == 7);

    /* Nothing of that was consumed: word by word, all at once, and by logits come to the same. */
    for (uint32_t i = 0; i < n; i++)
        ids[i] = i;
    EXPECT(lstmc_session_score_text(other, ids, n, &text) == LSTMC_OK);
    for (uint32_t i = 0; i + 1 < n; i++) {
        EXPECT(lstmc_session_score(session, i, i + 1, &score) == LSTMC_OK);
        sum += score;
    }
    EXPECT(fabs(sum / text - 1) < 1e-5);
    EXPECT(lstmc_session_reset(session) == LSTMC_OK && lstmc_session_reset(other) == LSTMC_OK);
    EXPECT(lstmc_session_advance(session, 1) == LSTMC_OK && lstmc_session_advance(other, 1) == LSTMC_OK);
    EXPECT(lstmc_session_step(session, 0, logits, n) == LSTMC_OK);
    EXPECT(lstmc_session_top_k(other, 0, n, ids, best) == LSTMC_OK);
    for (uint32_t i = 0; i < n; i++)
        EXPECT(fabs((logits[ids[i]] - logits[ids[0]]) - (best[i] - best[0])) < 1e-4);

    /* The best of some words are the best of all that begin so; what is no prefix has none. */
    EXPECT(lstmc_session_reset(session) == LSTMC_OK && lstmc_session_reset(other) == LSTMC_OK);
    EXPECT(lstmc_session_top_k(session, 0, n, ids, best) == LSTMC_OK);
    EXPECT(lstmc_session_top_k_prefix(other, 0, "", 0, 1, &token, &score, &found) == LSTMC_OK);
    EXPECT(found == 1 && token == ids[0] && fabs(score - best[0]) < 1e-5);
    EXPECT(lstmc_session_top_k_prefix(other, 0, "no such word", 12, 1, &token, &score, &found) == LSTMC_OK && !found);
    EXPECT(lstmc_session_top_k_prefix(other, 0, "\xff", 1, 1, &token, &score, &found) == LSTMC_ERROR_WORD);
    EXPECT(lstmc_session_top_k_prefix(other, 0, NULL, 0, 1, &token, &score, &found) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_session_top_k_prefix(other, 0, "a", 1, 0, &token, &score, &found) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_session_top_k_prefix(other, 0, "a", 1, 1, &token, &score, NULL) == LSTMC_ERROR_NULL);

    /* Streams: two of three take a step, one is copied over the others, and the last is a session that read the same. */
    EXPECT(lstmc_streams_step(NULL, some, ids, 2) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_streams_step(streams, some, ids, 3) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_streams_step(streams, some, NULL, 2) == LSTMC_ERROR_NULL);
    EXPECT(lstmc_streams_reset(streams, 3) == LSTMC_ERROR_SIZE && lstmc_streams_copy(streams, 0, 3) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_streams_reorder(streams, some, 4) == LSTMC_ERROR_SIZE);
    ids[0] = 1, ids[1] = n;
    EXPECT(lstmc_streams_step(streams, some, ids, 2) == LSTMC_ERROR_TOKEN);
    ids[1] = 0;
    EXPECT(lstmc_streams_step(streams, some, ids, 2) == LSTMC_OK);
    EXPECT(lstmc_streams_copy(streams, 2, 1) == LSTMC_OK && lstmc_streams_reorder(streams, order, 3) == LSTMC_OK);
    EXPECT(lstmc_streams_step(streams, order, ids, 1) == LSTMC_OK && lstmc_streams_reset(streams, 2) == LSTMC_OK);
    EXPECT(lstmc_session_reset(session) == LSTMC_OK && lstmc_session_advance(session, 1) == LSTMC_OK);
    EXPECT(lstmc_session_step(session, 1, logits, n) == LSTMC_OK);
    EXPECT(lstmc_streams_output(streams, 1, best, n - 1) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_streams_output(streams, 1, best, n) == LSTMC_OK);
    for (uint32_t i = 0; i < n; i++)
        EXPECT(fabs(logits[i] - best[i]) < 1e-4);
    EXPECT(lstmc_streams_top_k(streams, 1, n + 1, ids, best) == LSTMC_ERROR_SIZE);
    EXPECT(lstmc_streams_top_k(streams, 1, n, ids, best) == LSTMC_OK);
    EXPECT(lstmc_streams_score(streams, 1, n, &score) == LSTMC_ERROR_TOKEN);
    EXPECT(lstmc_streams_score(streams, 1, ids[1], &score) == LSTMC_OK && fabs(score - best[1]) < 1e-5);
    lstmc_streams_free(streams);
    lstmc_streams_free(NULL);
    lstmc_session_free(session);
    lstmc_session_free(other);
    lstmc_session_free(NULL);
    free(logits), free(best), free(ids);
    printf("%.6f\n", sum);
    return 0;
}
