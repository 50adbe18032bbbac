/* Next words from a model file that is loaded at run time: load MODEL.lstmc, then words on standard input.
 *
 *     just install-c target/prefix
 *     cc -O2 examples/c/load.c $(PKG_CONFIG_PATH=target/prefix/lib/pkgconfig pkg-config --cflags --libs lstmc) -o target/load
 */
#include <lstmc.h>
#include <stdio.h>
#include <string.h>

enum { SUGGESTIONS = 3 };

int main(int argc, char **argv) {
    lstmc_model *model;
    lstmc_session *session;
    char word[4096];
    uint32_t last, ids[SUGGESTIONS];
    float log_probabilities[SUGGESTIONS];

    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL.lstmc\n", argv[0]);
        return 2;
    }
    if (lstmc_model_load(argv[1], &model) || lstmc_session_new(model, &session)
        || lstmc_model_token(model, "<eos>", 5, &last)) {
        fprintf(stderr, "%s\n", lstmc_last_error());
        return 1;
    }
    while (scanf("%4095s", word) == 1) {
        lstmc_session_advance(session, last);
        /* A word that the model does not know is read as <unk>. */
        lstmc_model_token(model, word, strlen(word), &last);
    }
    if (lstmc_session_top_k(session, last, SUGGESTIONS, ids, log_probabilities)) {
        fprintf(stderr, "%s\n", lstmc_last_error());
        return 1;
    }
    for (int i = 0; i < SUGGESTIONS; i++)
        printf("%s%s", i ? " | " : "", lstmc_model_word(model, ids[i]));
    putchar('\n');
    lstmc_session_free(session);
    lstmc_model_free(model);
    return 0;
}
