/* What a beam search asks of a language model: scores of next words, for hypotheses that go on from each other. lm_liblstmc.c does it with a model file
 * that is loaded at run time, and takes steps of all hypotheses together; lm_linked.c with a model that is linked into the program. */
#ifndef LM_INTERFACE_H
#define LM_INTERFACE_H

#include <stdint.h>

typedef struct lm lm_t;

/* A model and room for this many hypotheses, of which the first has read the token begin. path is ignored by a linked model. Null after an error,
 * which was printed. */
lm_t *lm_open(const char *path, const char *begin, unsigned hypotheses);
void lm_close(lm_t *lm);

/* The token of a word; UINT32_MAX if it has none. */
uint32_t lm_find(const lm_t *lm, const char *word);
/* The word of a token. */
const char *lm_spell(const lm_t *lm, uint32_t token);
/* The natural log-probability that a token comes next in a hypothesis. */
float lm_next(lm_t *lm, unsigned hypothesis, uint32_t token);
/* Replaces the hypotheses by n others: the i-th goes on from the one that is the from[i]-th now, after one more token, or none if tokens[i] is
 * UINT32_MAX. */
void lm_extend(lm_t *lm, const unsigned *from, const uint32_t *tokens, unsigned n);

#endif
