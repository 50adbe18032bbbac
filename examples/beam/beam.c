/* A prefix beam search as for CTC (Hannun et al. 2014), with shallow fusion of a language model.
 *
 *     beam MODEL.lstmc WIDTH WEIGHT BONUS < frames
 *
 * Each line of the input is a frame of an acoustic model: words with the natural logarithms of their probabilities, as in `the:-0.1 a:-2.4 -:-5`; `-` is the
 * blank. A hypothesis' score is the logarithm of the sum over its alignments, plus WEIGHT times the language model's, plus BONUS for each word. Prints the
 * best hypotheses with their scores. The output is the same whether the language model is loaded or linked: see lm.h. */
#include "lm.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_WORDS = 512, MOST_CANDIDATES = 64, LINE = 1 << 16 };
static const char BLANK[] = "-", BEGIN[] = "<eos>";

typedef struct {
    uint32_t words[MOST_WORDS];
    unsigned length;
    double blank, word; /* logarithms of the sums over alignments that end in a blank, and in a word */
    double language;    /* of the language model, weighted, and the bonus */
    unsigned from;      /* the hypothesis before it whose state it goes on from */
    uint32_t next;      /* the word that the language model is still to read, or UINT32_MAX */
} hypothesis;

typedef struct {
    uint32_t word; /* UINT32_MAX: blank */
    double score;
} candidate;

static double log_add(double a, double b) {
    double top = a > b ? a : b;
    return top == -INFINITY ? top : top + log(exp(a - top) + exp(b - top));
}

static double total(const hypothesis *h) { return log_add(h->blank, h->word) + h->language; }

static int by_total(const void *a, const void *b) {
    double x = total(a), y = total(b);
    return (x < y) - (x > y);
}

/* The hypothesis with these words: one that is there, whichever way it came about, or a new one. Null if there is no room. */
static hypothesis *place(hypothesis *all, unsigned *count, unsigned room, const hypothesis *of, uint32_t next) {
    unsigned length = of->length + (next != UINT32_MAX);
    hypothesis *h;
    if (length > MOST_WORDS)
        return NULL;
    for (unsigned i = 0; i < *count; i++) {
        h = &all[i];
        if (h->length == length && !memcmp(h->words, of->words, of->length * sizeof *h->words) &&
            (next == UINT32_MAX || h->words[length - 1] == next))
            return h;
    }
    if (*count == room)
        return NULL;
    h = &all[(*count)++];
    memcpy(h->words, of->words, of->length * sizeof *h->words);
    if (next != UINT32_MAX)
        h->words[length - 1] = next;
    h->length = length;
    h->blank = h->word = -INFINITY;
    h->language = of->language;
    h->next = next;
    return h;
}

/* Reads the candidates of a frame; returns their number, or -1 if the line is none. */
static int frame(const lm_t *lm, char *line, candidate *to) {
    int count = 0;
    for (char *field = strtok(line, " \t\r\n"); field; field = strtok(NULL, " \t\r\n")) {
        char *colon = strrchr(field, ':'), *end;
        if (!colon || count == MOST_CANDIDATES)
            return -1;
        *colon = 0;
        to[count].score = strtod(colon + 1, &end);
        if (*end || end == colon + 1 || isnan(to[count].score))
            return -1;
        to[count].word = strcmp(field, BLANK) ? lm_find(lm, field) : UINT32_MAX;
        if (strcmp(field, BLANK) && to[count].word == UINT32_MAX) {
            fprintf(stderr, "%s is not in the vocabulary\n", field);
            return -1;
        }
        count++;
    }
    return count;
}

/* All hypotheses after one frame. */
static unsigned advance(lm_t *lm, const hypothesis *beam, unsigned width, hypothesis *all, unsigned room,
                        const candidate *candidates, int count, double weight, double bonus) {
    unsigned made = 0;
    for (unsigned i = 0; i < width; i++) {
        const hypothesis *h = &beam[i];
        double both = log_add(h->blank, h->word);
        for (int c = 0; c < count; c++) {
            uint32_t word = candidates[c].word;
            double score = candidates[c].score;
            int again = word != UINT32_MAX && h->length && h->words[h->length - 1] == word;
            hypothesis *to;
            unsigned before = made;
            /* A blank, or the last word once more: the words stay. */
            if (word == UINT32_MAX || again) {
                if (!(to = place(all, &made, room, h, UINT32_MAX)))
                    continue;
                if (made > before)
                    to->from = i;
                if (word == UINT32_MAX)
                    to->blank = log_add(to->blank, both + score);
                else
                    to->word = log_add(to->word, h->word + score);
            }
            if (word == UINT32_MAX)
                continue;
            /* A new word; the same one as before only after a blank. */
            before = made;
            if (!(to = place(all, &made, room, h, word)))
                continue;
            if (made > before) {
                to->from = i;
                to->language = h->language + weight * lm_next(lm, i, word) + bonus;
            }
            to->word = log_add(to->word, (again ? h->blank : both) + score);
        }
    }
    return made;
}

int main(int argc, char **argv) {
    unsigned width = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0, live = 1, room, frames = 0;
    double weight = argc > 3 ? strtod(argv[3], NULL) : 0.5, bonus = argc > 4 ? strtod(argv[4], NULL) : 0;
    if (argc < 3 || argc > 5 || width < 1 || width > 256) {
        fprintf(stderr, "usage: %s MODEL.lstmc WIDTH [WEIGHT [BONUS]] < frames; WIDTH is 1 to 256\n", argv[0]);
        return 2;
    }
    room = width * (MOST_CANDIDATES + 1);
    lm_t *lm = lm_open(argv[1], BEGIN, width);
    hypothesis *beam = calloc(width, sizeof *beam), *all = calloc(room, sizeof *all);
    unsigned *from = calloc(width, sizeof *from);
    uint32_t *next = calloc(width, sizeof *next);
    char *line = malloc(LINE);
    candidate candidates[MOST_CANDIDATES];
    int status = !lm || !beam || !all || !from || !next || !line;
    if (!status)
        beam[0].word = -INFINITY; /* nothing so far, as after a blank */
    while (!status && fgets(line, LINE, stdin)) {
        int count = frame(lm, line, candidates);
        frames++;
        if (count < 0) {
            fprintf(stderr, "frame %u: expected up to %d of WORD:SCORE\n", frames, MOST_CANDIDATES);
            status = 1;
            break;
        }
        if (!count)
            continue;
        unsigned made = advance(lm, beam, live, all, room, candidates, count, weight, bonus);
        qsort(all, made, sizeof *all, by_total);
        live = made < width ? made : width;
        for (unsigned i = 0; i < live; i++) {
            beam[i] = all[i];
            from[i] = all[i].from;
            next[i] = all[i].next;
        }
        lm_extend(lm, from, next, live);
    }
    for (unsigned i = 0; !status && i < live && i < 5; i++) {
        printf("%.4f", total(&beam[i]));
        for (unsigned w = 0; w < beam[i].length; w++)
            printf(" %s", lm_spell(lm, beam[i].words[w]));
        printf("\n");
    }
    if (lm)
        lm_close(lm);
    free(beam), free(all), free(from), free(next), free(line);
    return status;
}
