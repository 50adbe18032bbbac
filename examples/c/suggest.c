/* A keyboard's suggestions: reads lines of words on standard input and prints the likeliest next words after each line.
 *
 *     lstmc build model.lstmc --name keyboard -o target/keyboard
 *     cc -O2 examples/c/suggest.c -I target/keyboard -L target/keyboard -lkeyboard -o target/suggest
 */
#include "keyboard.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUGGESTIONS = 3, LONGEST = 4096 };

/* All the memory that the model needs. */
static _Alignas(KEYBOARD_STATE_ALIGN) unsigned char state[KEYBOARD_STATE_SIZE];
static _Alignas(KEYBOARD_STATE_ALIGN) unsigned char ahead[KEYBOARD_STATE_SIZE];

static void check(int status, const char *what) {
    if (status != KEYBOARD_OK) {
        fprintf(stderr, "%s: status %d, see enum keyboard_status in keyboard.h\n", what, status);
        exit(1);
    }
}

int main(void) {
    char line[LONGEST];
    uint32_t last, ids[SUGGESTIONS];
    float log_probabilities[SUGGESTIONS];

    check(keyboard_reset(state, sizeof state, KEYBOARD_ABI_VERSION), "reset");
    /* A text begins as if a line had ended. */
    check(keyboard_token("<eos>", 5, &last), "<eos>");
    while (fgets(line, sizeof line, stdin)) {
        for (char *word = strtok(line, " \t\r\n"); word; word = strtok(NULL, " \t\r\n")) {
            check(keyboard_advance(state, last), "advance");
            /* A word that the model does not know is read as <unk>. */
            int status = keyboard_token(word, strlen(word), &last);
            if (status != KEYBOARD_ERROR_WORD)
                check(status, word);
        }
        /* Suggestions consume the last word too, so they are made in a copy of the state. */
        memcpy(ahead, state, sizeof state);
        check(keyboard_top_k(ahead, last, SUGGESTIONS, ids, log_probabilities), "top_k");
        for (int i = 0; i < SUGGESTIONS; i++)
            printf("%s%s", i ? " | " : "", keyboard_word(ids[i]));
        putchar('\n');
        fflush(stdout);
    }
    return 0;
}
